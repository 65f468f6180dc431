"""Bugs to plant in how blocks are taken, scored, remembered and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import simulator.readers as readers_module
from simulator.mutation import bug
from streamgauge.models.blocks.block import NOTHING_BEFORE, Block
from streamgauge.models.blocks.chain import Link, cut, link_of, new_ends
from streamgauge.models.blocks.event_clock import PartitionClock
from streamgauge.models.blocks.position import Position, encode_position
from streamgauge.models.drift.windows import DriftWindows
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.scoring.shard import ShardScorer
from streamgauge.models.state import ordering
from streamgauge.models.state.cells import Cells
from streamgauge.models.state.entity_table import EntityTable


def _links_instead(taken_for: Link) -> Callable[[Block, int], Link]:
    def careless(block: Block, position: int) -> Link:
        link = link_of(block, position)
        return Link.NEXT if link is taken_for else link

    return careless


@bug
def block_skipped() -> tuple[Any, str, Any]:
    before = ordering.accept

    def accept(*args: Any) -> ordering.Arrival:
        arrival = before(*args)
        arrival.ready = [ready for ready in arrival.ready if ready[1].first_offset % 7 != 5]
        return arrival

    return ordering, "accept", accept


@bug
def block_repeated() -> tuple[Any, str, Any]:
    before = ordering.accept

    def accept(*args: Any) -> ordering.Arrival:
        arrival = before(*args)
        arrival.ready = [
            ready for ready in arrival.ready for _ in range(1 + (ready[1].first_offset % 7 == 5))
        ]
        return arrival

    return ordering, "accept", accept


@bug
def duplicate_accepted() -> tuple[Any, str, Any]:
    return ordering, "link_of", _links_instead(Link.DUPLICATE)


@bug
def gap_accepted() -> tuple[Any, str, Any]:
    return ordering, "link_of", _links_instead(Link.GAP)


@bug
def overlap_not_trimmed() -> tuple[Any, str, Any]:
    return Block, "after", lambda self, offset: self


@bug
def held_block_dropped() -> tuple[Any, str, Any]:
    before = ordering._release

    def release(epoch: Any, cells: Any, held_blocks_max: int, arrival: Any) -> None:
        before(epoch, cells, held_blocks_max, arrival)
        cells.held.clear()
        epoch.held = 0

    return ordering, "_release", release


@bug
def gap_given_up_for_repeats() -> tuple[Any, str, Any]:
    """What the shard did once: a repeat of a held block counted as another block."""
    before = ordering._release

    def release(epoch: Any, cells: Any, held_blocks_max: int, arrival: Any) -> None:
        distinct = len({bytes(data) for data in cells.held.read()})
        if distinct <= held_blocks_max < epoch.held and distinct > 1:
            held_blocks_max = distinct - 1
        before(epoch, cells, held_blocks_max, arrival)

    return ordering, "_release", release


@bug
def gap_not_counted() -> tuple[Any, str, Any]:
    before = ShardScorer.process

    def process(self: ShardScorer, *args: Any) -> Any:
        outcome = before(self, *args)
        outcome.desyncs = 0
        return outcome

    return ShardScorer, "process", process


@bug
def rows_swapped() -> tuple[Any, str, Any]:
    before = Scorer.step

    def step(self: Scorer, table: EntityTable, block: Block, *args: Any) -> Any:
        scored = before(self, table, block, *args)
        at = table.find(block.entities()[0])
        if len(at) == 3 and (at >= 0).all():
            table.rows[at[:2]] = table.rows[at[1::-1]]
        return scored

    return Scorer, "step", step


@bug
def scores_swapped() -> tuple[Any, str, Any]:
    before = Scorer._finish

    def finish(self: Scorer, run: Any) -> Any:
        scored = before(self, run)
        return replace(scored, score=scored.score[::-1])

    return Scorer, "_finish", finish


@bug
def order_lost_in_cut() -> tuple[Any, str, Any]:
    def careless(block: Block, *args: Any) -> Iterator[tuple[int, Block]]:
        for shard, piece in cut(block, *args):
            yield shard, piece.take(np.arange(len(piece))[::-1], piece.previous_end)

    return readers_module, "cut", careless


@bug
def ends_not_saved() -> tuple[Any, str, Any]:
    def forgetful(position: Position) -> bytes:
        return encode_position(Position(position.next_offset, new_ends(len(position.ends))))

    return readers_module, "encode_position", forgetful


@bug
def ends_of_all_shards_advanced() -> tuple[Any, str, Any]:
    def careless(block: Block, ends: np.ndarray, *args: Any) -> Iterator[tuple[int, Block]]:
        yield from cut(block, ends, *args)
        ends[:] = block.end_offset

    return readers_module, "cut", careless


@bug
def stale_table_trusted() -> tuple[Any, str, Any]:
    before = ShardScorer._load

    def load(self: ShardScorer, shard: int, cells: Any) -> Any:
        return self._live.pop(shard, None) or before(self, shard, cells)

    return ShardScorer, "_load", load


@bug
def token_not_renewed() -> tuple[Any, str, Any]:
    before = ShardScorer.process

    def process(self: ShardScorer, shard: int, data: bytes, cells: Cells, token: bytes) -> Any:
        return before(self, shard, data, cells, b"constant")

    return ShardScorer, "process", process


@bug
def row_of_another_not_zeroed() -> tuple[Any, str, Any]:
    """What the table did until the simulator found it: see `EntityTable.fill`."""

    def fill(self: EntityTable, names: list[str], rows: np.ndarray) -> None:
        self.entity_ids, self._index = [], {}
        self.add(names)
        self.rows[: len(names)] = rows

    return EntityTable, "fill", fill


@bug
def any_entity_leaves() -> tuple[Any, str, Any]:
    def evict(self: Scorer, table: EntityTable) -> None:
        if self._policy.entity_ttl_s and len(table) > 1:
            table.retain(np.arange(1, len(table)))

    return Scorer, "evict", evict


@bug
def entity_leaves_one_ttl_too_early() -> tuple[Any, str, Any]:
    before = Scorer.evict

    def evict(self: Scorer, table: EntityTable) -> None:
        policy = self._compiled
        self._compiled = policy._replace(ttl_us=policy.ttl_us // 2)
        before(self, table)
        self._compiled = policy

    return Scorer, "evict", evict


@bug
def entity_never_leaves() -> tuple[Any, str, Any]:
    return Scorer, "evict", lambda self, table: None


@bug
def entity_that_could_have_left_goes_on() -> tuple[Any, str, Any]:
    """What the scorer did once: a score depended on when a snapshot had been written."""
    before = Scorer._find_rows

    def find_rows(self: Scorer, table: EntityTable, names: list[str]) -> np.ndarray:
        rows = before(self, table, names)
        table.rows["clock_us"][rows[rows >= 0]] = 0
        return rows

    return Scorer, "_find_rows", find_rows


@bug
def one_entity_moves_the_clock() -> tuple[Any, str, Any]:
    """The clock of a partition is the latest time of any entity, not of two."""

    def advance(self: PartitionClock, time_us: np.ndarray, *args: Any) -> np.ndarray:
        clock_us = np.maximum(np.maximum.accumulate(time_us), self.now_us)
        self.now_us = self.latest_us = int(clock_us[-1])
        return clock_us

    return PartitionClock, "advance", advance


@bug
def blocks_before_a_jump_overtaken() -> tuple[Any, str, Any]:
    """What a jump did once: it cut the chain, and blocks on their way came too late."""
    before = Position.offset_reset

    def offset_reset(self: Position, offset: int) -> None:
        before(self, offset)
        self.ends[:] = NOTHING_BEFORE

    return Position, "offset_reset", offset_reset


@bug
def no_warm_up_behind_a_jump() -> tuple[Any, str, Any]:
    return Scorer, "_follow_offset_reset", staticmethod(lambda table, block: None)


@bug
def one_entity_too_many() -> tuple[Any, str, Any]:
    before = Scorer._find_rows

    def find_rows(self: Scorer, table: EntityTable, names: list[str]) -> np.ndarray:
        policy = self._policy
        if policy.entities_per_shard_max:
            more = policy.entities_per_shard_max + 1
            self._policy = replace(policy, entities_per_shard_max=more)
        rows = before(self, table, names)
        self._policy = policy
        return rows

    return Scorer, "_find_rows", find_rows


@bug
def old_policy_forgotten() -> tuple[Any, str, Any]:
    return Scorer, "under", lambda self, policies: self


@bug
def alert_lost_in_rebuild() -> tuple[Any, str, Any]:
    before = ShardScorer._rebuild

    def rebuild(self: ShardScorer, *args: Any) -> EntityTable:
        table = before(self, *args)
        table.rows["alert_events"] = 0
        return table

    return ShardScorer, "_rebuild", rebuild


@bug
def drift_counted_twice() -> tuple[Any, str, Any]:
    before = DriftWindows.add

    def add(self: DriftWindows, scored: Any) -> Any:
        reports = before(self, scored)
        if len(scored.block) == 3:
            reports += before(self, scored)
        return reports

    return DriftWindows, "add", add


@bug
def drift_lost_in_rebuild() -> tuple[Any, str, Any]:
    before = DriftWindows.from_bytes
    return DriftWindows, "from_bytes", lambda self, shard, data: before(self, shard, None)


@bug
def drift_reported_twice() -> tuple[Any, str, Any]:
    before = DriftWindows._report

    def report(self: DriftWindows, number: int) -> Any:
        window = self._open[number]
        report = before(self, number)
        if number % 2:
            self._open[number] = window
        return report

    return DriftWindows, "_report", report


@bug
def loss_rounded_otherwise() -> tuple[Any, str, Any]:
    before = DriftWindows._report

    def report(self: DriftWindows, number: int) -> Any:
        window = before(self, number)
        return replace(window, loss_sum=window.loss_sum + 1)

    return DriftWindows, "_report", report


@bug
def tables_never_leave_memory() -> tuple[Any, str, Any]:
    def cache(self: ShardScorer, shard: int, live: Any) -> None:
        self._live[shard] = live

    return ShardScorer, "_cache", cache
