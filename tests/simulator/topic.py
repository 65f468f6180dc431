"""The telemetry topic of a simulated run: partitions with holes, bad messages, idle times."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from random import Random

import numpy as np
import pyarrow as pa

from simulator.plan import Plan
from simulator.reference import Script
from streamgauge.models.blocks.block import NOTHING_BEFORE, Block


@dataclass(slots=True, eq=False)
class Partition:
    """One partition's messages; events are named by whole numbers over the whole topic."""

    number: int
    #: Tick at which the partition is created.
    created: int
    #: (M,) offsets of messages, ascending with holes, and the ticks from which they are there.
    offsets: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    #: Columns over the well-formed events, in offset order.
    events: list[int] = field(default_factory=list)
    offset: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    row: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    time_us: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    entity_id: pa.StringArray = field(default_factory=lambda: pa.array([], pa.string()))
    features: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    #: (offset, number) of the malformed events.
    bad: list[tuple[int, int]] = field(default_factory=list)
    #: First offset that retention has left.
    low: int = 0

    @property
    def end(self) -> int:
        """One past the last offset."""
        return self.offsets[-1] + 1 if self.offsets else 0

    def there(self, offset: int, now: int) -> int:
        """Number of messages from `offset` on that can be read at tick `now`."""
        return max(0, bisect_right(self.ready, now) - bisect_left(self.offsets, offset))

    def read(self, offset: int, count: int, now: int) -> tuple[Block, list[int], int]:
        """What decoding the next `count` messages gives: block, malformed events, next offset."""
        first = bisect_left(self.offsets, offset)
        last = first + min(count, self.there(offset, now))
        end = self.offsets[last - 1] + 1
        here = slice(*np.searchsorted(self.offset, (offset, end)).tolist())
        block = Block(
            self.number,
            offset,
            end,
            NOTHING_BEFORE,
            self.offset[here],
            self.row[here],
            self.time_us[here],
            self.entity_id[here],
            self.features[here],
        )
        return block, [event for at, event in self.bad if offset <= at < end], end


class Topic:
    """All partitions, and for each event what it is."""

    def __init__(self, plan: Plan, scripts: list[Script], rng: Random) -> None:
        self.partitions = [Partition(i, plan.created[i]) for i in range(len(plan.created))]
        #: Of each event: script, place in the script, partition, offset, event time.
        self.script: list[int] = []
        self.place: list[int] = []
        self.partition: list[int] = []
        self.offset: list[int] = []
        self.time_us: list[int] = []
        #: (partition, offset, row) -> event.
        self.named: dict[tuple[int, int, int], int] = {}
        #: (script, partition) -> its well-formed events in offset order.
        self.order: dict[tuple[int, int], list[int]] = {}
        self.bad: set[int] = set()
        self._scripts = scripts
        self._fill(plan, scripts, rng)

    def __len__(self) -> int:
        return len(self.script)

    def _fill(self, plan: Plan, scripts: list[Script], rng: Random) -> None:
        sends = sorted(
            (int(scripts[script].sent_us[place]), script, place)
            for script, count in plan.entities
            for place in range(count)
        )
        rows: dict[int, list[tuple[int, int, int]]] = {p.number: [] for p in self.partitions}
        for turn, (_, script, place) in enumerate(sends):
            home = plan.home[script]
            spread = plan.spread and rng.random() < 0.3
            number = rng.randrange(len(self.partitions)) if spread else home
            rows[number].append((turn, script, place))
        for partition in self.partitions:
            self._lay(plan, partition, rows[partition.number], scripts, rng)

    def _lay(
        self,
        plan: Plan,
        partition: Partition,
        sends: list[tuple[int, int, int]],
        scripts: list[Script],
        rng: Random,
    ) -> None:
        """Turn the sends of one partition into messages of one or more events."""
        offset, at, columns = rng.randrange(3), 0, []
        idle_from, idle_for = plan.idle.get(partition.number, (1 << 30, 0))
        while at < len(sends):
            is_only_bad = rng.random() < plan.malformed / 2
            size = 1 if rng.random() < plan.single else rng.randrange(2, 5)
            message = [] if is_only_bad else sends[at : at + size]
            for row, (_, script, place) in enumerate(message):
                event = self._name(partition, offset, row, script, place)
                columns.append((event, offset, row, script, place))
                self.order.setdefault((script, partition.number), []).append(event)
            if is_only_bad or rng.random() < plan.malformed:
                event = self._name(partition, offset, len(message), -1, -1)
                partition.bad.append((offset, event))
                self.bad.add(event)
            tick = max(
                sends[min(at + size, len(sends)) - 1][0] * plan.pace // 100, partition.created
            )
            partition.offsets.append(offset)
            partition.ready.append(tick + (idle_for if tick >= idle_from else 0))
            at += len(message)
            offset += 1 + (rng.randrange(1, 9) if rng.random() < plan.holes else 0)
        if columns:
            self._columns(partition, columns, scripts)

    def _name(self, partition: Partition, offset: int, row: int, script: int, place: int) -> int:
        event = len(self.script)
        self.script.append(script)
        self.place.append(place)
        self.partition.append(partition.number)
        self.offset.append(offset)
        self.time_us.append(self._scripts[script].times[place] if script >= 0 else 0)
        self.named[(partition.number, offset, row)] = event
        return event

    @staticmethod
    def _columns(
        partition: Partition, columns: list[tuple[int, int, int, int, int]], scripts: list[Script]
    ) -> None:
        played = [(scripts[script], place) for _, _, _, script, place in columns]
        partition.events = [event for event, *_ in columns]
        partition.offset = np.array([offset for _, offset, *_ in columns], np.int64)
        partition.row = np.array([row for _, _, row, *_ in columns], np.int32)
        partition.time_us = np.array([one.time_us[k] for one, k in played], np.int64)
        partition.entity_id = pa.array([one.name for one, _ in played], pa.string())
        partition.features = np.stack([one.features[k] for one, k in played])
