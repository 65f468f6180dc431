"""The clock of a partition: event time derived from its events, which no single entity can move.

It is the second highest of the entities' latest event times. So one host whose clock is a day
ahead changes nothing for the others. The clock depends on the log alone: each event is
processed at the same clock, however the log is divided into blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEVER = -(1 << 62)


@dataclass(slots=True)
class PartitionClock:
    """The event time of one partition, as one shard has seen it."""

    #: The clock, microseconds; 0 before events of two entities.
    now_us: int = 0
    #: The latest event time of all entities, and the entity that sent it.
    latest_us: int = 0
    latest: str = ""
    #: Offset resets of the reader of the partition.
    offset_resets: int = 0

    def advance(
        self, time_us: NDArray[Any], names: Sequence[str], codes: NDArray[Any]
    ) -> NDArray[Any]:
        """Advance the clock by events in offset order; returns the clock (N,) int64 at each event.

        Args:
            time_us: (N,) int64, N > 0.
            names: the entities of the events.
            codes: (N,) index of the entity of each event in `names`.
        """
        before = np.maximum.accumulate(np.concatenate([[self.latest_us], time_us]))[:-1]
        leads = time_us > before
        # Index of the entity with the latest time, before and after each event; -1 if it is not
        # in `names`.
        known = names.index(self.latest) if self.latest in names else -1
        last = np.maximum.accumulate(np.where(leads, np.arange(len(leads)), -1))
        leader = np.where(last < 0, known, codes[last])
        led_before = np.concatenate([[known], leader[:-1]])
        # Candidates for the second highest time: that of a leader that was overtaken, or that of
        # an event whose entity does not lead.
        overtaken = np.where(codes != led_before, before, NEVER)
        not_leading = np.where(codes != leader, time_us, NEVER)
        second = np.where(leads, overtaken, not_leading)
        clock_us: NDArray[Any] = np.maximum(np.maximum.accumulate(second), self.now_us)
        self.now_us = int(clock_us[-1])
        if last[-1] >= 0:
            self.latest_us, self.latest = int(time_us[last[-1]]), names[int(leader[-1])]
        return clock_us
