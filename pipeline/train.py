"""`streamgauge train`: from a folder of telemetry to an artifact, able to go on where it stopped.

While it runs, `<out>.partial/` holds the last finished epoch: tensors as safetensors,
the rest as JSON. The next call with the same data and settings goes on from there; it is
removed when the artifact is written.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from models import artifact, fitting
from models.errors import ConfigError
from models.fitting import Prepared
from models.kernel import ForecasterSpec
from models.training import Progress, Sequences, Trainer, TrainingSettings, cut
from pipeline.datasets import Dataset, load
from pipeline.progress import Say, progress, say

PARTIAL_STATE = "state.json"
PARTIAL_TENSORS = "tensors.safetensors"
STEPS_PER_EPOCH = 100  # of the progress bar
PIECE_CHUNKS_MIN = 2  # a piece shorter than this would hardly carry its hidden


def train(
    data: Path,
    out: Path,
    settings: TrainingSettings | None = None,
    tell: Say = say,
    cadence_s: float | None = None,
) -> str:
    """Train on the train part of `data`, calibrate, and write the artifact `out`.

    Args:
        data: a folder in a layout of `pipeline.datasets`.
        out: directory of the artifact; an artifact already there is replaced.
        settings: None for the defaults.
        tell: gets one line per step that a reader wants to know of.
        cadence_s: distance of invented times, see `pipeline.datasets.load`.

    Returns:
        The artifact's digest.

    Raises:
        ConfigError: data or settings are not usable, or a partial training at
            `<out>.partial` belongs to other data or settings.
        TrainingError: training cannot go on.
    """
    settings = settings or TrainingSettings()
    dataset = load(data, "train", cadence_s=cadence_s)
    tell(
        f"train: {len(dataset.series)} entities, {dataset.events:,} events, "
        f"{dataset.schema.size} features from {data}"
    )
    spec = ForecasterSpec(hidden=settings.hidden, lags=settings.lags)
    prepared = fitting.prepare(dataset.schema, dataset.series, spec, settings.held_out)
    trainer = _fit(prepared, settings, dataset, out.with_name(out.name + ".partial"), tell)
    digest = _finish(prepared, trainer, spec, dataset, out, tell)
    shutil.rmtree(out.with_name(out.name + ".partial"), ignore_errors=True)
    tell(f"train: artifact {out}, version {digest}")
    return digest


def _fit(
    prepared: Prepared, settings: TrainingSettings, dataset: Dataset, partial: Path, tell: Say
) -> Trainer:
    """Run the epochs, saving after each."""
    trainer = Trainer(settings, *_sequences(prepared, settings))
    identity = {"data_hash": dataset.content_hash, "settings": asdict(settings)}
    if _restore(partial, identity, trainer):
        tell(f"train: going on after epoch {trainer.progress.epoch} of {partial}")
    total = settings.epochs * STEPS_PER_EPOCH
    with progress("train", total, tell, unit="steps") as advance:
        advance(trainer.progress.epoch * STEPS_PER_EPOCH)
        while not trainer.is_done:
            trainer.run_epoch(_within_epoch(advance))
            _save(partial, identity, trainer)
    at = trainer.progress
    tell(
        f"train: {at.epoch} epochs, held-out loss {at.best_loss:.4f} at epoch {at.best_epoch + 1}, "
        f"{at.skipped} steps skipped"
    )
    return trainer


def _sequences(prepared: Prepared, settings: TrainingSettings) -> tuple[Sequences, Sequences]:
    """Pieces to learn from and pieces to stop by, of equal length."""
    length_min = PIECE_CHUNKS_MIN * settings.chunk
    train_rows = settings.rows
    held_out_rows = max(1, int(train_rows * settings.held_out))
    return (
        cut(prepared.train_z, prepared.train_linear, train_rows, length_min),
        cut(prepared.held_out_z, prepared.held_out_linear, held_out_rows, length_min),
    )


def _within_epoch(advance: Callable[[int], None]) -> Callable[[float], None]:
    """Turn shares of an epoch into whole steps of the bar."""
    told = 0

    def step(share: float) -> None:
        nonlocal told
        now = int(share * STEPS_PER_EPOCH)
        advance(now - told)
        told = now

    return step


def _finish(
    prepared: Prepared,
    trainer: Trainer,
    spec: ForecasterSpec,
    dataset: Dataset,
    out: Path,
    tell: Say,
) -> str:
    """Calibrate on the held-out tail, fit the statistics on everything, write."""
    tell("train: calibrating on the held-out events")
    held_out = fitting.build(prepared, spec, trainer.best_weights())
    held_out, calibration, reference = fitting.calibrate(prepared, held_out)
    forecaster = fitting.rebuild_on_all(prepared, held_out)
    washout = fitting.washout_events(prepared, forecaster, trainer.settings.seed)
    return artifact.write(
        out, forecaster, calibration, reference, washout, _training_record(trainer, dataset)
    )


def _training_record(trainer: Trainer, dataset: Dataset) -> dict[str, Any]:
    """What the manifest says about how the artifact was made."""
    at = trainer.progress
    return {
        "data": {
            "name": dataset.name,
            "hash": dataset.content_hash,
            "entities": len(dataset.series),
            "events": dataset.events,
            "cadence_us": dataset.cadence_us,
        },
        "settings": asdict(trainer.settings),
        "epochs": at.epoch,
        "best_epoch": at.best_epoch,
        "held_out_loss": at.best_loss,
        "steps_skipped": at.skipped,
        "loss_history": [[round(one, 5), round(two, 5)] for one, two in at.history],
        "torch": torch.__version__,
    }


def _save(partial: Path, identity: dict[str, Any], trainer: Trainer) -> None:
    """Keep the epoch just finished; the state file comes last and names the tensors."""
    partial.mkdir(parents=True, exist_ok=True)
    numbered = partial / f"{trainer.progress.epoch:05d}.{PARTIAL_TENSORS}"
    save_file(trainer.tensors(), numbered)
    state = {**identity, "progress": trainer.progress.to_json(), "tensors": numbered.name}
    fresh = partial / f"{PARTIAL_STATE}.new"
    fresh.write_text(json.dumps(state))
    os.replace(fresh, partial / PARTIAL_STATE)
    for old in partial.glob(f"*.{PARTIAL_TENSORS}"):
        if old != numbered:
            old.unlink()


def _restore(partial: Path, identity: dict[str, Any], trainer: Trainer) -> bool:
    """Go on from `partial` if there is one; refuse one of other data or settings."""
    path = partial / PARTIAL_STATE
    if not path.is_file():
        return False
    try:
        state = json.loads(path.read_text())
        found = {name: state[name] for name in identity}
        if found != json.loads(json.dumps(identity)):
            raise ConfigError(
                f"train: {partial} belongs to a training on other data or with other settings: "
                f"{_difference(found, identity)}; remove it to begin anew"
            )
        tensors = load_file(partial / state["tensors"])
        trainer.restore(tensors, Progress.from_json(state["progress"]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"train: {partial} must hold a stopped training; got {type(error).__name__}: {error}; "
            "remove it to begin anew"
        ) from error
    return True


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Which parts of the identity differ, as text."""
    there = {"data_hash": found["data_hash"], **found["settings"]}
    here = {"data_hash": expected["data_hash"], **expected["settings"]}
    names = sorted(set(there) | set(here))
    return ", ".join(
        f"{name} was {there.get(name)!r}, now {here.get(name)!r}"
        for name in names
        if there.get(name) != here.get(name)
    )
