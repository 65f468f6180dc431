"""`streamgauge train`: trains an artifact from a folder of telemetry; resumable.

During the training, `<out>.partial/` holds the last finished epoch: tensors as safetensors,
everything else as JSON, and the curves unless another folder is given for them. The next call
with the same data and settings resumes from there. The folder is removed when the artifact is
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

import torch
from numpy.typing import NDArray
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
STEPS_PER_EPOCH = 100  # steps of the progress bar
PIECE_CHUNKS_MIN = 2  # a shorter piece would hardly use its hidden state


def train(
    data: Path,
    out: Path,
    settings: TrainingSettings | None = None,
    narrate: Narrate = to_stderr,
    *,
    cadence_s: float | None = None,
    log_dir: Path | None = None,
    search: Mapping[str, Any] | None = None,
) -> str:
    """Train on the train part of `data`, calibrate, and write the artifact `out`.

    Args:
        data: a folder in a layout of `pipeline.data.datasets`.
        out: folder of the artifact; an existing artifact is replaced.
        settings: None for the defaults.
        narrate: receives the lines of progress.
        cadence_s: distance of invented times, see `pipeline.data.datasets.load`.
        log_dir: folder for `metrics.jsonl` and the files for TensorBoard, see
            `pipeline.training.curves`; None for `<out>.partial`, which is removed at the end.
        search: record of the search that found the settings, for the manifest; JSON types.

    Returns:
        The artifact's digest.

    Raises:
        ConfigError: data, settings or `out` cannot be used, or `<out>.partial` belongs to other
            data or settings.
        TrainingError: the training cannot continue.
    """
    settings = settings or TrainingSettings()
    check_out(out)
    dataset = load(data, "train", cadence_s=cadence_s)
    narrate(
        f"train: {len(dataset.series)} entities, {dataset.events:,} events, "
        f"{dataset.schema.size} features from {data}"
    )
    narrate(f"train: features {', '.join(dataset.schema.names)}")
    spec = ForecasterSpec(hidden=settings.hidden, lags=settings.lags)
    prepared = fit.prepare(dataset.schema, dataset.series, spec, settings.held_out)
    check_held_out(prepared)
    partial = out.with_name(out.name + ".partial")
    trainer = _fit(
        prepared, settings, dataset, partial=partial, log_dir=log_dir or partial, narrate=narrate
    )
    record = _training_record(trainer, dataset, search)
    narrate("train: calibrating on the held-out events")
    digest = _finish(prepared, trainer, spec, record=record, out=out)
    shutil.rmtree(partial, ignore_errors=True)
    narrate(f"train: artifact {out}, version {digest}")
    return digest


def check_out(out: Path) -> None:
    """Refuse a folder to which the artifact cannot be written, before any work.

    Raises:
        ConfigError: `out` names no folder, exists and is no artifact, or cannot be written.
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
    """Refuse data whose held-out part is too small for the calibration, before any training.

    Raises:
        TrainingError: it is too small; names the required and the actual number of scores.
    """
    tails = [len(z) for z in prepared.held_out_z]
    scores = sum(tail - min(fit.SETTLING_EVENTS, tail // 2) for tail in tails)
    if scores < SCORES_MIN:
        raise TrainingError(
            f"train: held-out parts must give at least {SCORES_MIN} scores to calibrate on; they "
            f"give {scores} in {len(tails)} series; use more data or a larger held-out share"
        )


def learned_pieces(prepared: Prepared, settings: TrainingSettings) -> Sequences:
    """The pieces to train on."""
    length_min = PIECE_CHUNKS_MIN * settings.chunk
    return cut(prepared.train_z, prepared.train_linear, settings.rows, length_min)


def held_out_pieces(
    z: Sequence[NDArray[Any]],
    linear: Sequence[NDArray[Any]],
    settings: TrainingSettings,
    *,
    share: float,
) -> Sequences:
    """The held-out pieces, as long as the pieces to train on.

    Args:
        z: held-out standard values per series.
        linear: their linear forecasts.
        settings: settings of the training.
        share: the share of the held-out part that `z` holds.
    """
    rows = max(1, int(settings.rows * settings.held_out * share))
    return cut(z, linear, rows, PIECE_CHUNKS_MIN * settings.chunk)


def _fit(
    prepared: Prepared,
    settings: TrainingSettings,
    dataset: Dataset,
    *,
    partial: Path,
    log_dir: Path,
    narrate: Narrate,
) -> Trainer:
    """Run the epochs and save the state after each."""
    held_out = held_out_pieces(prepared.held_out_z, prepared.held_out_linear, settings, share=1.0)
    trainer = Trainer(settings, learned_pieces(prepared, settings), held_out)
    identity = {
        "data_hash": dataset.content_hash,
        "precision": trainer.precision,
        "settings": asdict(settings),
    }
    if _restore(partial, identity, trainer):
        narrate(f"train: resuming after epoch {trainer.progress.epoch} from {partial}")
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
    """A function for the steps of one epoch: it calls `watch` and advances the progress bar.

    The bar advances by `STEPS_PER_EPOCH` per epoch, however many steps an epoch has.
    """
    shown = 0

    def on_step(step: Step) -> None:
        nonlocal shown
        watch(step)
        reached = int(step.share * STEPS_PER_EPOCH)
        advance(reached - shown)
        shown = reached

    return on_step


def _finish(
    prepared: Prepared,
    trainer: Trainer,
    spec: ForecasterSpec,
    *,
    record: dict[str, Any],
    out: Path,
) -> str:
    """Calibrate on the held-out part, fit the statistics on all data, write the artifact."""
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
    """The entry of the manifest about the training."""
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
        "loss_history": [[round(train, 5), round(held_out, 5)] for train, held_out in at.history],
        "torch": torch.__version__,
    }
    # Only where they apply, so that the versions of other artifacts do not change.
    if trainer.precision != "float32":
        record["precision"] = trainer.precision
    if search is not None:
        record["search"] = dict(search)
    return record


def _save(partial: Path, identity: dict[str, Any], trainer: Trainer) -> None:
    """Save the finished epoch; the state file is written last and names the tensors."""
    partial.mkdir(parents=True, exist_ok=True)
    numbered = partial / f"{trainer.progress.epoch:05d}.{PARTIAL_TENSORS}"
    save_file(trainer.tensors(), numbered)
    state = {**identity, "progress": trainer.progress.to_json(), "tensors": numbered.name}
    unfinished = partial / f"{PARTIAL_STATE}.new"
    unfinished.write_text(json.dumps(state))
    os.replace(unfinished, partial / PARTIAL_STATE)
    for old in partial.glob(f"*.{PARTIAL_TENSORS}"):
        if old != numbered:
            old.unlink()


def _restore(partial: Path, identity: dict[str, Any], trainer: Trainer) -> bool:
    """Resume from `partial` if it exists; refuse one of other data or settings."""
    path = partial / PARTIAL_STATE
    if not path.is_file():
        return False
    try:
        state = json.loads(path.read_text())
        stored = {name: state[name] for name in identity}
        if stored != json.loads(json.dumps(identity)):
            raise ConfigError(
                f"train: {partial} belongs to a training on other data or with other settings: "
                f"{_difference(stored, identity)}; remove it to start again"
            )
        tensors = load_file(partial / state["tensors"])
        trainer.restore(tensors, Progress.from_json(state["progress"]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"train: {partial} must hold an interrupted training; got "
            f"{type(error).__name__}: {error}; remove it to start again"
        ) from error
    return True


def _difference(stored: dict[str, Any], current: dict[str, Any]) -> str:
    """The parts of the identity that differ, as text."""
    stored = {**stored, **stored["settings"], "settings": None}
    current = {**current, **current["settings"], "settings": None}
    names = sorted(set(stored) | set(current))
    return ", ".join(
        f"{name} was {stored.get(name)!r}, now {current.get(name)!r}"
        for name in names
        if stored.get(name) != current.get(name)
    )
