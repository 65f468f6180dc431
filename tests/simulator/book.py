"""What the ledger writes down: the fate of events, the state as it should be, the outputs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from simulator.story import Node

# Fates of events.
OPEN, SCORED, LATE_ASIDE, NO_ROOM, DEAD, RETAINED_NOT, GIVEN_UP = range(7)
FINAL = (SCORED, LATE_ASIDE, NO_ROOM)


class Violation(AssertionError):
    """A promise was broken; the message says which and where."""


@dataclass(slots=True)
class Book:
    """The part of the ledger that belongs to the state, and goes back with it."""

    #: Fate of each event, and what was said of it, as `BITS`.
    fate: bytearray
    said: list[bytes]
    #: (shard, script) -> where the entity stands.
    stands: dict[tuple[int, int], Node] = field(default_factory=dict)
    #: (shard, script) -> where it stood when it left for its TTL.
    left: dict[tuple[int, int], Node] = field(default_factory=dict)
    #: (script, partition) -> place of its next event among those of the partition.
    pointer: dict[tuple[int, int], int] = field(default_factory=dict)
    #: (shard, partition) -> end of the last block that was accepted.
    reached: dict[tuple[int, int], int] = field(default_factory=dict)
    #: shard -> gaps given up, events scored, events in reports.
    desyncs: dict[int, int] = field(default_factory=dict)
    scored: dict[int, int] = field(default_factory=dict)
    reported: dict[int, int] = field(default_factory=dict)
    #: Window start -> (events, loss, counts) of all reports.
    windows: dict[int, tuple[int, int, np.ndarray]] = field(default_factory=dict)
    #: (status, event) of alerts.
    alerts: set[tuple[str, int]] = field(default_factory=set)

    def copy(self) -> Book:
        """A copy that later changes do not touch; all values are immutable."""
        return Book(
            bytearray(self.fate),
            list(self.said),
            dict(self.stands),
            dict(self.left),
            dict(self.pointer),
            dict(self.reached),
            dict(self.desyncs),
            dict(self.scored),
            dict(self.reported),
            dict(self.windows),
            set(self.alerts),
        )


@dataclass(slots=True)
class Outputs:
    """What left the pipeline, at least once."""

    scored: set[int] = field(default_factory=set)
    aside: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    alerts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    #: (shard, window start, first event) -> events, loss, counts.
    reports: dict[tuple[int, int, tuple[int, int]], tuple[int, int, bytes]] = field(
        default_factory=dict
    )
