"""A snapshot that is copied in one step and written in several.

A snapshot of 50,000 entities is 150 MB. Written in one call it would delay the shard, and
the checkpoint that waits for the shard. So the table is copied at one point of the log, and
each block that is stored from then on also writes a part of the copy, to the cells of the next
generation:

    log       ───────────────┬──┬──┬──┬──┬──────►
    parts               copy ┘  1  2  3  4 last: the new snapshot becomes valid, and the log
    a restore reads ◄ old snapshot, all blocks ►  before the copy is cleared

The copy exists only in memory. A restore reads the old snapshot and all blocks since,
and ignores the part of the new snapshot that was written.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

from streamgauge.models.state.cells import BagCell, Cells
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.models.state.epoch import Epoch
from streamgauge.models.state.log import begin_cell, cut_snapshot, half

#: A log of more than this many times its bound lost an unfinished snapshot before. Its next
#: snapshot is written in one call.
LOG_GROWTH_MAX = 2.0
#: A snapshot is written twice as fast as blocks are stored. If the logs of all shards of a worker
#: reach their bound together, the last one has grown by half when its snapshot begins.
_WRITE_RATIO = 2.0
#: A log that has grown by more than half waits no longer: the shard before it is idle.
QUEUE_PATIENCE = 1.5


class SnapshotScheduler:
    """Lets the shards of a worker write their snapshots one after the other.

    So at most one table is in memory twice. An unfinished snapshot ends with the cached table
    that it belongs to, which lets the next shard begin.
    """

    def __init__(self) -> None:
        #: Bytes of blocks stored for all shards of the worker.
        self.stored_bytes = 0
        self._last: Callable[[], IncrementalSnapshot | None] = lambda: None

    def is_due(self, log_bytes: int, log_bytes_max: float) -> bool:
        """Return whether a log of `log_bytes` is too long and its snapshot may begin."""
        is_busy = self._last() is not None
        return log_bytes > log_bytes_max * (QUEUE_PATIENCE if is_busy else 1.0)

    def begin(
        self, table: EntityTable, cells: Cells, epoch: Epoch, segment_bytes_max: int
    ) -> IncrementalSnapshot:
        """Copy a table that equals the log so far; nothing is written yet."""
        begun = IncrementalSnapshot(self, table, cells, epoch, segment_bytes_max)
        self._last = weakref.ref(begun)
        return begun


class IncrementalSnapshot:
    """The part of a snapshot that is not written yet."""

    def __init__(
        self,
        scheduler: SnapshotScheduler,
        table: EntityTable,
        cells: Cells,
        epoch: Epoch,
        segment_bytes_max: int,
    ) -> None:
        begin_cell(cells, epoch)  # so that the cells before it can be cleared
        self._scheduler, self._stored_bytes = scheduler, scheduler.stored_bytes
        self._point = (epoch.next_segment, epoch.log_bytes, epoch.log_cell)
        self._generation, self._written = epoch.generation + 1, 0
        self._segments = cut_snapshot(table.copy_rows(), self._generation, segment_bytes_max)
        self._next = next(self._segments, None)

    def write(self, cells: Cells, epoch: Epoch, bytes_max: int) -> bool:
        """Write a segment, or more if blocks are stored faster, up to `bytes_max`.

        Returns:
            Whether the snapshot is complete. It is then the valid one.
        """
        target = half(cells, self._generation)
        if not self._written:  # the cells may hold a part of an unfinished snapshot
            _clear(target)
        left = min(_WRITE_RATIO * (self._scheduler.stored_bytes - self._stored_bytes), bytes_max)
        self._stored_bytes = self._scheduler.stored_bytes
        while self._next is not None:
            target[self._written % len(target)].add(self._next)
            self._written += 1
            left -= len(self._next)
            self._next = next(self._segments, None)
            if left <= 0:
                break
        if self._next is None:
            self._finish(cells, epoch)
        return self._next is None

    def _finish(self, cells: Cells, epoch: Epoch) -> None:
        """Make the snapshot the valid one, and clear the cells that it replaces."""
        _clear(half(cells, epoch.generation))
        first_segment, log_bytes, first_cell = self._point
        _clear([cells.log[n % len(cells.log)] for n in range(epoch.first_cell, first_cell)])
        epoch.generation, epoch.snapshot_segments = self._generation, self._written
        epoch.first_segment, epoch.first_cell = first_segment, first_cell
        epoch.log_bytes -= log_bytes


def _clear(bags: Sequence[BagCell]) -> None:
    for bag in bags:
        bag.clear()
