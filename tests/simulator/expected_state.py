"""What the ledger writes down: the fate of events, the state as it should be, the outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from simulator.reference import Node

# Fates of events.
OPEN, SCORED, LATE_ASIDE, NO_ROOM, DEAD, RETAINED_NOT, GIVEN_UP = range(7)
FINAL = (SCORED, LATE_ASIDE, NO_ROOM)


class Violation(AssertionError):
    """A promise was broken; the message says which and where."""


class Stand(NamedTuple):
    """Where an entity stands in its shard."""

    node: Node
    #: Partition of its last event that was scored, and that partition's clock then.
    partition: int
    clock_us: int


@dataclass(slots=True)
class ShardBook:
    """What is written down of one shard; all values are immutable."""

    #: script -> where the entity stands; entities without a row are not in it.
    stands: dict[int, Stand] = field(default_factory=dict)
    #: (script, partition) -> place of its next event among those of the partition.
    pointer: dict[tuple[int, int], int] = field(default_factory=dict)
    #: partition -> end of the last block that was accepted, jumps of the reader before it.
    reached: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: partition -> latest event time of any entity, and of any but that one.
    clocks: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: (partition, script) -> latest event time.
    latest_us: dict[tuple[int, int], int] = field(default_factory=dict)
    #: Jumps of readers, gaps given up; events scored, late, set aside, and in reports.
    offset_resets: int = 0
    desyncs: int = 0
    scored: int = 0
    late: int = 0
    set_aside: int = 0
    reported: int = 0
    #: Window start -> (events, loss, counts) of all its reports.
    windows: dict[int, tuple[int, int, np.ndarray]] = field(default_factory=dict)
    #: (status, event) of alerts.
    alerts: frozenset[tuple[str, int]] = frozenset()

    def copy(self) -> ShardBook:
        """A copy that later changes do not touch."""
        return ShardBook(
            dict(self.stands),
            dict(self.pointer),
            dict(self.reached),
            dict(self.clocks),
            dict(self.latest_us),
            self.offset_resets,
            self.desyncs,
            self.scored,
            self.late,
            self.set_aside,
            self.reported,
            dict(self.windows),
            self.alerts,
        )


class Book:
    """The part of the ledger that belongs to the state, and goes back with it."""

    def __init__(self, events: int, shards: int) -> None:
        #: Fate of each event, and its results, as `BITS`.
        self.fate = bytearray(events)
        self.results = [b""] * events
        self._shards = [ShardBook() for _ in range(shards)]
        self._is_own = [True] * shards

    def read(self, shard: int) -> ShardBook:
        """The book of a shard, not to be written to."""
        return self._shards[shard]

    def write(self, shard: int) -> ShardBook:
        """The book of a shard, no longer shared with any copy."""
        if not self._is_own[shard]:
            self._shards[shard] = self._shards[shard].copy()
            self._is_own[shard] = True
        return self._shards[shard]

    def copy(self) -> Book:
        """A copy that later changes do not touch; shards are copied when written to."""
        copied = Book(0, 0)
        copied.fate, copied.results = bytearray(self.fate), list(self.results)
        copied._shards = list(self._shards)
        self._is_own = [False] * len(self._shards)
        copied._is_own = list(self._is_own)
        return copied

    def go_back(self, shard: int, events: Iterable[int], to: Book | None) -> None:
        """Put one shard and its `events` back to what they were in `to`, or to the beginning.

        For a new job, whose readers have jumped over nothing.
        """
        for event in events:
            self.fate[event] = to.fate[event] if to else OPEN
            self.results[event] = to.results[event] if to else b""
        book = to._shards[shard].copy() if to else ShardBook()
        book.reached = {partition: (end, 0) for partition, (end, _) in book.reached.items()}
        self._shards[shard] = book
        self._is_own[shard] = True


@dataclass(slots=True)
class Outputs:
    """What left the pipeline, at least once."""

    #: Event -> its results, as `BITS`.
    scored: dict[int, bytes] = field(default_factory=dict)
    aside: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    alerts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    #: (shard, window start, first event) -> events, loss, counts.
    reports: dict[tuple[int, int, tuple[int, int]], tuple[int, int, bytes]] = field(
        default_factory=dict
    )
