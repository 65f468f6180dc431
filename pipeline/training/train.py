"""`streamgauge train`: from a folder of telemetry to an artifact, able to go on where it stopped.

While it runs, `<out>.partial/` holds the last finished epoch: tensors as safetensors,
the rest as JSON, and the curves unless another folder is named for them. The next call
with the same data and settings goes on from there; it is removed when the artifact is
written.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from streamgauge.models.alerts.calibration import SCORES_MIN
from streamgauge.models.artifacts import artifact
from streamgauge.models.errors import ConfigError, TrainingError
from streamgauge.models.forecast.spec import ForecasterSpec
from streamgauge.models.training import fit
from streamgauge.models.training.fit import Prepared
from streamgauge.models.training.trainer import (
    Progress,
    Sequences,
    Step,
    Trainer,
    TrainingSettings,
    cut,
)
from streamgauge.pipeline.console.progress import Advance, Narrate, progress, to_stderr
from streamgauge.pipeline.data.datasets import Dataset, load
from streamgauge.pipeline.training.curves import Curves

PARTIAL_STATE = "state.json"
PARTIAL_TENSORS = "tensors.safetensors"
STEPS_PER_EPOCH = 100  # of the progress bar
PIECE_CHUNKS_MIN = 2  # a piece shorter than this would hardly carry its hidden


def train(
    data: Path,
    out: Path,
    settings: TrainingSettings | None = None,
    narrate: Narrate = to_stderr,
    cadence_s: float | None = None,
    log_dir: Path | None = None,
    search: Mapping[str, Any] | None = None,
) -> str:
    """Train on the train part of `data`, calibrate, and write the artifact `out`.

    Args:
        data: a folder in a layout of `pipeline.data.datasets`.
        out: directory of the artifact; an artifact already there is replaced.
        settings: None for the defaults.
        narrate: gets one line per step that a reader wants to know of.
        cadence_s: distance of invented times, see `pipeline.datasets.load`.
        log_dir: where `metrics.jsonl` and TensorBoard's files go, see `pipeline.training.curves`;
            None for `<out>.partial`, with which they are removed.
        search: how the settings were found, for the manifest; plain JSON types.

    Returns:
        The artifact's digest.

    Raises:
        ConfigError: data, settings or `out` are not usable, or a partial training at
            `<out>.partial` belongs to other data or settings.
        TrainingError: training cannot go on.
    """
    settings = settings or TrainingSettings()
    check_out(out)
    dataset = load(data, "train", cadence_s=cadence_s)
    narrate(
        f"train: {len(dataset.series)} entities, {dataset.events:,} events, "
        f"{dataset.schema.size} features from {data}"
    )
    spec = ForecasterSpec(hidden=settings.hidden, lags=settings.lags)
    prepared = fit.prepare(dataset.schema, dataset.series, spec, settings.held_out)
    check_held_out(prepared)
    partial = out.with_name(out.name + ".partial")
    trainer = _fit(prepared, settings, dataset, partial, log_dir or partial, narrate)
    record = _training_record(trainer, dataset, search)
    digest = _finish(prepared, trainer, spec, record, out, narrate)
    shutil.rmtree(partial, ignore_errors=True)
    narrate(f"train: artifact {out}, version {digest}")
    return digest


def check_out(out: Path) -> None:
    """Refuse, before any work, what an artifact could not be written to.

    Raises:
        ConfigError: `out` is no name for a folder, or is there and not an artifact.
    """
    if out.name in ("", ".."):
        raise ConfigError(f"train: out must name a folder; got {str(out)!r}")
    if out.exists() and not (out / artifact.MANIFEST).is_file():
        raise ConfigError(f"train: {out} exists and is not an artifact; not replaced")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"train: {out.parent} must be a folder; {error.strerror}") from error
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"train: {out.parent} must be a folder that can be written")


def check_held_out(prepared: Prepared) -> None:
    """Refuse, before any training, data whose held-out part is too small to calibrate on.

    Raises:
        TrainingError: names how many events are needed and how many there are.
    """
    tails = [len(z) for z in prepared.held_out_z]
    scores = sum(tail - min(fit.SETTLING_EVENTS, tail // 2) for tail in tails)
    if scores < SCORES_MIN:
        raise TrainingError(
            f"train: held-out parts must give at least {SCORES_MIN} scores to calibrate on; they "
            f"give {scores} in {len(tails)} series; bring more data or a larger held-out share"
        )


def learned_pieces(prepared: Prepared, settings: TrainingSettings) -> Sequences:
    """Pieces to learn from."""
    length_min = PIECE_CHUNKS_MIN * settings.chunk
    return cut(prepared.train_z, prepared.train_linear, settings.rows, length_min)


def held_out_pieces(
    z: Sequence[np.ndarray], linear: Sequence[np.ndarray], settings: TrainingSettings, share: float
) -> Sequences:
    """Pieces to judge by, of the length of those to learn from.

    Args:
        z: held-out standard values per series.
        linear: the linear forecasts of them.
        settings: of the training.
        share: how much of the held-out part that is.
    """
    rows = max(1, int(settings.rows * settings.held_out * share))
    return cut(z, linear, rows, PIECE_CHUNKS_MIN * settings.chunk)


def _fit(
    prepared: Prepared,
    settings: TrainingSettings,
    dataset: Dataset,
    partial: Path,
    log_dir: Path,
    narrate: Narrate,
) -> Trainer:
    """Run the epochs, saving after each."""
    held_out = held_out_pieces(prepared.held_out_z, prepared.held_out_linear, settings, 1.0)
    trainer = Trainer(settings, learned_pieces(prepared, settings), held_out)
    identity = {
        "data_hash": dataset.content_hash,
        "precision": trainer.precision,
        "settings": asdict(settings),
    }
    if _restore(partial, identity, trainer):
        narrate(f"train: going on after epoch {trainer.progress.epoch} of {partial}")
    total = settings.epochs * STEPS_PER_EPOCH
    with (
        Curves(log_dir, trainer.progress) as curves,
        progress("train", total, narrate, unit="steps") as advance,
    ):
        advance(trainer.progress.epoch * STEPS_PER_EPOCH)
        while not trainer.is_done:
            trainer.run_epoch(within_epoch(advance, curves.step))
            curves.epoch(trainer.progress)
            _save(partial, identity, trainer)
    at = trainer.progress
    narrate(
        f"train: {at.epoch} epochs, held-out loss {at.best_loss:.4f} at epoch {at.best_epoch + 1}, "
        f"{at.skipped} steps skipped"
    )
    return trainer


def within_epoch(
    advance: Advance, watch: Callable[[Step], None] = lambda step: None
) -> Callable[[Step], None]:
    """Turn the steps of one epoch into steps of a bar, `STEPS_PER_EPOCH`; pass them on."""
    told = 0

    def take(step: Step) -> None:
        nonlocal told
        watch(step)
        now = int(step.share * STEPS_PER_EPOCH)
        advance(now - told)
        told = now

    return take


def _finish(
    prepared: Prepared,
    trainer: Trainer,
    spec: ForecasterSpec,
    record: dict[str, Any],
    out: Path,
    narrate: Narrate,
) -> str:
    """Calibrate on the held-out tail, fit the statistics on everything, write."""
    narrate("train: calibrating on the held-out events")
    held_out = fit.build(prepared, spec, trainer.best_weights())
    held_out, calibration, starts, reference = fit.calibrate(prepared, held_out)
    forecaster = fit.rebuild_on_all(prepared, held_out)
    washout = fit.washout_events(prepared, forecaster, trainer.settings.seed)
    return artifact.write(
        out,
        forecaster,
        calibration,
        thresholds=starts,
        drift_reference=reference,
        washout_events=washout,
        training=record,
    )


def _training_record(
    trainer: Trainer, dataset: Dataset, search: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the manifest says about how the artifact was made."""
    at = trainer.progress
    record = {
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
    # Only where they apply: what is said of any other training, and so its version, stays.
    if trainer.precision != "float32":
        record["precision"] = trainer.precision
    if search is not None:
        record["search"] = dict(search)
    return record


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
    there = {**found, **found["settings"], "settings": None}
    here = {**expected, **expected["settings"], "settings": None}
    names = sorted(set(there) | set(here))
    return ", ".join(
        f"{name} was {there.get(name)!r}, now {here.get(name)!r}"
        for name in names
        if there.get(name) != here.get(name)
    )
