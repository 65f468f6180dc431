"""Commands that make models and measure them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from streamgauge.pipeline.console.progress import to_stderr
from streamgauge.pipeline.training.search_space import in_words

DataOption = Annotated[Path, typer.Option(help="Folder with <entity>.train.parquet files, or NAB.")]
OutOption = Annotated[Path, typer.Option(help="Folder of the artifact, replaced when it is done.")]
EpochsOption = Annotated[int, typer.Option(help="Passes over the data at most.")]
HeldOutOption = Annotated[float, typer.Option(help="Share of each series kept to calibrate.")]
LogOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for metrics.jsonl and TensorBoard files. "
        "[default: OUT.partial, removed when it is done]"
    ),
]
TUNE_HELP = (
    "Search for better settings, then train with them; started again, it goes on. "
    f"Judged on held-out train data; test data is never read. Searched: {in_words()}."
)


def add_to(app: typer.Typer) -> None:
    """Make the commands those of `app`."""
    app.command(epilog="Example: streamgauge train --data DIR --out artifact")(train)
    app.command(
        help=TUNE_HELP,
        epilog="Example: streamgauge tune --data DIR --out artifact --trials 30 --minutes 60",
    )(tune)
    app.command(epilog="Example: streamgauge evaluate --data DIR --artifact artifact --json")(
        evaluate
    )


def train(
    data: DataOption,
    out: OutOption,
    hidden: Annotated[int, typer.Option(help="Width of the GRU.")] = 64,
    epochs: EpochsOption = 16,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    rows: Annotated[int, typer.Option(help="Pieces of series trained side by side.")] = 192,
    chunk: Annotated[int, typer.Option(help="Events per chunk of back-propagation.")] = 64,
    channel_drop: Annotated[
        float, typer.Option(help="Share of features hidden in training.")
    ] = 0.1,
    noise: Annotated[float, typer.Option(help="Noise in training, in standard deviations.")] = 0.1,
    held_out: HeldOutOption = 0.25,
    seed: Annotated[int, typer.Option(help="Of weights and order; part of the artifact.")] = 0,
    log_dir: LogOption = None,
) -> None:
    """Train and calibrate a model; started again after an interruption, it goes on."""
    from streamgauge.models.training.trainer import TrainingSettings
    from streamgauge.pipeline.training.train import train as fit

    settings = TrainingSettings(
        hidden=hidden,
        epochs=epochs,
        learning_rate=learning_rate,
        rows=rows,
        chunk=chunk,
        channel_drop=channel_drop,
        noise=noise,
        held_out=held_out,
        seed=seed,
    )
    fit(data, out, settings, to_stderr, log_dir=log_dir)
    print(out)


def tune(
    data: DataOption,
    out: OutOption,
    trials: Annotated[
        int, typer.Option(help="In the study altogether, those of earlier calls included.")
    ] = 20,
    study: Annotated[
        Path | None, typer.Option(help="SQLite file of the study. [default: OUT.study.sqlite]")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="No trial begins later. [default: no limit]")
    ] = None,
    epochs: EpochsOption = 16,
    held_out: HeldOutOption = 0.25,
    seed: Annotated[int, typer.Option(help="Of the search and of every training in it.")] = 0,
    log_dir: LogOption = None,
) -> None:
    """Search for better settings, then train with them; `TUNE_HELP` is what a user sees."""
    from streamgauge.models.training.trainer import TrainingSettings
    from streamgauge.pipeline.training.tune import Plan
    from streamgauge.pipeline.training.tune import tune as search

    plan = Plan(trials, minutes, TrainingSettings(epochs=epochs, held_out=held_out, seed=seed))
    file = study or out.with_name(f"{out.name}.study.sqlite")
    for line in search(data, out, file, plan, to_stderr, log_dir).lines():
        print(line)
    print(out)


def evaluate(
    data: Annotated[
        Path, typer.Option(help="Folder with <entity>.train and .test.parquet files, or NAB.")
    ],
    artifact: Annotated[
        Path | None, typer.Option(help="Score with this one. [default: train on the train part]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for artifact and figures.")] = Path(
        "build/evaluate"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object more, as the last line.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(help="For the baselines. [default: one per core]", min=1)
    ] = None,
) -> None:
    """Measure detection on labelled data, beside what simple detectors reach on it."""
    from streamgauge.pipeline.evaluation.evaluate import evaluate as measure
    from streamgauge.pipeline.evaluation.results import lines

    found = measure(data, artifact, out, processes, to_stderr)
    for line in lines(found):
        print(line)
    if as_json:
        print(json.dumps(found.headline()))
