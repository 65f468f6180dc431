"""A shard's log in its state cells: appended to, replaced by a snapshot, read again.

No more than one cell of it is in memory at a time, besides the table itself. A snapshot's
segments say which rows they hold, so their cells are read in any order, and they go to them
in turn. Snapshots have generations, each of which uses the other half of the cells; segment n
of generation g has the sequence number g * 2^32 + n, so none passes for one of another.
Blocks must be stepped in order, so one cell is filled after the other, in a ring; their
sequence numbers go on from one generation to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streamgauge.models.blocks.block import Block, decode_block
from streamgauge.models.errors import StateDamagedError
from streamgauge.models.state.cells import BagCell, Cells
from streamgauge.models.state.entity_table import EntityTable, Layout
from streamgauge.models.state.epoch import Epoch
from streamgauge.models.state.segment import (
    BLOCK,
    EVICTION,
    REPAIR,
    SNAPSHOT,
    Segment,
    SnapshotReader,
    block_segment,
    eviction_segment,
    read_segment,
    snapshot_segments,
)

_GENERATION_BITS = 32
#: The ring takes a log of so many times its bound: half as much again while it waits for its
#: turn, and what comes while its snapshot is written.
_LOG_CAPACITY = 1.75


def append_block(
    cells: Cells, epoch: Epoch, layout: Layout, data: bytes, cell_bytes_max: float
) -> None:
    """Append a block that was scored.

    Args:
        cells: the shard's state.
        epoch: moved on by the block.
        layout: whose state it is.
        data: the block, as `encode_block` wrote it.
        cell_bytes_max: the next cell is filled when one holds as much, unless it is the last.
    """
    if epoch.cell_bytes >= cell_bytes_max:
        begin_cell(cells, epoch)
    _append(cells, epoch, block_segment(layout, epoch.next_segment, data))


def append_eviction(cells: Cells, epoch: Epoch, layout: Layout) -> None:
    """Append that rows were dropped here."""
    _append(cells, epoch, eviction_segment(layout, epoch.next_segment))


def begin_cell(cells: Cells, epoch: Epoch) -> None:
    """Go on in the next cell of the ring, if there is one left."""
    if epoch.cell_bytes and epoch.log_cell + 1 - epoch.first_cell < len(cells.log):
        epoch.log_cell += 1
        epoch.cell_bytes = 0


def cell_bytes_max(cells: Cells, log_bytes_max: float, segment_bytes_max: int) -> float:
    """What a cell of the log holds, if the log holds `log_bytes_max` when it is replaced."""
    return max(segment_bytes_max, _LOG_CAPACITY * log_bytes_max / len(cells.log))


def replace_by_snapshot(
    cells: Cells, epoch: Epoch, table: EntityTable, segment_bytes_max: int
) -> None:
    """Make the snapshot of `table` the whole log, at once."""
    for cell in (*cells.snapshot, *cells.log):
        cell.clear()
    epoch.generation += 1
    epoch.snapshot_segments = 0
    target = half(cells, epoch.generation)
    for segment in cut_snapshot(table, epoch.generation, segment_bytes_max):
        target[epoch.snapshot_segments % len(target)].add(segment)
        epoch.snapshot_segments += 1
    epoch.first_segment = epoch.next_segment
    epoch.log_bytes = epoch.cell_bytes = epoch.first_cell = epoch.log_cell = 0


def half(cells: Cells, generation: int) -> Sequence[BagCell]:
    """The cells for the snapshot of a generation."""
    size = len(cells.snapshot) // 2
    return cells.snapshot[size:] if generation % 2 else cells.snapshot[:size]


def cut_snapshot(table: EntityTable, generation: int, segment_bytes_max: int) -> Iterator[bytes]:
    """The segments of a snapshot, cut as they are asked for."""
    return snapshot_segments(table, generation << _GENERATION_BITS, segment_bytes_max)


def read_table(cells: Cells, epoch: Epoch, layout: Layout) -> EntityTable:
    """The table of the snapshot in force; of one that was not finished nothing is read.

    Raises:
        StateDamagedError: a segment is missing, repeated, damaged, or of another snapshot.
        StateFormatError: a segment is of another contract, artifact or release.
    """
    first, reader = epoch.generation << _GENERATION_BITS, SnapshotReader(layout)
    missing = set(range(first, first + epoch.snapshot_segments))
    for cell in half(cells, epoch.generation):
        for data in cell.read():
            segment = read_segment(layout, data)
            if segment.kind != SNAPSHOT or segment.sequence not in missing:
                raise _not_once(f"segment {segment.sequence} in snapshot {epoch.generation}")
            reader.add(segment.body)
            missing.remove(segment.sequence)
    if missing:
        raise _not_once(f"snapshot {epoch.generation} without {len(missing)} of its segments")
    return reader.table()


def read_log(cells: Cells, epoch: Epoch, layout: Layout) -> Iterator[Block | None]:
    """The blocks since the snapshot in order, and None where rows were dropped.

    Raises:
        StateDamagedError: as above.
        StateFormatError: as above.
    """
    following = epoch.first_segment
    for number in range(epoch.first_cell, epoch.log_cell + 1):
        for segment in _in_order(cells, number, layout):
            # Where the ring had no cell left, older ones share the first one.
            if segment.sequence < epoch.first_segment:
                continue
            if segment.sequence != following or segment.kind not in (BLOCK, EVICTION):
                raise _not_once(f"segment {segment.sequence} instead of {following}")
            following += 1
            yield decode_block(segment.body) if segment.kind == BLOCK else None
    if following != epoch.next_segment:
        last = epoch.next_segment - 1
        raise _not_once(f"only those before {following}, and {last} is the last one")


def _append(cells: Cells, epoch: Epoch, segment: bytes) -> None:
    cells.log[epoch.log_cell % len(cells.log)].add(segment)
    epoch.next_segment += 1
    epoch.log_bytes += len(segment)
    epoch.cell_bytes += len(segment)


def _in_order(cells: Cells, number: int, layout: Layout) -> list[Segment]:
    """The segments of one cell of the log; bags keep no order."""
    read = (read_segment(layout, data) for data in cells.log[number % len(cells.log)].read())
    return sorted(read, key=lambda segment: segment.sequence)


def _not_once(got: str) -> StateDamagedError:
    return StateDamagedError(f"state log: needs every segment once; got {got}; {REPAIR}")
