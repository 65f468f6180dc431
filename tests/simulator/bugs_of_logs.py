"""Bugs to plant in how the log of a shard is written to its cells, in slices too, and read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simulator.cells import FusedBag
from simulator.mutation import bug
from streamgauge.models.blocks.block import Block
from streamgauge.models.state import incremental_snapshot as slices_module
from streamgauge.models.state import log
from streamgauge.models.state.cells import Cells
from streamgauge.models.state.entity_table import EntityTable, Layout
from streamgauge.models.state.epoch import Epoch
from streamgauge.models.state.incremental_snapshot import IncrementalSnapshot, SnapshotScheduler
from streamgauge.models.state.log import append_block, begin_cell, read_log
from streamgauge.models.state.segment import snapshot_segments


@bug
def segment_lost() -> tuple[Any, str, Any]:
    before = FusedBag.add

    def add(self: Any, value: bytes) -> None:
        if len(self.values) != 2:
            before(self, value)

    return FusedBag, "add", add


@bug
def segment_lost_unnoticed() -> tuple[Any, str, Any]:
    def careless(*given: Any) -> Iterator[Block | None]:
        blocks = list(read_log(*given))
        yield from blocks[:-1]

    return log, "read_log", careless


@bug
def segments_read_in_the_order_of_the_bag() -> tuple[Any, str, Any]:
    def careless(*given: Any) -> Iterator[Block | None]:
        yield from list(read_log(*given))[::-1]

    return log, "read_log", careless


@bug
def cells_of_the_log_filled_in_turn() -> tuple[Any, str, Any]:
    def careless(
        cells: Cells, epoch: Epoch, layout: Layout, data: bytes, cell_bytes_max: float
    ) -> None:
        epoch.cell_bytes = 1
        begin_cell(cells, epoch)
        append_block(cells, epoch, layout, data, cell_bytes_max)
        epoch.log_cell = max(epoch.first_cell, epoch.log_cell - epoch.next_segment % 2)

    return log, "append_block", careless


@bug
def part_of_a_snapshot_lost_unnoticed() -> tuple[Any, str, Any]:
    def careless(table: EntityTable, sequence: int, bytes_max: int) -> Iterator[bytes]:
        segments = list(snapshot_segments(table, sequence, bytes_max))
        yield from segments[: max(1, len(segments) - 1)]

    return log, "snapshot_segments", careless


@bug
def snapshot_without_last_entity() -> tuple[Any, str, Any]:
    def careless(table: EntityTable, sequence: int, bytes_max: int) -> Iterator[bytes]:
        short = EntityTable(table.layout)
        short.fill(table.entity_ids[:-1], table.rows[: len(table) - 1])
        chosen = short if len(table) > 1 else table
        yield from snapshot_segments(chosen, sequence, bytes_max)

    return log, "snapshot_segments", careless


@bug
def clocks_not_in_the_snapshot() -> tuple[Any, str, Any]:
    def careless(table: EntityTable, sequence: int, bytes_max: int) -> Iterator[bytes]:
        clocks, table.clocks = table.clocks, {}
        segments = list(snapshot_segments(table, sequence, bytes_max))
        table.clocks = clocks
        yield from segments

    return log, "snapshot_segments", careless


@bug
def log_cleared_where_its_snapshot_was_taken() -> tuple[Any, str, Any]:
    """Before the snapshot is whole, and the epoch agrees."""
    before = SnapshotScheduler.begin

    def begin(
        self: SnapshotScheduler, table: EntityTable, cells: Cells, epoch: Epoch, *size: Any
    ) -> IncrementalSnapshot:
        begun = before(self, table, cells, epoch, *size)
        for number in range(epoch.first_cell, epoch.log_cell):
            cells.log[number % len(cells.log)].clear()
        epoch.first_segment, epoch.first_cell = epoch.next_segment, epoch.log_cell
        epoch.log_bytes = 0
        begun._point = epoch.next_segment, 0, epoch.log_cell
        return begun

    return SnapshotScheduler, "begin", begin


@bug
def blocks_since_a_snapshot_was_taken_lost() -> tuple[Any, str, Any]:
    """It is taken for one of the table as it is when its last slice is written."""
    before = IncrementalSnapshot._finish

    def finish(self: IncrementalSnapshot, cells: Cells, epoch: Epoch) -> None:
        before(self, cells, epoch)
        epoch.first_segment, epoch.log_bytes = epoch.next_segment, 0

    return IncrementalSnapshot, "_finish", finish


@bug
def blocks_before_a_snapshot_stepped_again() -> tuple[Any, str, Any]:
    before = IncrementalSnapshot._finish

    def finish(self: IncrementalSnapshot, cells: Cells, epoch: Epoch) -> None:
        _, log_bytes, _ = self._point
        epoch.log_bytes += log_bytes
        self._point = epoch.first_segment, log_bytes, epoch.first_cell
        before(self, cells, epoch)

    return IncrementalSnapshot, "_finish", finish


@bug
def table_not_frozen_for_its_snapshot() -> tuple[Any, str, Any]:
    return EntityTable, "copy_rows", lambda self: self


@bug
def slice_skipped() -> tuple[Any, str, Any]:
    before = IncrementalSnapshot.write

    def write(self: IncrementalSnapshot, cells: Cells, epoch: Epoch, bytes_max: int) -> bool:
        if self._written == 1 and self._next is not None:
            self._next = next(self._segments, None) or self._next
        return before(self, cells, epoch, bytes_max)

    return IncrementalSnapshot, "write", write


@bug
def part_of_a_snapshot_put_in_force() -> tuple[Any, str, Any]:
    before = IncrementalSnapshot.write

    def write(self: IncrementalSnapshot, cells: Cells, epoch: Epoch, bytes_max: int) -> bool:
        is_whole = before(self, cells, epoch, bytes_max)
        if not is_whole:
            self._finish(cells, epoch)
        return True

    return IncrementalSnapshot, "write", write


@bug
def generations_share_their_cells() -> tuple[Any, str, Any]:
    def careless(cells: Cells, generation: int) -> Any:
        return cells.snapshot

    return slices_module, "half", careless


@bug
def who_left_where_a_snapshot_was_taken_comes_back() -> tuple[Any, str, Any]:
    return log, "append_eviction", lambda cells, epoch, layout: None


@bug
def log_never_too_long() -> tuple[Any, str, Any]:
    return SnapshotScheduler, "is_due", lambda self, log_bytes, log_bytes_max: False
