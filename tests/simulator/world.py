"""The simulated pipeline: topic, readers, shuffle, shards, workers, checkpoints, faults.

    topic ─► readers (position, chain ends) ─► in flight ─► shards (cells) ─► outputs
                 └──────────── one consistent checkpoint ────────┘      at least once

Time is a counter, randomness one seeded generator, and every method either happens as a
whole or, where it is told to fail, leaves nothing but what a dying worker leaves: stale
memory and outputs that are already out. The methods are what may happen; `simulate` and
the state machine choose when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random

from simulator.book import DEAD, GIVEN_UP, OPEN, RETAINED_NOT, Book, Outputs
from simulator.cells import NEVER_WRITTEN, Fuse, FusedValue, KeptCells, WorkerLost, keep, put_back
from simulator.ledger import Ledger
from simulator.plan import Plan
from simulator.story import POLICIES, Reference
from simulator.topic import Topic

from models import shard as shard_module
from models.block import decode_block, encode_block
from models.chain import cut, new_ends
from models.drift_windows import DriftWindows
from models.epoch import TOKEN_BYTES
from models.position import Position, decode_position, encode_position
from models.scorer import Scorer
from models.shard import ShardPolicy, ShardScorer

RETAINED = 3  # checkpoints that can be gone back to
PARALLELISM = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A block on its way to a shard."""

    shard: int
    data: bytes
    #: Tick from which it can arrive.
    ready: int


@dataclass(slots=True, eq=False)
class Worker:
    """One Python process: a scorer and what its memory holds."""

    shards: ShardScorer
    #: Epoch of each shard when it was last found idle, as the scoring step keeps it.
    quiet: dict[int, bytes | None]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Everything that the runner keeps, at one moment."""

    positions: dict[int, bytes]
    known: int
    in_flight: tuple[Delivery, ...]
    cells: tuple[KeptCells, ...]
    book: Book


class World:
    """One simulated pipeline and everything that can happen to it."""

    def __init__(self, plan: Plan, reference: Reference, rng: Random) -> None:
        self.plan = plan
        self.rng = rng
        self.now = 0
        self.topic = Topic(plan, reference.scripts, rng)
        self.ledger = Ledger(plan, self.topic, reference)
        self.outputs = Outputs()
        self.policy = plan.policies[0]
        self.parallelism = 1
        self._artifact = reference.artifact
        self._fuse = Fuse()
        self.positions: dict[int, FusedValue] = {}
        self._known = 0
        self.in_flight: list[Delivery] = []
        self._delivered: deque[Delivery] = deque(maxlen=8)
        self._cells = [put_back(self._fuse, NEVER_WRITTEN) for _ in range(plan.shards)]
        self.workers: dict[int, Worker] = {}
        self.checkpoints: deque[Checkpoint] = deque(maxlen=RETAINED)
        self.discover()
        self.checkpoint()

    # The source.

    def discover(self) -> None:
        """Find the partitions that exist by now; new ones are read from their beginning."""
        for partition in self.topic.partitions[self._known :]:
            if partition.created > self.now:
                break
            self._count_retained_not(partition.number, 0, partition.low)
            fresh = Position(partition.low, new_ends(self.plan.shards))
            value = FusedValue(self._fuse, encode_position(fresh))
            self.positions[partition.number] = value
            self._known += 1

    def readable(self) -> list[int]:
        """Partitions with messages that were not read yet."""
        return [
            number
            for number, value in self.positions.items()
            if self.topic.partitions[number].there(self._next_offset(value), self.now)
        ]

    def poll(self, partition: int, counts: list[int]) -> None:
        """Read blocks of at most that many messages each, cut them, and send the pieces."""
        log, value = self.topic.partitions[partition], self.positions[partition]
        at = decode_position(value.read(), self.plan.shards)
        for count in counts:
            if at.next_offset < log.low:
                self._count_retained_not(partition, at.next_offset, log.low)
                at.next_offset = log.low
            if not log.there(at.next_offset, self.now):
                break
            block, bad, end = log.read(at.next_offset, count, self.now)
            for shard, piece in cut(block, at.ends, self.plan.routing):
                self.in_flight.append(Delivery(shard, encode_block(piece), self.now))
            for event in bad:
                self.ledger.book.fate[event] = DEAD
            self.outputs.dead.update(bad)
            at.next_offset = end
        value.write(encode_position(at))

    def rewind(self, partition: int) -> None:
        """The runner restarts a source from scratch (apache/beam#30903); shards know better."""
        log = self.topic.partitions[partition]
        self._count_retained_not(partition, 0, log.low)
        fresh = Position(log.low, new_ends(self.plan.shards))
        self.positions[partition].write(encode_position(fresh))

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
            fails_after: the bundle fails behind that many blocks; None for never.
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
        """The idle timer of the scoring step fires; see `ScoreBlocks.when_idle`."""
        worker, cells = self.worker_of(shard), self._cells[shard]
        now = cells.epoch.read()
        if now is None:
            return
        if worker.quiet.get(shard) == now:
            self._flush(shard)
            now = cells.epoch.read()
        worker.quiet[shard] = now

    def worker_of(self, shard: int) -> Worker:
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

    # Checkpoints.

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

    # The end.

    def is_done(self) -> bool:
        """Everything was sent, read and delivered."""
        if self.in_flight or self._known < len(self.topic.partitions):
            return False
        logs = self.topic.partitions
        return all(self._next_offset(v) >= logs[p].end for p, v in self.positions.items())

    def finish(self) -> None:
        """Input ends: report all drift, rebuild all tables, and check what is left."""
        self.workers = {}
        for shard in range(self.plan.shards):
            self._close(shard)
            self._flush(shard)
        self.ledger.check_end(self.outputs)

    def _close(self, shard: int) -> None:
        """A lost block that no other of its chain followed could not be missed by anyone."""
        book, topic = self.ledger.book, self.topic
        for event in self.ledger.events_of(shard) if self.plan.drops else ():
            reached = book.reached.get((shard, topic.partition[event]), 0)
            if book.fate[event] == OPEN and topic.offset[event] >= reached:
                book.fate[event] = GIVEN_UP

    def _score_one(self, delivery: Delivery) -> Outputs:
        shard, cells = delivery.shard, self._cells[delivery.shard]
        worker = self.worker_of(shard)
        had = self._entities(shard)
        waiting = self._waiting(delivery)
        token = self.rng.randbytes(TOKEN_BYTES)
        outcome = worker.shards.process(shard, decode_block(delivery.data), cells, token)
        live = worker.shards._live[shard]
        is_full = len(waiting) > self.plan.held_blocks_max
        self.ledger.require(
            is_full or not outcome.desyncs, f"gap given up, {len(waiting)} blocks behind it"
        )
        emitted = self.ledger.follow(shard, outcome, live.table, self.policy, had)
        self.ledger.check_bounds(shard, cells, live)
        tables = len(worker.shards._live)
        self.ledger.require(tables <= self.plan.tables_max, f"{tables} tables in memory")
        return emitted

    def _waiting(self, arriving: Delivery) -> set[tuple[int, int, int]]:
        """The blocks that would be held back behind gaps with `arriving`, each once."""
        if self.plan.is_lossless:
            return set()
        held = [*self._cells[arriving.shard].held.values, arriving.data]
        blocks = [decode_block(data) for data in held]
        return {(b.partition, b.first_offset, b.end_offset) for b in blocks}

    def _entities(self, shard: int) -> set[str]:
        """Entities that the shard's table should hold."""
        scripts = self.ledger._reference.scripts
        return {scripts[one].name for at, one in self.ledger.book.stands if at == shard}

    def _flush(self, shard: int) -> None:
        worker, cells = self.worker_of(shard), self._cells[shard]
        reports = worker.shards.flush_drift(shard, cells, self.rng.randbytes(TOKEN_BYTES))
        emitted = Outputs()
        self.ledger.take_reports(shard, reports, emitted)
        self._emit(emitted)
        live = worker.shards._live[shard]
        self.ledger.check_table(shard, live.table, self.policy)
        self.ledger.check_bounds(shard, cells, live)

    def _emit(self, outputs: Outputs) -> None:
        out = self.outputs
        out.scored |= outputs.scored
        out.aside |= outputs.aside
        if self.plan.is_pure:
            for key in out.alerts.keys() & outputs.alerts.keys():
                is_same = out.alerts[key] == outputs.alerts[key]
                self.ledger.require(is_same, f"alert {key} was sent twice, and differs")
        out.alerts.update(outputs.alerts)
        out.reports.update(outputs.reports)

    def _keep(self) -> Checkpoint:
        return Checkpoint(
            {number: value.value for number, value in self.positions.items()},
            self._known,
            tuple(self.in_flight),
            tuple(keep(cells) for cells in self._cells),
            self.ledger.book.copy(),
        )

    def _restore(self, kept: Checkpoint) -> None:
        self.positions = {n: FusedValue(self._fuse, data) for n, data in kept.positions.items()}
        self._known = kept.known
        self.in_flight = list(kept.in_flight)
        self._cells = [put_back(self._fuse, cells) for cells in kept.cells]
        self.ledger.book = kept.book.copy()

    def _new_worker(self) -> Worker:
        scoring, alerts = POLICIES[self.policy]
        scoring = replace(scoring, entities_per_shard_max=self.plan.entities_per_shard_max)
        shards = ShardScorer(
            Scorer(self._artifact, scoring, alerts),
            DriftWindows(self._artifact.drift_reference, self.plan.window_s),
            ShardPolicy(self.plan.held_blocks_max, self.plan.tables_max),
        )
        return Worker(shards, {})

    def _next_offset(self, value: FusedValue) -> int:
        return decode_position(value.read(), self.plan.shards).next_offset

    def _count_retained_not(self, partition: int, first: int, end: int) -> None:
        """Events that retention took before they were read."""
        book, topic = self.ledger.book, self.topic
        for event in range(len(topic)):
            is_inside = first <= topic.offset[event] < end
            if topic.partition[event] == partition and is_inside and book.fate[event] == OPEN:
                book.fate[event] = RETAINED_NOT


@contextmanager
def log_bounds(log_bytes_min: int) -> Iterator[None]:
    """Small bounds on a shard's log, so that snapshots happen within few events."""
    before = shard_module.LOG_BYTES_MIN
    shard_module.LOG_BYTES_MIN = log_bytes_min
    try:
        yield
    finally:
        shard_module.LOG_BYTES_MIN = before
