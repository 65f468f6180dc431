"""One shard's life: accept blocks in order, score them, keep the state exact.

This is the whole of what a scoring step does between "here is a block" and "here is
what changed", over an abstract set of state cells. The Beam step passes the runner's
cells, tests and simulators pass their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from models.block import NOTHING_BEFORE, Block, decode_block, encode_block
from models.chain import Link, link_of
from models.drift_windows import DriftWindows, WindowReport
from models.epoch import Epoch, decode_epoch, encode_epoch
from models.errors import ConfigError
from models.scorer import ScoredBlock, Scorer
from models.segment import SNAPSHOT, block_segment, read_log, read_snapshot, snapshot_segment
from models.table import EntityTable

# The log is replaced by a snapshot when its blocks weigh this many times the table. More
# makes writing cheaper, and restoring longer: it steps all blocks of the log again.
LOG_FACTOR = 2
# Below this a log is never replaced: small shards would be rewritten at every block.
LOG_BYTES_MIN = 1 << 20


class BagCell(Protocol):
    """An append-only bag of bytes without order."""

    def read(self) -> Iterable[bytes]:
        """All values."""

    def add(self, value: bytes) -> None:
        """Add one value."""

    def clear(self) -> None:
        """Remove all values."""


class ValueCell(Protocol):
    """One value of bytes, None if never written."""

    def read(self) -> bytes | None:
        """The value."""

    def write(self, value: bytes) -> None:
        """Replace the value."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The state of one shard as its runner keeps it."""

    epoch: ValueCell
    log: BagCell
    held: BagCell
    drift: ValueCell


@dataclass(frozen=True, slots=True)
class ShardPolicy:
    """Bounds of a shard's bookkeeping."""

    #: Blocks held back behind a gap before the gap is given up and counted as a desync.
    held_blocks_max: int = 64
    #: Tables a worker keeps in memory; the least recently used one is rebuilt when needed.
    tables_max: int = 1_024

    def __post_init__(self) -> None:
        for name in ("held_blocks_max", "tables_max"):
            if getattr(self, name) < 1:
                raise ConfigError(f"scoring: {name} must be >= 1; got {getattr(self, name)}")


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


class ShardScorer:
    """Takes the blocks of many shards, one at a time, through scorer and state."""

    def __init__(self, scorer: Scorer, windows: DriftWindows, policy: ShardPolicy) -> None:
        self._scorer = scorer
        self._windows = windows
        self._policy = policy
        self._live: dict[int, _Live] = {}

    def process(self, shard: int, block: Block, cells: Cells, token: bytes) -> Outcome:
        """Advance `shard` by `block`.

        Args:
            shard: the shard the block was cut for.
            block: a sub-block with its chain link.
            cells: the shard's state; written only if something changed, and never half.
            token: 8 fresh random bytes, the epoch's name if this call writes.

        Raises:
            StateFormatError: the state is damaged, or of another artifact or release.
        """
        live = self._take(shard, cells)
        outcome = Outcome()
        ready = self._in_order(live.epoch, block, cells, outcome)
        if ready or outcome.held:
            for piece in ready:
                scored = self._scorer.step(live.table, piece)
                outcome.scored.append(scored)
                outcome.drift += live.drift.add(scored)
            if ready:
                self._store(live, cells, ready)
                cells.drift.write(live.drift.to_bytes())
            live.epoch.token = token
            cells.epoch.write(encode_epoch(live.epoch))
        self._keep(shard, live)
        return outcome

    def flush_drift(self, shard: int, cells: Cells, token: bytes) -> list[WindowReport]:
        """Report and forget the open drift windows of a shard: at the end of input or when idle."""
        live = self._take(shard, cells)
        reports = live.drift.flush()
        if reports:
            cells.drift.write(live.drift.to_bytes())
            live.epoch.token = token
            cells.epoch.write(encode_epoch(live.epoch))
        self._keep(shard, live)
        return reports

    def _take(self, shard: int, cells: Cells) -> _Live:
        """The live table of a shard; out of the cache until the call has succeeded."""
        epoch = decode_epoch(cells.epoch.read())
        live = self._live.pop(shard, None)
        if live is not None and live.epoch.token == epoch.token:
            return live
        table = self._rebuild(epoch, cells)
        return _Live(epoch, table, self._windows.from_bytes(shard, cells.drift.read()))

    def _rebuild(self, epoch: Epoch, cells: Cells) -> EntityTable:
        """The table that the log stands for: its snapshot, and its blocks stepped again.

        Under the policies they were first scored with: an operator may have changed
        thresholds since, and what was remembered then must not change with them.
        """
        layout = self._scorer.layout
        scorer = self._scorer.under(epoch.policies) if epoch.policies else self._scorer
        table = EntityTable(layout)
        log = read_log(layout, cells.log.read(), epoch.first_segment, epoch.next_segment)
        for segment in log:
            if segment.kind == SNAPSHOT:
                table = read_snapshot(layout, segment.body)
            else:
                scorer.step(table, decode_block(segment.body))
        return table

    def _keep(self, shard: int, live: _Live) -> None:
        self._live[shard] = live  # last in insertion order = most recently used
        while len(self._live) > self._policy.tables_max:
            del self._live[next(iter(self._live))]

    def _in_order(self, epoch: Epoch, block: Block, cells: Cells, outcome: Outcome) -> list[Block]:
        """Blocks that now continue their chains, in order; a gap holds `block` back."""
        position = epoch.positions.get(block.partition, NOTHING_BEFORE)
        link = link_of(block, position)
        if link is Link.DUPLICATE:
            outcome.duplicates += 1
            return []
        if link is Link.GAP:
            cells.held.add(encode_block(block))
            epoch.held += 1
            outcome.held += 1
            is_full = epoch.held > self._policy.held_blocks_max
            return self._release(epoch, cells, outcome) if is_full else []
        ready = [self._advance(epoch, block)]
        if epoch.held:
            ready += self._release(epoch, cells, outcome)
        return ready

    def _release(self, epoch: Epoch, cells: Cells, outcome: Outcome) -> list[Block]:
        """Take the held blocks that continue their chains; past the bound jump one gap.

        A block that was delivered twice counts once towards the bound, and the gap that is
        given up is the one with most blocks behind it: others may be about to close.
        """
        decoded = [decode_block(bytes(data)) for data in cells.held.read()]
        held = {(b.partition, b.previous_end, b.first_offset, b.end_offset): b for b in decoded}
        outcome.duplicates += len(decoded) - len(held)
        gap_given_up = None
        if len(held) > self._policy.held_blocks_max:
            behind = [partition for partition, *_ in sorted(held)]
            gap_given_up = max(behind, key=behind.count)
            outcome.desyncs += 1
            epoch.desyncs += 1
        ready, waiting = [], []
        for _, block in sorted(held.items(), key=lambda item: item[0]):
            link = link_of(block, epoch.positions.get(block.partition, NOTHING_BEFORE))
            if link is Link.GAP and block.partition == gap_given_up:
                gap_given_up, link = None, Link.NEXT
            if link is Link.NEXT:
                ready.append(self._advance(epoch, block))
            elif link is Link.GAP:
                waiting.append(block)
            else:
                outcome.duplicates += 1
        cells.held.clear()
        for block in waiting:
            cells.held.add(encode_block(block))
        epoch.held = len(waiting)
        return ready

    @staticmethod
    def _advance(epoch: Epoch, block: Block) -> Block:
        position = epoch.positions.get(block.partition, NOTHING_BEFORE)
        epoch.positions[block.partition] = block.end_offset
        return block.after(position) if block.first_offset < position else block

    def _store(self, live: _Live, cells: Cells, scored: list[Block]) -> None:
        """Append the blocks, or replace the log by a snapshot when it has grown too long."""
        epoch, table = live.epoch, live.table
        for block in scored:
            segment = block_segment(table.layout, epoch.next_segment, encode_block(block))
            cells.log.add(segment)
            epoch.next_segment += 1
            epoch.log_bytes += len(segment)
        table_bytes = len(table) * table.layout.dtype.itemsize
        is_long = epoch.log_bytes > max(LOG_BYTES_MIN, LOG_FACTOR * table_bytes)
        if is_long or epoch.policies != self._scorer.policies:
            self._scorer.evict(table)
            cells.log.clear()
            cells.log.add(snapshot_segment(table, epoch.next_segment))
            epoch.first_segment = epoch.next_segment
            epoch.next_segment += 1
            epoch.log_bytes = 0
            epoch.policies = self._scorer.policies
