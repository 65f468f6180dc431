"""The scoring step of one shard: accept blocks in order, score them, store the state.

This is everything between "a block arrives" and "these cells change", over abstract state
cells. The Beam step passes the cells of its runner; tests and simulators pass theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.scored_block import ScoredBlock
from streamgauge.models.drift.windows import DriftWindows, WindowReport
from streamgauge.models.errors import StateDamagedError
from streamgauge.models.scoring.policy import ShardPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state import log, ordering
from streamgauge.models.state.cells import Cells
from streamgauge.models.state.entity_table import EntityTable, Layout
from streamgauge.models.state.epoch import Epoch, PartitionProgress, decode_epoch, encode_epoch
from streamgauge.models.state.incremental_snapshot import (
    LOG_GROWTH_MAX,
    IncrementalSnapshot,
    SnapshotScheduler,
)
from streamgauge.models.state.ordering import ReadyBlock
from streamgauge.models.state.snapshot_file import ShardSnapshot


@dataclass(slots=True)
class Outcome:
    """The results of one arriving block."""

    scored: list[ScoredBlock] = field(default_factory=list)
    drift: list[WindowReport] = field(default_factory=list)
    #: As in `models.state.ordering.Arrival`.
    duplicates: int = 0
    held: int = 0
    desyncs: int = 0


@dataclass(slots=True, eq=False)
class _LiveTable:
    """A cached table, and the epoch whose state it equals."""

    epoch: Epoch
    table: EntityTable
    drift: DriftWindows
    #: Whether the table holds what the log does not: the next write must be a snapshot.
    must_snapshot: bool = False
    #: The snapshot that is being written; None if there is none.
    snapshot: IncrementalSnapshot | None = None


@dataclass(slots=True)
class _IdleSince:
    """The epoch that a shard last had, and since when."""

    token: bytes
    since_s: float


class ShardScorer:
    """Takes the blocks of many shards, one at a time, through scorer and state."""

    def __init__(self, scorer: Scorer, windows: DriftWindows, policy: ShardPolicy) -> None:
        self._scorer = scorer
        self._windows = windows
        self._policy = policy
        self._live: dict[int, _LiveTable] = {}
        self._idle: dict[int, _IdleSince] = {}
        self._scheduler = SnapshotScheduler()

    @property
    def layout(self) -> Layout:
        """Layout of the rows of all shards."""
        return self._scorer.layout

    def process(self, shard: int, data: bytes, cells: Cells, token: bytes) -> Outcome:
        """Advance `shard` by a block.

        Args:
            shard: the shard that the block was cut for.
            data: a sub-block with its chain link, as `encode_block` wrote it.
            cells: state of the shard; written only if something changed.
            token: 8 random bytes, the name of the new epoch if this call writes.

        Raises:
            StateFormatError: the state is damaged, or of another artifact or release.
        """
        live = self._load(shard, cells)
        arrival = ordering.accept(live.epoch, cells, data, self._policy.held_blocks_max)
        outcome = Outcome(duplicates=arrival.duplicates, held=arrival.held, desyncs=arrival.desyncs)
        if arrival.ready or arrival.held:
            self._score(live, arrival.ready, outcome)
            if any(_changes_state(block) for _, block in arrival.ready):
                self._store(live, cells, arrival.ready)
                cells.drift.write(live.drift.to_bytes())
            self._commit(live, cells, token)
        self._cache(shard, live)
        return outcome

    def _score(self, live: _LiveTable, ready: list[ReadyBlock], outcome: Outcome) -> None:
        for _, block in ready:
            scored = self._scorer.step(live.table, block)
            live.epoch.counts.add(scored)
            outcome.scored.append(scored)
            outcome.drift += live.drift.add(scored)
        # The log still holds the events of an erased entity; a snapshot does not.
        live.must_snapshot |= any(scored.erased for scored in outcome.scored)

    def flush_drift(self, shard: int, cells: Cells, token: bytes) -> list[WindowReport]:
        """Report and drop the open drift windows of a shard, at the end of input or when idle."""
        live = self._load(shard, cells)
        reports = live.drift.flush()
        if reports:
            cells.drift.write(live.drift.to_bytes())
            self._commit(live, cells, token)
        self._cache(shard, live)
        return reports

    def flush_if_idle(
        self, shard: int, cells: Cells, token: bytes, *, now_s: float, idle_s: float
    ) -> list[WindowReport]:
        """Report the open drift windows of a shard whose state has not changed for `idle_s`.

        Args:
            shard: the shard.
            cells: state of the shard.
            token: as in `process`.
            now_s: time of a monotonic clock, seconds.
            idle_s: time without a change after which a shard is idle, seconds.
        """
        current = decode_epoch(cells.epoch.read()).token
        idle = self._idle.get(shard)
        if idle is None or idle.token != current:
            self._idle[shard] = _IdleSince(current, now_s)
        elif now_s - idle.since_s >= idle_s:
            return self.flush_drift(shard, cells, token)
        return []

    def take_snapshot(self, shard: int, cells: Cells) -> ShardSnapshot:
        """Return the state of the shard for a snapshot file; shares memory with the table."""
        live = self._load(shard, cells)
        self._cache(shard, live)
        return ShardSnapshot(shard, live.epoch, live.drift.to_bytes(), live.table)

    def start_from(self, snapshot: ShardSnapshot, cells: Cells, token: bytes) -> None:
        """Give the state of a snapshot to a shard that has none.

        Blocks that were held back are not part of it: the job reads the log again from the
        progress of the snapshot on.
        """
        saved, table = snapshot.epoch, snapshot.table
        # The reader of this job has seen no offset resets yet.
        reached = {
            partition: PartitionProgress(progress.first_offset, progress.end_offset)
            for partition, progress in saved.reached.items()
        }
        for clock in table.clocks.values():
            clock.offset_resets = 0
        epoch = Epoch(counts=saved.counts, reached=reached, policies=saved.policies)
        drift = self._windows.from_bytes(snapshot.shard, snapshot.drift)
        live = _LiveTable(epoch, table, drift)
        self._replace_log(live, cells)
        cells.drift.write(snapshot.drift)
        self._commit(live, cells, token)
        self._cache(snapshot.shard, live)

    def _load(self, shard: int, cells: Cells) -> _LiveTable:
        """Take the table of a shard from the cache or rebuild it.

        It returns to the cache only when the call has succeeded.
        """
        epoch = decode_epoch(cells.epoch.read())
        live = self._live.pop(shard, None)
        if live is not None and live.epoch.token == epoch.token:
            return live
        epoch.counts.stale_tables += live is not None
        drift = self._windows.from_bytes(shard, cells.drift.read())
        try:
            return _LiveTable(epoch, self._rebuild(epoch, cells), drift)
        except StateDamagedError:
            if self._policy.on_damage == "fail":
                raise
            epoch.counts.resets += 1
            return _LiveTable(epoch, EntityTable(self._scorer.layout), drift, must_snapshot=True)

    def _rebuild(self, epoch: Epoch, cells: Cells) -> EntityTable:
        """Rebuild the table from the log: read its snapshot, then step its blocks again.

        The blocks are stepped under the policies that they were scored with. An operator may
        have changed the policies since, which must not change the state.
        """
        layout = self._scorer.layout
        scorer = self._scorer.under(epoch.policies) if epoch.policies else self._scorer
        table = log.read_table(cells, epoch, layout)
        for block in log.read_log(cells, epoch, layout):
            if block is None:
                scorer.evict(table)
            else:
                scorer.step(table, block)
        return table

    @staticmethod
    def _commit(live: _LiveTable, cells: Cells, token: bytes) -> None:
        live.epoch.token = token
        cells.epoch.write(encode_epoch(live.epoch))

    def _cache(self, shard: int, live: _LiveTable) -> None:
        self._live[shard] = live  # last in insertion order = most recently used
        while len(self._live) > self._policy.tables_max:
            del self._live[next(iter(self._live))]

    def _store(self, live: _LiveTable, cells: Cells, scored: list[ReadyBlock]) -> None:
        """Append the blocks to the log, and replace a log that is too long by a snapshot."""
        epoch, table, policy = live.epoch, live.table, self._policy
        table_bytes = len(table) * table.layout.dtype.itemsize
        log_bytes_max = max(policy.log_bytes_min, policy.log_factor * table_bytes)
        self._append(live, cells, scored, log_bytes_max)
        if live.must_snapshot or epoch.policies != self._scorer.policies:
            self._snapshot_at_once(live, cells)
        elif live.snapshot is not None:
            if live.snapshot.write(cells, epoch, policy.slice_bytes_max):
                live.snapshot = None
        elif epoch.log_bytes > log_bytes_max and (
            table_bytes <= policy.segment_bytes_max
            or epoch.log_bytes > LOG_GROWTH_MAX * log_bytes_max
        ):
            self._snapshot_at_once(live, cells)
        elif self._scheduler.is_due(epoch.log_bytes, log_bytes_max):
            self._scorer.evict(table)
            log.append_eviction(cells, epoch, table.layout)
            live.snapshot = self._scheduler.begin(table, cells, epoch, policy.segment_bytes_max)

    def _append(
        self, live: _LiveTable, cells: Cells, scored: list[ReadyBlock], log_bytes_max: float
    ) -> None:
        epoch, layout = live.epoch, live.table.layout
        cell_bytes_max = log.cell_bytes_max(cells, log_bytes_max, self._policy.segment_bytes_max)
        before = epoch.log_bytes
        for data, block in scored:
            if _changes_state(block):
                log.append_block(cells, epoch, layout, data, cell_bytes_max)
        self._scheduler.stored_bytes += epoch.log_bytes - before

    def _snapshot_at_once(self, live: _LiveTable, cells: Cells) -> None:
        self._scorer.evict(live.table)
        live.epoch.policies = self._scorer.policies
        self._replace_log(live, cells)

    def _replace_log(self, live: _LiveTable, cells: Cells) -> None:
        """Replace the whole log by a snapshot of the table."""
        size = self._policy.segment_bytes_max
        log.replace_by_snapshot(cells, live.epoch, live.table, size)
        live.must_snapshot, live.snapshot = False, None


def _changes_state(block: Block) -> bool:
    """Return whether a block can change the table; the log holds only such blocks."""
    return len(block) > 0 or block.offset_resets > 0
