"""The world of `simulator.world`, but Hypothesis chooses what happens, and shrinks what fails."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import simulator.bugs
import simulator.bugs_of_alerts
import simulator.bugs_of_starts
from simulator.expected_state import Violation
from simulator.mutation import BUGS
from simulator.plan import RUNNERS_HELD_MAX, draw
from simulator.reference import Reference
from simulator.world import PARALLELISM, World

PLANS = 400
SETTINGS = settings(
    max_examples=120,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,  # the same examples every time; `make simulate` brings new ones
    database=None,
    suppress_health_check=list(HealthCheck),
)


@cache
def reference() -> Reference:
    return Reference()


class Pipeline(RuleBasedStateMachine):
    """Rules are what may happen; each checks the promises, and the end checks them all."""

    @initialize(seed=st.integers(0, PLANS), now=st.integers(0, 40))
    def begin(self, seed: int, now: int) -> None:
        plan = replace(draw(seed), drops=0.0, truncations=0.0, held_blocks_max=RUNNERS_HELD_MAX)
        self.world = World(plan, reference(), Random(seed))
        self.world.now = now

    @precondition(lambda self: self.world.readable())
    @rule(which=st.integers(0, 9), counts=st.lists(st.integers(1, 12), min_size=1, max_size=3))
    def poll(self, which: int, counts: list[int]) -> None:
        readable = self.world.readable()
        self.world.poll(readable[which % len(readable)], counts)

    @precondition(lambda self: self.world.in_flight)
    @rule(which=st.integers(0, 99))
    def deliver(self, which: int) -> None:
        """Any block, however far ahead of its turn; Hypothesis likes the newest best."""
        newest = len(self.world.in_flight) - 1
        self.world.score([newest - which % (newest + 1)])

    @precondition(lambda self: self.world.in_flight)
    @rule(
        which=st.integers(0, 99),
        fails_after=st.integers(0, 1),
        writes=st.integers(-1, 4),
        loses_memory=st.booleans(),
    )
    def fail(self, which: int, fails_after: int, writes: int, loses_memory: bool) -> None:
        place = which % len(self.world.in_flight)
        shard = self.world.in_flight[place].shard
        self.world.score([place], fails_after, writes)
        if loses_memory:
            self.world.lose_worker(self.world.worker_number(shard))

    @rule()
    def duplicate(self) -> None:
        self.world.repeat(0)

    @rule(ticks=st.integers(1, 40))
    def delay(self, ticks: int) -> None:
        """Time passes: more is on the topic, and blocks in flight stay where they are."""
        self.world.now += ticks

    @rule()
    def checkpoint(self) -> None:
        self.world.checkpoint()

    @rule(back=st.integers(0, 2), loses_memory=st.booleans())
    def crash(self, back: int, loses_memory: bool) -> None:
        self.world.restore(back, self.world.parallelism, loses_memory)

    @rule(parallelism=st.sampled_from(PARALLELISM), loses_memory=st.booleans())
    def rescale(self, parallelism: int, loses_memory: bool) -> None:
        self.world.checkpoint()
        self.world.restore(0, parallelism, loses_memory)

    @rule(which=st.integers(0, 9))
    def restart_source(self, which: int) -> None:
        partitions = self.world.readers.partitions
        self.world.rewind(partitions[which % len(partitions)])

    @rule()
    def add_partition(self) -> None:
        self.world.now = max(self.world.now, *self.world.plan.created)
        self.world.discover()

    @rule(log_bytes_min=st.sampled_from((0, 2_000, 1 << 20)))
    def ttl(self, log_bytes_min: int) -> None:
        """From now on snapshots come sooner or later; only there do entities leave."""
        self.world.checkpoint()
        self.world.change_log_bound(log_bytes_min)

    @rule(shard=st.integers(0, 9))
    def idle(self, shard: int) -> None:
        self.world.find_idle(shard % self.world.plan.shards)

    @rule(but=st.integers(0, 9))
    def keep_snapshots(self, but: int) -> None:
        """Of all shards but maybe one, whose next is due later."""
        for shard in range(self.world.plan.shards):
            if shard != but:
                self.world.keep_snapshot(shard)

    @precondition(lambda self: self.world.has_snapshots)
    @rule(parallelism=st.sampled_from(PARALLELISM), lost=st.sets(st.integers(0, 9), max_size=1))
    def migrate(self, parallelism: int, lost: set[int]) -> None:
        """A new job starts from whatever snapshots there are, some old, some missing."""
        self.world.migrate(parallelism, lost)

    def teardown(self) -> None:
        """Deliver everything that is left, then nothing may be missing."""
        world = self.world
        while not world.is_done():
            world.now += 50
            world.discover()
            for partition in world.readable():
                world.poll(partition, [1_000])
            while world.in_flight:
                world.score([0])
        world.finish()


def test_no_promise_is_broken_by_any_sequence_of_rules():
    run_state_machine_as_test(Pipeline, settings=SETTINGS)


@pytest.mark.parametrize(
    "bug",
    [
        "stale_table_trusted",
        "gap_accepted",
        "ends_not_saved",
        "drift_of_a_snapshot_forgotten",
    ],
)
def test_a_planted_bug_is_found_by_rules(bug):
    quick = settings(
        SETTINGS, max_examples=200, phases=[p for p in SETTINGS.phases if p.name == "generate"]
    )
    with BUGS[bug](), pytest.raises(Violation):
        run_state_machine_as_test(Pipeline, settings=quick)
