"""One shard's life: accept blocks in order, score them, keep the state exact.

This is the whole of what a scoring step does between "here is a block" and "here is
what changed", over an abstract set of state cells. The Beam step passes the runner's
cells, tests and simulators pass their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streamgauge.models.blocks.block import (
    JUMPED,
    NOTHING_BEFORE,
    Block,
    decode_block,
    encode_block,
)
from streamgauge.models.blocks.chain import Link, link_of
from streamgauge.models.blocks.scored_block import ScoredBlock
from streamgauge.models.drift.windows import DriftWindows, WindowReport
from streamgauge.models.errors import ConfigError, StateDamagedError
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state import log
from streamgauge.models.state.cells import Cells
from streamgauge.models.state.entity_table import EntityTable, Layout
from streamgauge.models.state.epoch import Epoch, PartitionProgress, decode_epoch, encode_epoch
from streamgauge.models.state.incremental_snapshot import (
    LOG_GROWTH_MAX,
    IncrementalSnapshot,
    SnapshotScheduler,
)
from streamgauge.models.state.snapshot_file import ShardSnapshot

DAMAGE_POLICIES = ("fail", "reset")

#: A block that continues its chain: its bytes, and what they say.
_Ready = tuple[bytes, Block]
#: How far a shard has come in a partition of which it has heard nothing.
_NOWHERE = PartitionProgress(NOTHING_BEFORE, NOTHING_BEFORE)


@dataclass(frozen=True, slots=True)
class ShardPolicy:
    """Bounds of a shard's bookkeeping."""

    #: Blocks held back behind a gap before the gap is given up and counted as a desync.
    held_blocks_max: int = 64
    #: Tables a worker keeps in memory; the least recently used one is rebuilt when needed.
    tables_max: int = 1_024
    #: The log is replaced by a snapshot when its blocks weigh this many times the table. More
    #: makes writing cheaper, and restoring longer: it steps all blocks of the log again.
    log_factor: float = 1.0
    #: Below this a log is never replaced: small shards would be rewritten at every block.
    log_bytes_min: int = 1 << 20
    #: A snapshot is cut into segments of about this size, and a cell of the log takes as much at
    #: least. Beam sends a bundle's writes in pieces of 10 MB, but never cuts a value.
    segment_bytes_max: int = 1 << 20
    #: A block takes one segment of a snapshot along, or several of so many bytes if the worker
    #: stores blocks faster than that.
    slice_bytes_max: int = 8 << 20
    #: A log that is damaged: "fail", or "reset" the shard, whose entities start anew.
    on_damage: str = "fail"

    def __post_init__(self) -> None:
        for name in ("held_blocks_max", "tables_max", "segment_bytes_max", "slice_bytes_max"):
            if getattr(self, name) < 1:
                raise ConfigError(f"scoring: {name} must be >= 1; got {getattr(self, name)}")
        if self.on_damage not in DAMAGE_POLICIES:
            raise ConfigError(
                f"state: on_damage must be one of {DAMAGE_POLICIES}; got {self.on_damage!r}"
            )


@dataclass(slots=True)
class Outcome:
    """What one block brought about."""

    scored: list[ScoredBlock] = field(default_factory=list)
    drift: list[WindowReport] = field(default_factory=list)
    #: Blocks dropped because their offsets were already scored.
    duplicates: int = 0
    #: Blocks held back behind a gap.
    held: int = 0
    #: Gaps given up: events between the chain's end and the block that was accepted are lost.
    desyncs: int = 0


@dataclass(slots=True, eq=False)
class _Live:
    """A table in memory and the epoch it stands for."""

    epoch: Epoch
    table: EntityTable
    drift: DriftWindows
    #: The log does not hold what the table does: the next write is a snapshot.
    must_snapshot: bool = False
    #: What is left to be written of its snapshot; None if none is being written.
    slices: IncrementalSnapshot | None = None


@dataclass(slots=True)
class _IdleSince:
    """The epoch a shard was last found in, and since when."""

    token: bytes
    since_s: float


class ShardScorer:
    """Takes the blocks of many shards, one at a time, through scorer and state."""

    def __init__(self, scorer: Scorer, windows: DriftWindows, policy: ShardPolicy) -> None:
        self._scorer = scorer
        self._windows = windows
        self._policy = policy
        self._live: dict[int, _Live] = {}
        self._quiet: dict[int, _IdleSince] = {}
        self._turns = SnapshotScheduler()

    @property
    def layout(self) -> Layout:
        """What a row of the shards' tables is made of."""
        return self._scorer.layout

    def process(self, shard: int, data: bytes, cells: Cells, token: bytes) -> Outcome:
        """Advance `shard` by a block.

        Args:
            shard: the shard the block was cut for.
            data: a sub-block with its chain link, as `encode_block` wrote it.
            cells: the shard's state; written only if something changed, and never half.
            token: 8 fresh random bytes, the epoch's name if this call writes.

        Raises:
            StateFormatError: the state is damaged, or of another artifact or release.
        """
        live = self._take(shard, cells)
        outcome = Outcome()
        ready = self._in_order(live.epoch, data, cells, outcome)
        if ready or outcome.held:
            for _, block in ready:
                scored = self._scorer.step(live.table, block)
                live.epoch.counts.add(scored)
                outcome.scored.append(scored)
                outcome.drift += live.drift.add(scored)
            # The log holds what an erased entity sent; a snapshot does not.
            live.must_snapshot |= any(scored.erased for scored in outcome.scored)
            if any(_changes_state(block) for _, block in ready):
                self._store(live, cells, ready)
                cells.drift.write(live.drift.to_bytes())
            self._renew(live, cells, token)
        self._keep(shard, live)
        return outcome

    def flush_drift(self, shard: int, cells: Cells, token: bytes) -> list[WindowReport]:
        """Report and forget the open drift windows of a shard: at the end of input or when idle."""
        live = self._take(shard, cells)
        reports = live.drift.flush()
        if reports:
            cells.drift.write(live.drift.to_bytes())
            self._renew(live, cells, token)
        self._keep(shard, live)
        return reports

    def flush_if_idle(
        self, shard: int, cells: Cells, token: bytes, now_s: float, quiet_s: float
    ) -> list[WindowReport]:
        """Report the open drift windows of a shard that nothing has changed for `quiet_s`.

        Args:
            shard: the shard.
            cells: its state.
            token: as in `process`.
            now_s: the time, of any clock that only goes forward, seconds.
            quiet_s: how long is quiet.
        """
        found = decode_epoch(cells.epoch.read()).token
        quiet = self._quiet.get(shard)
        if quiet is None or quiet.token != found:
            self._quiet[shard] = _IdleSince(found, now_s)
        elif now_s - quiet.since_s >= quiet_s:
            return self.flush_drift(shard, cells, token)
        return []

    def take_snapshot(self, shard: int, cells: Cells) -> ShardSnapshot:
        """Everything the shard remembers, to be kept elsewhere; shares the table's memory."""
        live = self._take(shard, cells)
        self._keep(shard, live)
        return ShardSnapshot(shard, live.epoch, live.drift.to_bytes(), live.table)

    def start_from(self, snapshot: ShardSnapshot, cells: Cells, token: bytes) -> None:
        """Give a shard that has no state the one that was kept elsewhere.

        What was held back there comes again: the log is read from the positions on.
        """
        kept, table = snapshot.epoch, snapshot.table
        # The reader is a new one and has jumped over nothing.
        reached = {
            p: PartitionProgress(reach.began, reach.end) for p, reach in kept.reached.items()
        }
        for clock in table.clocks.values():
            clock.offset_resets = 0
        epoch = Epoch(counts=kept.counts, reached=reached, policies=kept.policies)
        drift = self._windows.from_bytes(snapshot.shard, snapshot.drift)
        live = _Live(epoch, table, drift)
        self._replace_log(live, cells)
        cells.drift.write(snapshot.drift)
        self._renew(live, cells, token)
        self._keep(snapshot.shard, live)

    def _take(self, shard: int, cells: Cells) -> _Live:
        """The live table of a shard; out of the cache until the call has succeeded."""
        epoch = decode_epoch(cells.epoch.read())
        live = self._live.pop(shard, None)
        if live is not None and live.epoch.token == epoch.token:
            return live
        epoch.counts.stale_tables += live is not None
        drift = self._windows.from_bytes(shard, cells.drift.read())
        try:
            return _Live(epoch, self._rebuild(epoch, cells), drift)
        except StateDamagedError:
            if self._policy.on_damage == "fail":
                raise
            epoch.counts.resets += 1
            return _Live(epoch, EntityTable(self._scorer.layout), drift, must_snapshot=True)

    def _rebuild(self, epoch: Epoch, cells: Cells) -> EntityTable:
        """The table that the log stands for: its snapshot, and its blocks stepped again.

        Under the policies they were first scored with: an operator may have changed
        thresholds since, and what was remembered then must not change with them.
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
    def _renew(live: _Live, cells: Cells, token: bytes) -> None:
        live.epoch.token = token
        cells.epoch.write(encode_epoch(live.epoch))

    def _keep(self, shard: int, live: _Live) -> None:
        self._live[shard] = live  # last in insertion order = most recently used
        while len(self._live) > self._policy.tables_max:
            del self._live[next(iter(self._live))]

    def _in_order(self, epoch: Epoch, data: bytes, cells: Cells, outcome: Outcome) -> list[_Ready]:
        """Blocks that now continue their chains, in order; a gap holds the new one back."""
        block = decode_block(data)
        link = _link(epoch, block)
        if link is Link.DUPLICATE:
            outcome.duplicates += 1
            epoch.counts.duplicates += 1
            return []
        if link is Link.GAP:
            cells.held.add(data)
            epoch.held += 1
            epoch.counts.held_back += 1
            outcome.held += 1
            is_full = epoch.held > self._policy.held_blocks_max
            return self._release(epoch, cells, outcome) if is_full else []
        ready = [_advance(epoch, block, data)]
        if epoch.held:
            ready += self._release(epoch, cells, outcome)
        return ready

    def _release(self, epoch: Epoch, cells: Cells, outcome: Outcome) -> list[_Ready]:
        """Take the held blocks that continue their chains; past the bound jump one gap.

        A block that was delivered twice counts once towards the bound, and the gap that is
        given up is the one with most blocks behind it: others may be about to close.
        """
        arrived = [bytes(data) for data in cells.held.read()]
        held = {}
        for data in arrived:
            block = decode_block(data)
            place = (block.previous_end, block.first_offset, block.end_offset)
            held[block.partition, block.offset_resets, *place] = (block, data)
        duplicates = len(arrived) - len(held)
        gap_given_up = None
        if len(held) > self._policy.held_blocks_max:
            behind = [partition for partition, *_ in sorted(held)]
            gap_given_up = max(behind, key=behind.count)
            outcome.desyncs += 1
            epoch.counts.desyncs += 1
        ready, waiting = [], []
        for _, (block, data) in sorted(held.items(), key=lambda item: item[0]):
            link = _link(epoch, block)
            if link is Link.GAP and block.partition == gap_given_up:
                gap_given_up, link = None, Link.NEXT
            if link is Link.NEXT:
                ready.append(_advance(epoch, block, data))
            elif link is Link.GAP:
                waiting.append(data)
            else:
                duplicates += 1
        outcome.duplicates += duplicates
        epoch.counts.duplicates += duplicates
        cells.held.clear()
        for data in waiting:
            cells.held.add(data)
        epoch.held = len(waiting)
        return ready

    def _store(self, live: _Live, cells: Cells, scored: list[_Ready]) -> None:
        """Append the blocks, and replace the log by a snapshot when it has grown too long."""
        epoch, table, policy = live.epoch, live.table, self._policy
        table_bytes = len(table) * table.layout.dtype.itemsize
        log_bytes_max = max(policy.log_bytes_min, policy.log_factor * table_bytes)
        cell_bytes_max = log.cell_bytes_max(cells, log_bytes_max, policy.segment_bytes_max)
        before = epoch.log_bytes
        for data, block in scored:
            if _changes_state(block):
                log.append_block(cells, epoch, table.layout, data, cell_bytes_max)
        self._turns.stored_bytes += epoch.log_bytes - before
        if live.must_snapshot or epoch.policies != self._scorer.policies:
            self._snapshot_at_once(live, cells)
        elif live.slices is not None:
            if live.slices.write(cells, epoch, policy.slice_bytes_max):
                live.slices = None
        elif epoch.log_bytes > log_bytes_max and (
            table_bytes <= policy.segment_bytes_max
            or epoch.log_bytes > LOG_GROWTH_MAX * log_bytes_max
        ):
            self._snapshot_at_once(live, cells)
        elif self._turns.is_due(epoch.log_bytes, log_bytes_max):
            self._scorer.evict(table)
            log.append_eviction(cells, epoch, table.layout)
            live.slices = self._turns.begin(table, cells, epoch, policy.segment_bytes_max)

    def _snapshot_at_once(self, live: _Live, cells: Cells) -> None:
        self._scorer.evict(live.table)
        live.epoch.policies = self._scorer.policies
        self._replace_log(live, cells)

    def _replace_log(self, live: _Live, cells: Cells) -> None:
        """Make the table's snapshot the whole log."""
        size = self._policy.segment_bytes_max
        log.replace_by_snapshot(cells, live.epoch, live.table, size)
        live.must_snapshot, live.slices = False, None


def _changes_state(block: Block) -> bool:
    """Whether a block may change the table: the log holds those that do."""
    return len(block) > 0 or block.offset_resets > 0


def _link(epoch: Epoch, block: Block) -> Link:
    """How `block` continues its chain; across a jump of the reader it must be the first."""
    reach = epoch.reached.get(block.partition, _NOWHERE)
    if block.offset_resets <= reach.offset_resets:
        return link_of(block, reach.end)
    if block.previous_end > NOTHING_BEFORE:
        return Link.GAP
    return Link.NEXT if JUMPED - block.previous_end <= reach.end else Link.GAP


def _advance(epoch: Epoch, block: Block, data: bytes) -> _Ready:
    """Move the chain's end behind `block`; returns what of it is new."""
    reach = epoch.reached.get(block.partition)
    if reach is None:
        epoch.counts.offset_resets += block.offset_resets
        epoch.reached[block.partition] = PartitionProgress(
            block.first_offset, block.end_offset, block.offset_resets
        )
        return data, block
    before = reach.end
    if block.offset_resets > reach.offset_resets:
        epoch.counts.offset_resets += block.offset_resets - reach.offset_resets
        reach.offset_resets = block.offset_resets
        if _begins_anew(block):
            reach.began, reach.end = block.first_offset, block.end_offset
            return data, block
    reach.end = max(before, block.end_offset)
    if block.first_offset >= before:
        return data, block
    new = block.after(before)
    return encode_block(new), new


def _begins_anew(block: Block) -> bool:
    """Whether offsets count from a new beginning behind a jump: the topic was made anew.

    A reader that jumps over what retention took goes forward; so does one without a past,
    which may have jumped to where its shard had been before.
    """
    is_forward = 0 <= JUMPED - block.previous_end <= block.first_offset
    return block.previous_end != NOTHING_BEFORE and not is_forward
