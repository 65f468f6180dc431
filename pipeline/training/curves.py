"""Writes the curves of a training: `metrics.jsonl`, and event files for TensorBoard.

There is one point per epoch and one per ten steps. A resumed training appends to existing
files. The points of an unfinished epoch are dropped first: the lines by writing the file again,
the events by the `purge_step` of TensorBoard.
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
FLUSH_S = 10  # TensorBoard shows points with this delay


class Curves:
    """Writes the points of one training to a folder; a context manager that closes the files.

    Args:
        folder: created if it is missing.
        progress: the state of the training; points of later steps are dropped from the folder.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        path = folder / METRICS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _drop_after(path, progress.step)
            self._lines = path.open("a", buffering=1)
        except OSError as error:
            raise ConfigError(
                f"train: {folder} must be a folder for {METRICS} that can be written; "
                f"got {error.strerror}"
            ) from error
        # The step is part of the name: two files of the same second would have the same name.
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
        """The files are open since the construction."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files, also after an error."""
        self._events.close()
        self._lines.close()

    def step(self, step: Step) -> None:
        """Record one step; every tenth step becomes a point."""
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
        """Write the point of the epoch that has just ended."""
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
        """Write one line and its events; a value that is not finite is null, or no event."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = {"kind": kind, "step": step, **{name: finite.get(name) for name in values}}
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        for name, value in finite.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)


def _drop_after(path: Path, step: int) -> None:
    """Drop the lines after `step`, and an incomplete last line."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text("".join(lines))
    os.replace(fresh, path)
