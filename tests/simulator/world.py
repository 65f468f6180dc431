"""The simulated pipeline: topic, readers, shuffle, shards, workers, checkpoints, faults.

    topic ─► readers (position, chain ends) ─► in flight ─► shards (cells) ─► outputs
                 └──────────── one consistent checkpoint ────────┘      at least once

Time is a counter, randomness one seeded generator, and every method either happens as a
whole or, where it fails on purpose, leaves nothing but what a dying worker leaves: stale
memory and outputs that are already out. Snapshots of shards outlive a job: another one
may start from them, each taken when it happened to be. The methods are what may happen;
`simulate` and the state machine choose when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import replace
from random import Random

from simulator.cells import NEVER_WRITTEN, Fuse, WorkerLost, keep, put_back
from simulator.checkpoint import Checkpoint, Delivery, KeptSnapshot
from simulator.expected_state import GIVEN_UP, OPEN, Outputs
from simulator.ledger import Ledger
from simulator.plan import Plan
from simulator.readers import Readers
from simulator.reference import POLICIES, Reference
from simulator.topic import Topic
from streamgauge.models.blocks.block import decode_block
from streamgauge.models.drift.windows import DriftWindows
from streamgauge.models.errors import StateFormatError
from streamgauge.models.scoring.policy import ShardPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.scoring.shard import ShardScorer
from streamgauge.models.state.epoch import TOKEN_BYTES, decode_epoch
from streamgauge.models.state.snapshot_file import (
    StateIdentity,
    decode_header,
    decode_snapshot,
    encode_snapshot,
    start_offsets,
)

RETAINED = 3  # checkpoints that can be gone back to
PARALLELISM = (1, 2, 4)
QUIET_TICKS = 3  # a shard that nothing changed for so long reports its drift


#: A row: snapshots have many segments, written one with a block, and logs fill more than a cell.
SEGMENT_BYTES_MAX = 500
LOG_FACTOR = 0.7  # so that many of them are begun in a short run


class World:
    """One simulated pipeline and everything that can happen to it."""

    def __init__(self, plan: Plan, reference: Reference, rng: Random) -> None:
        self.plan = plan
        self.rng = rng
        self.now = 0
        self.topic = Topic(plan, reference.scripts, rng)
        self.ledger = Ledger(plan, self.topic, reference)
        self.outputs = Outputs()
        self.readers = Readers(plan, self.topic, self.ledger, self.outputs)
        self.policy = plan.policies[0]
        self.shard_policy = ShardPolicy(
            plan.held_blocks_max,
            plan.tables_max,
            log_bytes_min=plan.log_bytes_min,
            log_factor=LOG_FACTOR,
            segment_bytes_max=SEGMENT_BYTES_MAX,
            slice_bytes_max=1,
        )
        self.parallelism = 1
        self._artifact = reference.artifact
        self._layout = reference.layout
        self._origin = StateIdentity("telemetry", plan.shards, plan.routing)
        self._fuse = Fuse()
        self.in_flight: list[Delivery] = []
        self._delivered: deque[Delivery] = deque(maxlen=8)
        self._cells = [put_back(self._fuse, NEVER_WRITTEN) for _ in range(plan.shards)]
        #: One scorer for all workers: it remembers nothing from one call to the next.
        self._scorers: dict[int, Scorer] = {}
        self.workers: dict[int, ShardScorer] = {}
        self.checkpoints: deque[Checkpoint] = deque(maxlen=RETAINED)
        #: Newest snapshot of each shard that has any, and those that this job started from.
        self._snapshots: dict[int, KeptSnapshot] = {}
        self._started_from: dict[int, bytes] = {}
        self.readers.begin({}, self.now)
        self.checkpoint()

    # The source.

    def discover(self) -> None:
        """Find the partitions that exist by now."""
        self.readers.discover(self.now)

    def readable(self) -> list[int]:
        """Partitions with messages that were not read yet."""
        return self.readers.readable(self.now)

    def poll(self, partition: int, counts: list[int]) -> None:
        """Read blocks of at most that many messages each, cut them, and send the pieces."""
        pieces = self.readers.poll(partition, counts, self.now)
        self.in_flight += [Delivery(shard, data, self.now) for shard, data in pieces]

    def rewind(self, partition: int) -> None:
        """The runner restarts the source of a partition from scratch."""
        self.readers.rewind(partition)

    def truncate(self, partition: int, low: int) -> None:
        """Retention takes the messages below `low`, read or not."""
        log = self.topic.partitions[partition]
        log.low = max(log.low, min(low, log.end))

    # Between the steps.

    def arrivable(self) -> list[int]:
        """Places in `in_flight` of blocks that may arrive next.

        A block is overtaken by at most `plan.overtaken_by` blocks of its shard.
        """
        before: dict[int, int] = {}
        found = []
        for i, delivery in enumerate(self.in_flight):
            if delivery.ready > self.now:
                continue
            ahead = before.get(delivery.shard, 0)
            before[delivery.shard] = ahead + 1
            if ahead <= self.plan.overtaken_by:
                found.append(i)
        return found

    def delay(self, place: int, ticks: int) -> None:
        """Hold a block up between the steps."""
        delivery = self.in_flight[place]
        self.in_flight[place] = replace(delivery, ready=self.now + ticks)

    def repeat(self, ticks: int) -> None:
        """Deliver again, later, a block that has been delivered."""
        if len(self._delivered) > 1:
            again = self._delivered[-self.rng.choice((1, 1, 2, len(self._delivered)))]
            self.in_flight.append(replace(again, ready=self.now + ticks))

    def drop(self, place: int) -> None:
        """Lose a block between the steps."""
        del self.in_flight[place]

    # The scoring step.

    def score(self, places: list[int], fails_after: int | None = None, writes: int = -1) -> bool:
        """Take a bundle of blocks through the scoring step.

        Args:
            places: of the blocks in `in_flight`, in order of arrival.
            fails_after: the bundle fails after that many blocks; None for never.
            writes: the failing call itself dies after that many writes; -1 between calls.

        Returns:
            Whether the bundle was committed.
        """
        bundle = [self.in_flight[i] for i in places]
        kept = self._keep() if fails_after is not None else None
        emitted: list[Outputs] = []
        try:
            for i, delivery in enumerate(bundle):
                if i == fails_after:
                    if writes < 0:
                        raise WorkerLost
                    self._fuse.writes_left = writes
                emitted.append(self._score_one(delivery))
            if kept is not None:
                raise WorkerLost
        except WorkerLost:
            self._fuse.writes_left = -1
            self._restore(kept)
            for outputs in emitted:
                if self.rng.random() < self.plan.leaks:
                    self._emit(outputs)
            return False
        gone = set(places)
        self.in_flight = [d for i, d in enumerate(self.in_flight) if i not in gone]
        self._delivered.extend(bundle)
        for outputs in emitted:
            self._emit(outputs)
        return True

    def find_idle(self, shard: int) -> None:
        """The timer of the scoring step fires for a shard that it knows."""
        cells = self._cells[shard]
        if cells.epoch.value is None:
            return
        worker, token = self.worker_of(shard), self.rng.randbytes(TOKEN_BYTES)
        reports = worker.flush_if_idle(shard, cells, token, now_s=self.now, idle_s=QUIET_TICKS)
        self._take_reports(shard, reports)

    def worker_of(self, shard: int) -> ShardScorer:
        """The worker of a shard: equal ranges, as with key groups."""
        number = self.worker_number(shard)
        if number not in self.workers:
            self.workers[number] = self._new_worker()
        return self.workers[number]

    def worker_number(self, shard: int) -> int:
        """Which of the workers has the shard."""
        return shard * self.parallelism // self.plan.shards

    def lose_worker(self, number: int) -> None:
        """A worker dies; the one that takes its place has no memory."""
        self.workers.pop(number, None)

    # Checkpoints and snapshots.

    def checkpoint(self) -> None:
        """Keep a consistent state of everything."""
        self.checkpoints.append(self._keep())

    def restore(self, back: int, parallelism: int, loses_memory: bool) -> None:
        """Go back to the `back`-th last checkpoint, on so many workers.

        Workers that keep their memory hold tables of a future that never was.
        """
        for _ in range(min(back, len(self.checkpoints) - 1)):
            self.checkpoints.pop()
        self._restore(self.checkpoints[-1])
        self.parallelism = parallelism
        self._delivered.clear()
        if loses_memory:
            self.workers = {}

    def change_policy(self, policy: int) -> None:
        """The job is started again under other policies, from its last checkpoint."""
        self.policy = policy
        self.restore(0, self.parallelism, loses_memory=True)

    def keep_snapshot(self, shard: int) -> None:
        """A timer keeps the snapshot of a shard; it stays whatever becomes of the job."""
        cells, kept = self._cells[shard], self._snapshots.get(shard)
        if cells.epoch.value is None or (kept and kept.epoch == cells.epoch.value):
            return
        snapshot = self.worker_of(shard).take_snapshot(shard, cells)
        self.ledger.check_table(shard, snapshot.table, self.policy)
        data = encode_snapshot(snapshot, self._origin)
        self._snapshots[shard] = KeptSnapshot(cells.epoch.value, data, self.ledger.book.copy())

    @property
    def has_snapshots(self) -> bool:
        """Whether any shard has kept one."""
        return bool(self._snapshots)

    def migrate(self, parallelism: int, lost: Collection[int]) -> None:
        """A new job starts from the newest snapshots; nothing else is left of the old one.

        Those of the shards `lost` are not there, as if none had been kept yet.
        """
        kept = self._snapshots = {s: one for s, one in self._snapshots.items() if s not in lost}
        headers = [decode_header(snapshot.data, str(shard)) for shard, snapshot in kept.items()]
        try:
            starts = start_offsets(headers)
        except StateFormatError:
            self.ledger.require(not self.plan.is_lossless, "snapshots do not fit together")
            return
        self._started_from = {shard: snapshot.data for shard, snapshot in kept.items()}
        for shard, events in enumerate(self.ledger.events_of):
            to = kept[shard].book if shard in kept else None
            self.ledger.book.go_back(shard, events, to)
        self.readers.begin(starts, self.now)
        self._cells = [put_back(self._fuse, NEVER_WRITTEN) for _ in range(self.plan.shards)]
        self.parallelism = parallelism
        self.workers, self.in_flight = {}, []
        self._delivered.clear()
        self.checkpoints.clear()
        self.checkpoint()

    def change_log_bound(self, log_bytes_min: int) -> None:
        """The job is started again with another bound on logs: snapshots come sooner or later."""
        self.shard_policy = replace(self.shard_policy, log_bytes_min=log_bytes_min)
        self.restore(0, self.parallelism, loses_memory=True)

    # The end.

    def is_done(self) -> bool:
        """Everything was sent, read and delivered."""
        return not self.in_flight and self.readers.is_done()

    def finish(self) -> None:
        """Input ends: report all drift, rebuild all tables, and check what is left."""
        self.workers = {}
        for shard in range(self.plan.shards):
            self._close(shard)
            self._start(shard)
            token = self.rng.randbytes(TOKEN_BYTES)
            reports = self.worker_of(shard).flush_drift(shard, self._cells[shard], token)
            self._take_reports(shard, reports)
        self.ledger.check_end(self.outputs)

    def _close(self, shard: int) -> None:
        """A lost block that no other of its chain followed could not be missed by anyone."""
        book, topic = self.ledger.book, self.topic
        reached = book.read(shard).reached
        for event in self.ledger.events_of[shard] if self.plan.drops else ():
            end, _ = reached.get(topic.partition[event], (0, 0))
            if book.fate[event] == OPEN and topic.offset[event] >= end:
                book.fate[event] = GIVEN_UP

    def _score_one(self, delivery: Delivery) -> Outputs:
        shard, cells = delivery.shard, self._cells[delivery.shard]
        worker = self.worker_of(shard)
        waiting = self._waiting(delivery)
        self._start(shard)
        token = self.rng.randbytes(TOKEN_BYTES)
        generation = decode_epoch(cells.epoch.value).generation
        waits = worker._scheduler._last() is not None
        outcome = worker.process(shard, delivery.data, cells, token)
        live = worker._live[shard]
        is_full = len(waiting) > self.plan.held_blocks_max
        self.ledger.require(
            is_full or not outcome.desyncs, f"gap given up, {len(waiting)} blocks after it"
        )
        emitted = self.ledger.follow(shard, outcome, live.table, self.policy)
        self.ledger.check_bounds(shard, cells, live, self.shard_policy)
        if any(len(scored.block) for scored in outcome.scored):
            if live.epoch.generation == generation:
                self.ledger.check_log(shard, live, waits, self.shard_policy)
            if live.epoch.log_bytes == 0 or (live.snapshot and not live.snapshot._written):
                self.ledger.check_nobody_overstays(shard, self.policy)
        tables = len(worker._live)
        self.ledger.require(tables <= self.plan.tables_max, f"{tables} tables in memory")
        return emitted

    def _start(self, shard: int) -> None:
        """Give a shard without state the snapshot that the job was started from."""
        cells, data = self._cells[shard], self._started_from.get(shard)
        if cells.epoch.value is None and data is not None:
            snapshot = decode_snapshot(data, str(shard), self._layout, self._origin)
            self.worker_of(shard).start_from(snapshot, cells, self.rng.randbytes(TOKEN_BYTES))

    def _waiting(self, arriving: Delivery) -> set[tuple[int, int, int]]:
        """The blocks that would be held back after gaps with `arriving`, each once."""
        if self.plan.is_lossless:
            return set()
        held = [*self._cells[arriving.shard].held.values, arriving.data]
        blocks = [decode_block(data) for data in held]
        return {(b.partition, b.first_offset, b.end_offset) for b in blocks}

    def _take_reports(self, shard: int, reports: list) -> None:
        emitted = Outputs()
        self.ledger.take_reports(shard, reports, emitted)
        self._emit(emitted)
        live, epoch = self.worker_of(shard)._live.get(shard), self._cells[shard].epoch.value
        if live is not None and live.epoch.token == decode_epoch(epoch).token:
            self.ledger.check_table(shard, live.table, self.policy)
            self.ledger.check_bounds(shard, self._cells[shard], live, self.shard_policy)

    def _emit(self, outputs: Outputs) -> None:
        out = self.outputs
        if self.plan.is_pure:
            for before, now in ((out.alerts, outputs.alerts), (out.scored, outputs.scored)):
                for key in before.keys() & now.keys():
                    is_same = before[key] == now[key]
                    self.ledger.require(is_same, f"{key} was sent twice, and differs")
            both = (out.aside | outputs.aside) & (out.scored.keys() | outputs.scored.keys())
            self.ledger.require(not both, f"{sorted(both)[:3]} were both scored and set aside")
        out.scored.update(outputs.scored)
        out.aside |= outputs.aside
        out.alerts.update(outputs.alerts)
        out.reports.update(outputs.reports)

    def _keep(self) -> Checkpoint:
        return Checkpoint(
            self.readers.keep(),
            tuple(self.in_flight),
            tuple(keep(cells) for cells in self._cells),
            self.ledger.book.copy(),
        )

    def _restore(self, kept: Checkpoint) -> None:
        self.readers.put_back(kept.positions)
        self.in_flight = list(kept.in_flight)
        self._cells = [put_back(self._fuse, cells) for cells in kept.cells]
        self.ledger.book = kept.book.copy()

    def _new_worker(self) -> ShardScorer:
        if self.policy not in self._scorers:
            scoring, alerts = POLICIES[self.policy]
            scoring = replace(scoring, entities_per_shard_max=self.plan.entities_per_shard_max)
            self._scorers[self.policy] = Scorer(self._artifact, scoring, alerts)
        return ShardScorer(
            self._scorers[self.policy],
            DriftWindows(self._artifact.drift_reference, self.plan.window_s),
            self.shard_policy,
        )
