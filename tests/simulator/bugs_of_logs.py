"""Bugs to plant in how the log of a shard is written to its cells and read again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from simulator.cells import FusedBag
from simulator.planting import bug

from models import shard_log
from models.block import Block
from models.cells import Cells
from models.epoch import Epoch
from models.segment import snapshot_segments
from models.shard_log import append_block, read_blocks
from models.table import EntityTable, Layout


@bug
def segment_lost() -> tuple[Any, str, Any]:
    before = FusedBag.add

    def add(self: Any, value: bytes) -> None:
        if len(self.values) != 2:
            before(self, value)

    return FusedBag, "add", add


@bug
def segment_lost_unnoticed() -> tuple[Any, str, Any]:
    def careless(*given: Any) -> Iterator[Block]:
        blocks = list(read_blocks(*given))
        yield from blocks[:-1]

    return shard_log, "read_blocks", careless


@bug
def segments_read_in_the_order_of_the_bag() -> tuple[Any, str, Any]:
    def careless(*given: Any) -> Iterator[Block]:
        yield from list(read_blocks(*given))[::-1]

    return shard_log, "read_blocks", careless


@bug
def cells_of_the_log_filled_in_turn() -> tuple[Any, str, Any]:
    def careless(
        cells: Cells, epoch: Epoch, layout: Layout, data: bytes, cell_bytes_max: float
    ) -> None:
        epoch.log_cell = 0
        turned = replace(cells, log=(cells.log[epoch.next_segment % len(cells.log)],))
        append_block(turned, epoch, layout, data, cell_bytes_max)

    return shard_log, "append_block", careless


@bug
def part_of_a_snapshot_lost_unnoticed() -> tuple[Any, str, Any]:
    def careless(table: EntityTable, sequence: int, bytes_max: int) -> Iterator[bytes]:
        segments = list(snapshot_segments(table, sequence, bytes_max))
        yield from segments[: max(1, len(segments) - 1)]

    return shard_log, "snapshot_segments", careless


@bug
def snapshot_without_last_entity() -> tuple[Any, str, Any]:
    def careless(table: EntityTable, sequence: int, bytes_max: int) -> Iterator[bytes]:
        short = EntityTable(table.layout)
        short.fill(table.entity_ids[:-1], table.rows[: len(table) - 1])
        chosen = short if len(table) > 1 else table
        yield from snapshot_segments(chosen, sequence, bytes_max)

    return shard_log, "snapshot_segments", careless


@bug
def clocks_not_in_the_snapshot() -> tuple[Any, str, Any]:
    def careless(table: EntityTable, sequence: int, bytes_max: int) -> Iterator[bytes]:
        clocks, table.clocks = table.clocks, {}
        segments = list(snapshot_segments(table, sequence, bytes_max))
        table.clocks = clocks
        yield from segments

    return shard_log, "snapshot_segments", careless
