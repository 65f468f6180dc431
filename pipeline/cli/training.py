"""The commands `train`, `tune` and `evaluate`: make models and measure them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from streamgauge.pipeline.training.search_space import in_words

LAYOUT_HELP = "Folder with <entity>.train and .test.parquet files, or in the layout of NAB."
DataOption = Annotated[
    Path, typer.Option(help="Folder with <entity>.train.parquet files, or in the layout of NAB.")
]
OutOption = Annotated[
    Path, typer.Option(help="Folder of the artifact; an existing artifact is replaced at the end.")
]
EpochsOption = Annotated[int, typer.Option(help="Maximum number of passes over the data.")]
HeldOutOption = Annotated[float, typer.Option(help="Share of each series for the calibration.")]
LogOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for metrics.jsonl and TensorBoard files. "
        "[default: OUT.partial, removed at the end]"
    ),
]
TUNE_HELP = (
    "Search for better settings, then train with them; resumable. "
    f"Trials are judged on held-out train data; test data is never read. Searched: {in_words()}."
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(epilog="Example: streamgauge train --data DIR --out artifact")(train)
    app.command(
        help=TUNE_HELP,
        epilog="Example: streamgauge tune --data DIR --out artifact --trials 30 --minutes 60",
    )(tune)
    app.command(epilog="Example: streamgauge evaluate --data DIR --artifact artifact --json")(
        evaluate
    )


def train(
    *,
    data: DataOption,
    out: OutOption,
    hidden: Annotated[int, typer.Option(help="Size of the hidden state of the GRU.")] = 64,
    epochs: EpochsOption = 16,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    rows: Annotated[int, typer.Option(help="Pieces of series per batch.")] = 192,
    chunk: Annotated[int, typer.Option(help="Events per chunk of back-propagation.")] = 64,
    channel_drop: Annotated[
        float, typer.Option(help="Share of features that are masked in training.")
    ] = 0.1,
    noise: Annotated[
        float, typer.Option(help="Noise added in training, in standard deviations.")
    ] = 0.1,
    held_out: HeldOutOption = 0.25,
    seed: Annotated[int, typer.Option(help="Seed of weights and order; part of the artifact.")] = 0,
    log_dir: LogOption = None,
) -> None:
    """Train and calibrate a model; resumable after an interruption."""
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
    fit(data, out, settings, log_dir=log_dir)
    print(out)


def tune(
    *,
    data: DataOption,
    out: OutOption,
    trials: Annotated[
        int, typer.Option(help="Total trials of the study, earlier runs included.")
    ] = 20,
    study: Annotated[
        Path | None, typer.Option(help="SQLite file of the study. [default: OUT.study.sqlite]")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Start no trial after this many minutes. [default: no limit]"),
    ] = None,
    epochs: EpochsOption = 16,
    held_out: HeldOutOption = 0.25,
    seed: Annotated[int, typer.Option(help="Seed of the search and of every trial.")] = 0,
    log_dir: LogOption = None,
) -> None:
    """Search for better settings, then train with them; `--help` shows `TUNE_HELP`."""
    from streamgauge.models.training.trainer import TrainingSettings
    from streamgauge.pipeline.training.tune import Plan
    from streamgauge.pipeline.training.tune import tune as search

    plan = Plan(trials, minutes, TrainingSettings(epochs=epochs, held_out=held_out, seed=seed))
    file = study or out.with_name(f"{out.name}.study.sqlite")
    for line in search(data, out, file, plan=plan, log_dir=log_dir).lines():
        print(line)
    print(out)


def evaluate(
    *,
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with <entity>.train and .test.parquet files, or in the layout of NAB."
        ),
    ],
    artifact: Annotated[
        Path | None,
        typer.Option(help="Artifact to evaluate. [default: train one on the train part]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for artifact and results.")] = Path(
        "build/evaluate"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="Also print one JSON object, as the last line.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(help="Processes for the baselines. [default: one per core]", min=1)
    ] = None,
) -> None:
    """Measure detection on labelled data, and compare it with simple baselines."""
    from streamgauge.pipeline.evaluation.evaluate import evaluate as measure
    from streamgauge.pipeline.evaluation.results import lines

    evaluation = measure(data, artifact, out, processes=processes)
    for line in lines(evaluation):
        print(line)
    if as_json:
        print(json.dumps(evaluation.headline()))
