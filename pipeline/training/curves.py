"""The curves of a training: `metrics.jsonl` for anything, event files for TensorBoard.

One line, or one set of points, per epoch and per ten steps. A training that goes on adds to
what is there: points of an epoch that was not finished are dropped first, from the lines by
writing them anew, from the event files by TensorBoard's own `purge_step`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter

from streamgauge.models.errors import ConfigError
from streamgauge.models.training.trainer import Progress, Step

METRICS = "metrics.jsonl"
STEPS_PER_POINT = 10
FLUSH_S = 10  # TensorBoard reads that far behind


class Curves:
    """Writes the points of one training into a folder; a context that closes its files.

    Args:
        folder: made if it is not there. What it holds of an earlier training that began
            anew is replaced.
        progress: where the training stands; later points are dropped.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        path = folder / METRICS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _keep_until(path, progress.step)
            self._lines = path.open("a", buffering=1)
        except OSError as error:
            raise ConfigError(
                f"train: {folder} must be a folder for {METRICS} that can be written; "
                f"got {error.strerror}"
            ) from error
        # Named by the step too: two files of one second would else be one.
        self._events = SummaryWriter(
            str(folder),
            purge_step=progress.step + 1,
            flush_secs=FLUSH_S,
            filename_suffix=f".{progress.step:09d}",
        )
        self._skipped = progress.skipped
        self._rate = 0.0
        self._norms: list[float] = []

    def __enter__(self) -> Curves:
        """Open since it was made."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files, however the training ended."""
        self._events.close()
        self._lines.close()

    def step(self, step: Step) -> None:
        """Take in one step; every tenth becomes a point."""
        self._rate = step.learning_rate
        self._skipped += step.is_skipped
        if not step.is_skipped:
            self._norms.append(step.gradient_norm)
        if step.number % STEPS_PER_POINT == 0:
            self._add(
                "step",
                step.number,
                {
                    "train_loss": step.loss,
                    "learning_rate": step.learning_rate,
                    "gradient_norm": step.gradient_norm,
                    "steps_skipped": self._skipped,
                },
            )

    def epoch(self, progress: Progress) -> None:
        """Write the point of the epoch just finished."""
        train_loss, held_out_loss = progress.history[-1]
        norms, self._norms = self._norms, []
        self._add(
            "epoch",
            progress.step,
            {
                "epoch": progress.epoch,
                "train_loss": train_loss,
                "held_out_loss": held_out_loss,
                "learning_rate": self._rate,
                "gradient_norm": sum(norms) / len(norms) if norms else math.nan,
                "steps_skipped": progress.skipped,
            },
        )

    def _add(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """One line and one set of points; what is not finite is null there and absent here."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = {"kind": kind, "step": step, **{name: finite.get(name) for name in values}}
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        for name, value in finite.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)


def _keep_until(path: Path, step: int) -> None:
    """Keep the lines up to `step`; one torn by the end of a process goes too."""
    kept = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text("".join(kept))
    os.replace(fresh, path)
