"""Bugs to plant: each breaks one thing in the core for as long as its context is open.

A simulator that never finds anything proves nothing. Each entry of `BUGS` is a mistake
that could be made, and the simulator must find it within few seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import simulator.world as world_module
from simulator.cells import FusedBag

from models import shard as shard_module
from models.block import Block
from models.chain import Link, cut, link_of, new_ends
from models.drift_windows import DriftWindows
from models.position import Position, encode_position
from models.scorer import Scorer
from models.segment import Segment, read_log, snapshot_segment
from models.shard import ShardScorer
from models.table import EntityTable, Layout

BUGS: dict[str, Callable[[], AbstractContextManager[None]]] = {}


def _bug(plant: Callable[[], tuple[Any, str, Any]]) -> Callable[[], tuple[Any, str, Any]]:
    """Register a function that names what to replace: (owner, attribute, by what)."""

    @contextmanager
    def planted() -> Iterator[None]:
        owner, name, instead = plant()
        before = owner.__dict__[name]
        setattr(owner, name, instead)
        try:
            yield
        finally:
            setattr(owner, name, before)

    BUGS[plant.__name__] = planted
    return plant


def _links_instead(taken_for: Link) -> Callable[[Block, int], Link]:
    def careless(block: Block, position: int) -> Link:
        link = link_of(block, position)
        return Link.NEXT if link is taken_for else link

    return careless


@_bug
def block_skipped() -> tuple[Any, str, Any]:
    before = ShardScorer._in_order

    def in_order(self: ShardScorer, *args: Any) -> list[Block]:
        return [b for b in before(self, *args) if b.first_offset % 7 != 5]

    return ShardScorer, "_in_order", in_order


@_bug
def block_repeated() -> tuple[Any, str, Any]:
    before = ShardScorer._in_order

    def in_order(self: ShardScorer, *args: Any) -> list[Block]:
        return [b for b in before(self, *args) for _ in range(1 + (b.first_offset % 7 == 5))]

    return ShardScorer, "_in_order", in_order


@_bug
def duplicate_accepted() -> tuple[Any, str, Any]:
    return shard_module, "link_of", _links_instead(Link.DUPLICATE)


@_bug
def gap_accepted() -> tuple[Any, str, Any]:
    return shard_module, "link_of", _links_instead(Link.GAP)


@_bug
def overlap_not_trimmed() -> tuple[Any, str, Any]:
    return Block, "after", lambda self, offset: self


@_bug
def held_block_dropped() -> tuple[Any, str, Any]:
    before = ShardScorer._release

    def release(self: ShardScorer, epoch: Any, cells: Any, outcome: Any) -> list[Block]:
        ready = before(self, epoch, cells, outcome)
        cells.held.clear()
        epoch.held = 0
        return ready

    return ShardScorer, "_release", release


@_bug
def gap_given_up_for_repeats() -> tuple[Any, str, Any]:
    """What the shard did once: a block that came again while it was held counted again."""
    before = ShardScorer._release

    def release(self: ShardScorer, epoch: Any, cells: Any, outcome: Any) -> list[Block]:
        policy, distinct = self._policy, len({bytes(data) for data in cells.held.read()})
        if distinct <= policy.held_blocks_max < epoch.held and distinct > 1:
            self._policy = replace(policy, held_blocks_max=distinct - 1)
        ready = before(self, epoch, cells, outcome)
        self._policy = policy
        return ready

    return ShardScorer, "_release", release


@_bug
def gap_not_counted() -> tuple[Any, str, Any]:
    before = ShardScorer.process

    def process(self: ShardScorer, *args: Any) -> Any:
        outcome = before(self, *args)
        outcome.desyncs = 0
        return outcome

    return ShardScorer, "process", process


@_bug
def rows_swapped() -> tuple[Any, str, Any]:
    before = Scorer._step_tile

    def step_tile(self: Scorer, table: EntityTable, run: Any, events: np.ndarray) -> None:
        before(self, table, run, events)
        if len(events) == 3:
            at = run.place[events]
            table.rows[at[:2]] = table.rows[at[1::-1]]

    return Scorer, "_step_tile", step_tile


@_bug
def scores_swapped() -> tuple[Any, str, Any]:
    before = Scorer._finish

    def finish(self: Scorer, run: Any) -> Any:
        scored = before(self, run)
        return replace(scored, score=scored.score[::-1])

    return Scorer, "_finish", finish


@_bug
def order_lost_in_cut() -> tuple[Any, str, Any]:
    def careless(block: Block, ends: np.ndarray, routing: str) -> Iterator[tuple[int, Block]]:
        for shard, piece in cut(block, ends, routing):
            yield shard, piece.take(np.arange(len(piece))[::-1], piece.previous_end)

    return world_module, "cut", careless


@_bug
def ends_not_saved() -> tuple[Any, str, Any]:
    def forgetful(position: Position) -> bytes:
        return encode_position(Position(position.next_offset, new_ends(len(position.ends))))

    return world_module, "encode_position", forgetful


@_bug
def ends_of_all_shards_advanced() -> tuple[Any, str, Any]:
    def careless(block: Block, ends: np.ndarray, routing: str) -> Iterator[tuple[int, Block]]:
        yield from cut(block, ends, routing)
        ends[:] = block.end_offset

    return world_module, "cut", careless


@_bug
def stale_table_trusted() -> tuple[Any, str, Any]:
    before = ShardScorer._take

    def take(self: ShardScorer, shard: int, cells: Any) -> Any:
        return self._live.pop(shard, None) or before(self, shard, cells)

    return ShardScorer, "_take", take


@_bug
def token_not_renewed() -> tuple[Any, str, Any]:
    before = ShardScorer.process

    def process(self: ShardScorer, shard: int, block: Block, cells: Any, token: bytes) -> Any:
        return before(self, shard, block, cells, b"constant")

    return ShardScorer, "process", process


@_bug
def segment_lost() -> tuple[Any, str, Any]:
    before = FusedBag.add

    def add(self: Any, value: bytes) -> None:
        if len(self.values) != 2:
            before(self, value)

    return FusedBag, "add", add


@_bug
def segment_lost_unnoticed() -> tuple[Any, str, Any]:
    def careless(layout: Layout, segments: Iterable[bytes], first: int, end: int) -> list[Segment]:
        log = read_log(layout, segments, first, end)
        return log[:-1] if len(log) > 1 else log

    return shard_module, "read_log", careless


@_bug
def segments_read_in_the_order_of_the_bag() -> tuple[Any, str, Any]:
    def careless(layout: Layout, segments: Iterable[bytes], first: int, end: int) -> list[Segment]:
        log = read_log(layout, segments, first, end)
        return log[:1] + log[:0:-1]

    return shard_module, "read_log", careless


@_bug
def snapshot_without_last_entity() -> tuple[Any, str, Any]:
    def careless(table: EntityTable, sequence: int) -> bytes:
        short = EntityTable(table.layout)
        short.fill(table.entity_ids[:-1], table.rows[: len(table) - 1])
        return snapshot_segment(short if len(table) > 1 else table, sequence)

    return shard_module, "snapshot_segment", careless


@_bug
def row_of_another_not_zeroed() -> tuple[Any, str, Any]:
    """What the table did until the simulator found it: see `EntityTable.fill`."""

    def fill(self: EntityTable, names: list[str], rows: np.ndarray) -> None:
        self.entity_ids, self._index = [], {}
        self.add(names)
        self.rows[: len(names)] = rows

    return EntityTable, "fill", fill


@_bug
def entity_leaves_too_early() -> tuple[Any, str, Any]:
    def evict(self: Scorer, table: EntityTable) -> None:
        if self._policy.entity_ttl_s and len(table) > 1:
            table.retain(np.arange(1, len(table)))

    return Scorer, "evict", evict


@_bug
def one_entity_too_many() -> tuple[Any, str, Any]:
    before = Scorer._places

    def places(self: Scorer, table: EntityTable, names: list[str]) -> np.ndarray:
        policy = self._policy
        if policy.entities_per_shard_max:
            more = policy.entities_per_shard_max + 1
            self._policy = replace(policy, entities_per_shard_max=more)
        found = before(self, table, names)
        self._policy = policy
        return found

    return Scorer, "_places", places


@_bug
def old_policy_forgotten() -> tuple[Any, str, Any]:
    return Scorer, "under", lambda self, policies: self


@_bug
def episode_lost_in_rebuild() -> tuple[Any, str, Any]:
    before = ShardScorer._rebuild

    def rebuild(self: ShardScorer, *args: Any) -> EntityTable:
        table = before(self, *args)
        table.rows["episode_events"] = 0
        return table

    return ShardScorer, "_rebuild", rebuild


@_bug
def drift_counted_twice() -> tuple[Any, str, Any]:
    before = DriftWindows.add

    def add(self: DriftWindows, scored: Any) -> Any:
        reports = before(self, scored)
        if len(scored.block) == 3:
            reports += before(self, scored)
        return reports

    return DriftWindows, "add", add


@_bug
def drift_lost_in_rebuild() -> tuple[Any, str, Any]:
    before = DriftWindows.from_bytes
    return DriftWindows, "from_bytes", lambda self, shard, data: before(self, shard, None)


@_bug
def drift_reported_twice() -> tuple[Any, str, Any]:
    before = DriftWindows._report

    def report(self: DriftWindows, number: int) -> Any:
        window = self._open[number]
        told = before(self, number)
        if number % 2:
            self._open[number] = window
        return told

    return DriftWindows, "_report", report


@_bug
def loss_rounded_otherwise() -> tuple[Any, str, Any]:
    before = DriftWindows._report

    def report(self: DriftWindows, number: int) -> Any:
        told = before(self, number)
        return replace(told, loss_sum=told.loss_sum + 1)

    return DriftWindows, "_report", report


@_bug
def tables_never_leave_memory() -> tuple[Any, str, Any]:
    def keep(self: ShardScorer, shard: int, live: Any) -> None:
        self._live[shard] = live

    return ShardScorer, "_keep", keep
