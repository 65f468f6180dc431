"""A shard's snapshot, taken at once and written in slices.

A snapshot of 50,000 entities is 150 MB: written in one call it would hold up the shard, and
the checkpoint that waits for it. So the table is copied at one point of the log, and each block
that is stored from then on takes a slice of the copy along, to the cells of the next generation:

    log       ───────────────┬──┬──┬──┬──┬──────►
    slices              copy ┘  1  2  3  4 last: it is the snapshot now, what lies
    restored  ◄ old snapshot and all blocks ►    before the copy is cleared

Only the copy knows of it, and lives no longer than the table it was made from. Who restores
finds the old snapshot whole, all blocks since, and of the next one a part that is never read.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

from streamgauge.models.state.cells import BagCell, Cells
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.models.state.epoch import Epoch
from streamgauge.models.state.log import begin_cell, cut_snapshot, half

#: With a log of more than so many times its bound, slices were begun and lost before: not again.
LOG_GROWTH_MAX = 2.0
#: A snapshot is written twice as fast as blocks are stored. So if the logs of all shards of a
#: worker reach their bound at once, the last one's has grown by half when its turn has come.
_WRITE_RATIO = 2.0
#: A log that has grown by more than half waits no longer: who it waits for is idle.
QUEUE_PATIENCE = 1.5


class SnapshotScheduler:
    """Sees that the snapshots of a worker's shards are written one after the other.

    So no more than one table is in memory twice. What is being written is lost with the
    table in memory that it belongs to, and with it the turn.
    """

    def __init__(self) -> None:
        #: Bytes of blocks stored for all shards of the worker.
        self.stored_bytes = 0
        self._last: Callable[[], IncrementalSnapshot | None] = lambda: None

    def is_due(self, log_bytes: int, log_bytes_max: float) -> bool:
        """Whether a log of `log_bytes` is too long, and it is its shard's turn."""
        is_taken = self._last() is not None
        return log_bytes > log_bytes_max * (QUEUE_PATIENCE if is_taken else 1.0)

    def begin(
        self, table: EntityTable, cells: Cells, epoch: Epoch, segment_bytes_max: int
    ) -> IncrementalSnapshot:
        """Take the snapshot of a table that stands for the log so far; nothing is written yet."""
        begun = IncrementalSnapshot(self, table, cells, epoch, segment_bytes_max)
        self._last = weakref.ref(begun)
        return begun


class IncrementalSnapshot:
    """What is left to be written of a snapshot."""

    def __init__(
        self,
        turns: SnapshotScheduler,
        table: EntityTable,
        cells: Cells,
        epoch: Epoch,
        segment_bytes_max: int,
    ) -> None:
        begin_cell(cells, epoch)  # those before it can be cleared
        self._turns, self._stored_bytes = turns, turns.stored_bytes
        self._point = (epoch.next_segment, epoch.log_bytes, epoch.log_cell)
        self._generation, self._written = epoch.generation + 1, 0
        self._segments = cut_snapshot(table.copy_rows(), self._generation, segment_bytes_max)
        self._next = next(self._segments, None)

    def write(self, cells: Cells, epoch: Epoch, bytes_max: int) -> bool:
        """Write a segment, and more if blocks come faster, up to `bytes_max`.

        Returns:
            Whether the snapshot is whole: it is the one in force then.
        """
        target = half(cells, self._generation)
        if not self._written:  # a part of one that was given up may lie there
            _clear(target)
        left = min(_WRITE_RATIO * (self._turns.stored_bytes - self._stored_bytes), bytes_max)
        self._stored_bytes = self._turns.stored_bytes
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
        """Put the snapshot in force, and clear what it replaces."""
        _clear(half(cells, epoch.generation))
        first_segment, log_bytes, first_cell = self._point
        _clear([cells.log[n % len(cells.log)] for n in range(epoch.first_cell, first_cell)])
        epoch.generation, epoch.snapshot_segments = self._generation, self._written
        epoch.first_segment, epoch.first_cell = first_segment, first_cell
        epoch.log_bytes -= log_bytes


def _clear(bags: Sequence[BagCell]) -> None:
    for bag in bags:
        bag.clear()
