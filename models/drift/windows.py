"""Drift statistics of one shard per window of event time, kept in the state of the shard.

All statistics are integers: histogram counts over fixed edges, and losses in fixed point. So the
statistics of two parts add up exactly and in any order, and a replay that scored the same events
reports the same numbers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.blocks.scored_block import ScoredBlock
from streamgauge.models.drift.reference import DriftReference
from streamgauge.models.errors import ConfigError, StateFormatError

LOSS_SCALE = 1 << 20  # losses are summed in units of 2**-20, so that sums are exact
LOSS_MAX = 1e6  # bounds the sum: 2**63 / (2**20 * 1e6) is 8.8 million such events a window
WINDOWS_MAX = 4  # open at once; an entity with a wrong clock must not open thousands
WINDOWS_FORMAT = 1
_HEAD = struct.Struct("<BqI")
_WINDOW = struct.Struct("<qqqiq")


@dataclass(frozen=True, slots=True, eq=False)
class WindowReport:
    """The statistics of one shard in one window; parts of a window add up."""

    shard: int
    #: Start of the window, event time, microseconds.
    start_us: int
    end_us: int
    #: (partition, offset) of the first counted event; it distinguishes the parts of a window.
    first: tuple[int, int]
    events: int
    #: Sum of the losses in units of 1 / `LOSS_SCALE`.
    loss_sum: int
    #: (F + 1, bins) uint32, the score last.
    counts: NDArray[Any]


@dataclass(slots=True, eq=False)
class _Window:
    counts: NDArray[Any]
    first: tuple[int, int]
    loss_sum: int = 0
    events: int = 0


class DriftWindows:
    """The open windows of one shard."""

    def __init__(self, reference: DriftReference, window_s: int, shard: int = 0) -> None:
        if window_s < 1:
            raise ConfigError(f"drift: window_s must be >= 1; got {window_s}")
        self._reference = reference
        self._window_us = window_s * 1_000_000
        self._shard = shard
        self._clock_us = 0
        self._open: dict[int, _Window] = {}

    def add(self, scored: ScoredBlock) -> list[WindowReport]:
        """Count a scored block; returns the windows that are complete.

        A window is complete one window length after its end, by the latest event time that this
        shard has seen. If more than `WINDOWS_MAX` are open, the oldest are reported early.
        """
        if not len(scored.block):
            return []
        self._count(scored)
        self._clock_us = max(self._clock_us, int(scored.block.event_time_us.max()))
        oldest = self._clock_us // self._window_us - 1
        done = [number for number in sorted(self._open) if number < oldest]
        done += sorted(set(self._open) - set(done))[: len(self._open) - len(done) - WINDOWS_MAX]
        return [self._report(number) for number in done]

    def _count(self, scored: ScoredBlock) -> None:
        """Add the events of a block to their windows."""
        block = scored.block
        window = block.event_time_us // self._window_us
        loss = np.clip(np.nan_to_num(scored.loss), -LOSS_MAX, LOSS_MAX)
        fixed = np.rint(loss.astype(np.float64) * LOSS_SCALE).astype(np.int64)
        for number in np.unique(window).tolist():
            events = np.flatnonzero(window == number)
            if number not in self._open:
                first = (block.partition, int(block.offset[events[0]]))
                empty = np.zeros(self._reference.counts.shape, np.uint32)
                self._open[number] = _Window(empty, first)
            counted = self._open[number]
            counted.counts += self._reference.count(block.features[events], scored.score[events])
            counted.loss_sum += int(fixed[events].sum())
            counted.events += len(events)

    def flush(self) -> list[WindowReport]:
        """Report all open windows; their later events are reported as another part."""
        return [self._report(number) for number in sorted(self._open)]

    def to_bytes(self) -> bytes:
        """Return the state bytes: clock and open windows."""
        parts = [_HEAD.pack(WINDOWS_FORMAT, self._clock_us, len(self._open))]
        for number, window in sorted(self._open.items()):
            parts.append(_WINDOW.pack(number, window.loss_sum, window.events, *window.first))
            parts.append(window.counts.astype("<u4").tobytes())
        return b"".join(parts)

    def from_bytes(self, shard: int, data: bytes | None) -> DriftWindows:
        """Read what `to_bytes` wrote; without bytes there are no open windows.

        Raises:
            StateFormatError: the bytes are of another format.
        """
        windows = DriftWindows(self._reference, self._window_us // 1_000_000, shard)
        if not data:
            return windows
        data = bytes(data)
        if data[0] != WINDOWS_FORMAT:
            raise StateFormatError(
                f"drift state: this release reads format {WINDOWS_FORMAT}; got {data[0]}. "
                "Start from a savepoint of this release, or without state"
            )
        _, windows._clock_us, count = _HEAD.unpack_from(data)
        at = _HEAD.size
        shape = self._reference.counts.shape
        size = int(np.prod(shape))
        for _ in range(count):
            number, loss_sum, events, *first = _WINDOW.unpack_from(data, at)
            at += _WINDOW.size
            counts = np.frombuffer(data, "<u4", size, at).reshape(shape).copy()
            at += counts.nbytes
            windows._open[number] = _Window(counts, (first[0], first[1]), loss_sum, events)
        return windows

    def _report(self, number: int) -> WindowReport:
        window = self._open.pop(number)
        start = number * self._window_us
        return WindowReport(
            shard=self._shard,
            start_us=start,
            end_us=start + self._window_us,
            first=window.first,
            events=window.events,
            loss_sum=window.loss_sum,
            counts=window.counts,
        )
