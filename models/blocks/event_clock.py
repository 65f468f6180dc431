"""The clock of a partition: event time as its events tell it, which no single entity can move.

It is the second highest of the entities' latest event times. So one host whose clock runs
a day ahead changes nothing for the others, and the clock of a shard is a function of the
log alone: however it is cut into blocks, each event meets the same clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEVER = -(1 << 62)


@dataclass(slots=True)
class PartitionClock:
    """What a shard knows of the time in one partition."""

    #: The clock, microseconds; 0 until two entities were heard.
    now_us: int = 0
    #: The latest event time of all, and whose it is.
    latest_us: int = 0
    latest: str = ""
    #: Jumps of the partition's reader over offsets that were gone.
    offset_resets: int = 0

    def advance(self, time_us: np.ndarray, names: Sequence[str], codes: np.ndarray) -> np.ndarray:
        """Hear of events in offset order; returns the clock (N,) int64 at each of them.

        Args:
            time_us: (N,) int64, N > 0.
            names: the entities of the events.
            codes: (N,) place of each event's entity in `names`.
        """
        before = np.maximum.accumulate(np.concatenate([[self.latest_us], time_us]))[:-1]
        leads = time_us > before
        # Whose time was the latest before each event, and after it; -1 is nobody of `names`.
        known = names.index(self.latest) if self.latest in names else -1
        last = np.maximum.accumulate(np.where(leads, np.arange(len(leads)), -1))
        leader = np.where(last < 0, known, codes[last])
        led_before = np.concatenate([[known], leader[:-1]])
        # The time of one who no longer leads counts, and of one who never did.
        overtaken = np.where(codes != led_before, before, NEVER)
        behind = np.where(codes != leader, time_us, NEVER)
        heard = np.where(leads, overtaken, behind)
        clock_us = np.maximum(np.maximum.accumulate(heard), self.now_us)
        self.now_us = int(clock_us[-1])
        if last[-1] >= 0:
            self.latest_us, self.latest = int(time_us[last[-1]]), names[int(leader[-1])]
        return clock_us
