"""Commands that make models and measure them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.progress import say


def add_to(app: typer.Typer) -> None:
    """Make the commands those of `app`."""
    app.command(epilog="Example: streamgauge train --data DIR --out artifact")(train)
    app.command(epilog="Example: streamgauge evaluate --data DIR --artifact artifact --json")(
        evaluate
    )


def train(
    data: Annotated[Path, typer.Option(help="Folder with <entity>.train.parquet files, or NAB.")],
    out: Annotated[Path, typer.Option(help="Folder of the artifact, replaced when it is done.")],
    hidden: Annotated[int, typer.Option(help="Width of the GRU.")] = 64,
    epochs: Annotated[int, typer.Option(help="Passes over the data at most.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    held_out: Annotated[float, typer.Option(help="Share of each series kept to calibrate.")] = 0.25,
    seed: Annotated[int, typer.Option(help="Of weights and order; part of the artifact.")] = 0,
) -> None:
    """Train and calibrate a model; started again after an interruption, it goes on."""
    from models.training import TrainingSettings
    from pipeline.train import train as fit

    settings = TrainingSettings(
        hidden=hidden, epochs=epochs, learning_rate=learning_rate, held_out=held_out, seed=seed
    )
    fit(data, out, settings, say)
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
    from pipeline.evaluate import evaluate as measure
    from pipeline.verdict import lines

    found = measure(data, artifact, out, processes, say)
    for line in lines(found):
        print(line)
    if as_json:
        print(json.dumps(found.headline()))
