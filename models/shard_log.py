"""A shard's log in its state cells: appended to, replaced by a snapshot, read again.

No more than one cell of it is in memory at a time, besides the table itself. A snapshot's
segments say which rows they hold, so their cells are read in any order, and they go to them
in turn. Blocks must be stepped in order, so one cell is filled after the other.
"""

from __future__ import annotations

from collections.abc import Iterator

from models.block import Block, decode_block
from models.cells import Cells
from models.epoch import Epoch
from models.errors import StateDamagedError
from models.segment import (
    BLOCK,
    REPAIR,
    SNAPSHOT,
    Segment,
    SnapshotReader,
    block_segment,
    read_segment,
    snapshot_segments,
)
from models.table import EntityTable, Layout


def append_block(
    cells: Cells, epoch: Epoch, layout: Layout, data: bytes, cell_bytes_max: float
) -> None:
    """Append a block that was scored.

    Args:
        cells: the shard's state.
        epoch: moved on by the block.
        layout: whose state it is.
        data: the block, as `encode_block` wrote it.
        cell_bytes_max: the next cell is filled when the log holds this much per cell.
    """
    segment = block_segment(layout, epoch.next_segment, data)
    # The bound may grow with the table; a cell behind which others were filled stays closed.
    due = min(int(epoch.log_bytes // cell_bytes_max), len(cells.log) - 1)
    epoch.log_cell = max(epoch.log_cell, due)
    cells.log[epoch.log_cell].add(segment)
    epoch.next_segment += 1
    epoch.log_bytes += len(segment)


def replace_by_snapshot(
    cells: Cells, epoch: Epoch, table: EntityTable, segment_bytes_max: int
) -> None:
    """Make the snapshot of `table` the whole log."""
    for cell in (*cells.snapshot, *cells.log):
        cell.clear()
    epoch.first_segment = epoch.next_segment
    for segment in snapshot_segments(table, epoch.first_segment, segment_bytes_max):
        place = epoch.next_segment - epoch.first_segment
        cells.snapshot[place % len(cells.snapshot)].add(segment)
        epoch.next_segment += 1
    epoch.log_bytes = epoch.log_cell = 0


def read_table(cells: Cells, layout: Layout) -> tuple[EntityTable, set[int]]:
    """The table of the snapshot in `cells`, and the sequence numbers of its segments.

    Raises:
        StateDamagedError: a segment is missing, repeated or damaged.
        StateFormatError: a segment is of another contract, artifact or release.
    """
    reader, seen = SnapshotReader(layout), set()
    for cell in cells.snapshot:
        for data in cell.read():
            segment = read_segment(layout, data)
            if segment.kind != SNAPSHOT or segment.sequence in seen:
                raise _not_once(f"again segment {segment.sequence} in the snapshot")
            reader.add(segment.body)
            seen.add(segment.sequence)
    return reader.table(), seen


def read_blocks(cells: Cells, layout: Layout, first: int, end: int) -> Iterator[Block]:
    """The blocks in the segments `[first, end)`, in order.

    Raises:
        StateDamagedError: as above.
        StateFormatError: as above.
    """
    following = first
    for number in range(len(cells.log)):
        for segment in _in_order(cells, number, layout):
            if segment.sequence != following or segment.kind != BLOCK:
                raise _not_once(f"segment {segment.sequence} instead of {following}")
            following += 1
            yield decode_block(segment.body)
    if following != end:
        raise _not_once(f"only those before {following}, and {end - 1} is the last one")


def check_snapshot(epoch: Epoch, seen: set[int]) -> int:
    """The sequence number of the first block behind the snapshot whose segments were `seen`.

    Raises:
        StateDamagedError: a segment is missing, or none of this snapshot.
    """
    first = epoch.first_segment
    if seen != set(range(first, first + len(seen))) or (first > 0 and not seen):
        raise _not_once(f"{len(seen)} segments of a snapshot that begins at {first}")
    return first + len(seen)


def _in_order(cells: Cells, number: int, layout: Layout) -> list[Segment]:
    """The segments of one cell of the log; bags keep no order."""
    read = (read_segment(layout, data) for data in cells.log[number].read())
    return sorted(read, key=lambda segment: segment.sequence)


def _not_once(got: str) -> StateDamagedError:
    return StateDamagedError(f"state log: needs every segment once; got {got}; {REPAIR}")
