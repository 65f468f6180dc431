"""The log of a shard in its state cells: append a block, replace by a snapshot, read.

A read holds at most one cell in memory, besides the table. Each segment of a snapshot names
its rows, so segments are distributed over the cells in turn and read in any order. Snapshots
have generations, which use the two halves of the snapshot cells alternately. Segment n of
generation g has the sequence number g * 2^32 + n, so segments of different generations cannot
be confused. Blocks must be stepped in order, so the log cells are filled one after the
other, in a ring. Their sequence numbers continue from one generation to the next.
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
#: The ring holds a log of this many times its bound. The log grows by half while it waits for
#: the scheduler, and further while its snapshot is written.
_LOG_CAPACITY = 1.75


def append_block(
    cells: Cells, epoch: Epoch, layout: Layout, data: bytes, cell_bytes_max: float
) -> None:
    """Append a scored block.

    Args:
        cells: state of the shard.
        epoch: of the shard; its counters are updated.
        layout: of the rows.
        data: the block, as `encode_block` wrote it.
        cell_bytes_max: size from which on the log continues in the next cell, if there is one.
    """
    if epoch.cell_bytes >= cell_bytes_max:
        begin_cell(cells, epoch)
    _append(cells, epoch, block_segment(layout, epoch.next_segment, data))


def append_eviction(cells: Cells, epoch: Epoch, layout: Layout) -> None:
    """Append that rows were dropped at this point of the log."""
    _append(cells, epoch, eviction_segment(layout, epoch.next_segment))


def begin_cell(cells: Cells, epoch: Epoch) -> None:
    """Continue in the next cell of the ring, if one is free."""
    if epoch.cell_bytes and epoch.log_cell + 1 - epoch.first_cell < len(cells.log):
        epoch.log_cell += 1
        epoch.cell_bytes = 0


def cell_bytes_max(cells: Cells, log_bytes_max: float, segment_bytes_max: int) -> float:
    """Return the size of a full cell, if the log is replaced at `log_bytes_max`."""
    return max(segment_bytes_max, _LOG_CAPACITY * log_bytes_max / len(cells.log))


def replace_by_snapshot(
    cells: Cells, epoch: Epoch, table: EntityTable, segment_bytes_max: int
) -> None:
    """Replace the whole log by a snapshot of `table`, in one call."""
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
    """Return the cells for the snapshot of a generation."""
    size = len(cells.snapshot) // 2
    return cells.snapshot[size:] if generation % 2 else cells.snapshot[:size]


def cut_snapshot(table: EntityTable, generation: int, segment_bytes_max: int) -> Iterator[bytes]:
    """Yield the segments of a snapshot."""
    return snapshot_segments(table, generation << _GENERATION_BITS, segment_bytes_max)


def read_table(cells: Cells, epoch: Epoch, layout: Layout) -> EntityTable:
    """Read the table of the valid snapshot; an unfinished snapshot is ignored.

    Raises:
        StateDamagedError: a segment is missing, repeated, damaged, or of another snapshot.
        StateFormatError: a segment is of another schema, artifact or release.
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
    """Yield the blocks since the snapshot in order, and None where rows were dropped.

    Raises:
        StateDamagedError: a segment is missing, repeated or damaged.
        StateFormatError: a segment is of another schema, artifact or release.
    """
    expected = epoch.first_segment
    for number in range(epoch.first_cell, epoch.log_cell + 1):
        for segment in _in_order(cells, number, layout):
            # If the ring had no free cell, the first cell also holds older segments.
            if segment.sequence < epoch.first_segment:
                continue
            if segment.sequence != expected or segment.kind not in (BLOCK, EVICTION):
                raise _not_once(f"segment {segment.sequence} instead of {expected}")
            expected += 1
            yield decode_block(segment.body) if segment.kind == BLOCK else None
    if expected != epoch.next_segment:
        last = epoch.next_segment - 1
        raise _not_once(f"only those before {expected}, and {last} is the last one")


def _append(cells: Cells, epoch: Epoch, segment: bytes) -> None:
    cells.log[epoch.log_cell % len(cells.log)].add(segment)
    epoch.next_segment += 1
    epoch.log_bytes += len(segment)
    epoch.cell_bytes += len(segment)


def _in_order(cells: Cells, number: int, layout: Layout) -> list[Segment]:
    """Return the segments of one log cell in order; a bag has no order."""
    cell = cells.log[number % len(cells.log)]
    segments = (read_segment(layout, data) for data in cell.read())
    return sorted(segments, key=lambda segment: segment.sequence)


def _not_once(got: str) -> StateDamagedError:
    return StateDamagedError(f"state log: needs every segment once; got {got}; {REPAIR}")
