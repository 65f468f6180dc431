"""The readers of a simulated job: a position and chain ends per partition, as state bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from simulator.expected_state import DEAD, OPEN, RETAINED_NOT, Outputs
from simulator.ledger import Ledger
from simulator.plan import Plan
from simulator.topic import Topic
from streamgauge.models.blocks.block import encode_block
from streamgauge.models.blocks.chain import cut, new_ends
from streamgauge.models.blocks.position import Position, decode_position, encode_position


class Readers:
    """One reader per partition; what is lost before it is read is written down."""

    def __init__(self, plan: Plan, topic: Topic, ledger: Ledger, outputs: Outputs) -> None:
        self._plan = plan
        self._topic = topic
        self._ledger = ledger
        self._outputs = outputs
        self._positions: dict[int, bytes] = {}
        #: What the positions say, so that looking where a reader is costs nothing.
        self._next_offset: dict[int, int] = {}
        #: Where the job begins; other partitions are read from their beginning.
        self._starts: Mapping[int, int] = {}
        #: partition -> where it began when any job first saw it.
        self._first_low: dict[int, int] = {}

    @property
    def partitions(self) -> list[int]:
        """The partitions that are known."""
        return list(self._positions)

    def begin(self, starts: Mapping[int, int], now: int) -> None:
        """A new job without positions, that begins at given offsets."""
        self._positions, self._starts = {}, starts
        self.discover(now)

    def discover(self, now: int) -> None:
        """Find the partitions that exist by now; new ones are read from their beginning."""
        for log in self._topic.partitions[len(self._positions) :]:
            if log.created > now:
                break
            start = self._starts.get(log.number, log.low)
            self._forget_dead(log.number, start)
            first_low = self._first_low.setdefault(log.number, log.low)
            self._count_retained_not(log.number, 0, first_low)
            self._count_retained_not(log.number, self._starts.get(log.number, 0), log.low)
            self._set_position(log.number, Position(start, new_ends(self._plan.shards)))

    def readable(self, now: int) -> list[int]:
        """Partitions with messages that were not read yet."""
        logs = self._topic.partitions
        return [p for p in self._positions if logs[p].there(self._next_offset[p], now)]

    def poll(self, partition: int, counts: list[int], now: int) -> list[tuple[int, bytes]]:
        """Read blocks of at most that many messages each; returns (shard, piece) of them."""
        log, plan = self._topic.partitions[partition], self._plan
        at = self._position(partition)
        pieces = []
        for count in counts:
            if at.next_offset < log.low:
                self._count_retained_not(partition, at.next_offset, log.low)
                at.offset_reset(log.low)
            if not log.there(at.next_offset, now):
                break
            block, bad, end = log.read(at.next_offset, count, now)
            block = replace(block, offset_resets=at.offset_resets)
            for shard, piece in cut(block, at.ends, plan.routing, plan.silent_offsets_max):
                pieces.append((shard, encode_block(piece)))
            for event in bad:
                self._ledger.book.fate[event] = DEAD
            self._outputs.dead.update(bad)
            at.next_offset = end
        self._set_position(partition, at)
        return pieces

    def rewind(self, partition: int) -> None:
        """The runner restarts a source from scratch (apache/beam#30903); shards know better."""
        log = self._topic.partitions[partition]
        self._count_retained_not(partition, 0, log.low)
        self._set_position(partition, Position(log.low, new_ends(self._plan.shards)))

    def is_done(self) -> bool:
        """All partitions were found and read to their ends."""
        logs = self._topic.partitions
        if len(self._positions) < len(logs):
            return False
        return all(self._next_offset[p] >= logs[p].end for p in self._positions)

    def keep(self) -> dict[int, bytes]:
        """What a checkpoint holds of the positions."""
        return dict(self._positions)

    def put_back(self, kept: Mapping[int, bytes]) -> None:
        """Go back to the positions of a checkpoint."""
        self._positions = dict(kept)
        self._next_offset = {p: self._position(p).next_offset for p in kept}

    def _position(self, partition: int) -> Position:
        return decode_position(self._positions[partition], self._plan.shards)

    def _set_position(self, partition: int, position: Position) -> None:
        self._positions[partition] = encode_position(position)
        self._next_offset[partition] = position.next_offset

    def _forget_dead(self, partition: int, start: int) -> None:
        """Malformed events from `start` on are read again; of those before, letters are out."""
        log, fate = self._topic.partitions[partition], self._ledger.book.fate
        for offset, event in log.bad:
            fate[event] = OPEN
            if offset < start and event in self._outputs.dead:
                fate[event] = DEAD
            elif offset < min(start, log.low):
                fate[event] = RETAINED_NOT

    def _count_retained_not(self, partition: int, first: int, end: int) -> None:
        """Events that retention took before they were read."""
        fate, topic = self._ledger.book.fate, self._topic
        for event in range(len(topic)) if first < end else ():
            is_inside = first <= topic.offset[event] < end
            if topic.partition[event] == partition and is_inside and fate[event] == OPEN:
                fate[event] = RETAINED_NOT
