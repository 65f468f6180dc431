"""Runs simulated pipelines, one per seed; `python -m simulator.simulate --help`."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterable
from random import Random

from simulator.expected_state import Violation
from simulator.plan import Plan, draw
from simulator.reference import Reference
from simulator.world import PARALLELISM, World
from streamgauge.models.errors import StreamgaugeError

ACTIONS_MAX = 3_000  # a run takes some 60; past this it does not end, which is a bug as well
PROGRESS_SEEDS = 500
#: How a run fails: a promise is broken, or the core refuses or stumbles over what it was given.
FAILURES = (AssertionError, StreamgaugeError, LookupError, ValueError, TypeError, ArithmeticError)


class Pilot:
    """Chooses, from the seed, what happens next in a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        self._faults_left = world.plan.faults_max

    def fly(self) -> None:
        """Let things happen until all input is delivered, then check the end."""
        for _ in range(ACTIONS_MAX):
            if self._world.is_done():
                self._world.finish()
                return
            self._act()
        raise Violation(f"not done after {ACTIONS_MAX} actions")

    def _act(self) -> None:
        world, plan, rng = self._world, self._world.plan, self._rng
        world.now += 1
        if rng.random() < plan.checkpoints:
            world.checkpoint()
        world.discover()
        if rng.random() < plan.quiet:
            world.find_idle(rng.randrange(plan.shards))
        if rng.random() < plan.snapshots:
            world.keep_snapshot(rng.randrange(plan.shards))
        if self._faults_left and self._meets_fault():
            self._faults_left -= 1
            return
        readable, arrivable = world.readable(), world.arrivable()
        if arrivable and (not readable or rng.random() < 0.6):
            self._score(arrivable)
        elif readable:
            counts = [rng.randint(1, plan.block_messages_max) for _ in range(rng.randint(1, 2))]
            world.poll(rng.choice(readable), counts)

    def _meets_fault(self) -> bool:
        """Maybe one thing that does not go as it should, besides failing bundles."""
        world, plan, rng = self._world, self._world.plan, self._rng
        if rng.random() < plan.crashes:
            parallelism = rng.choice(PARALLELISM)
            world.restore(rng.choice((0, 0, 1, 2)), parallelism, rng.random() < 0.5)
            return True
        if rng.random() < plan.rewinds:
            world.rewind(rng.choice(world.readers.partitions))
            return True
        if rng.random() < plan.migrations:
            lost = [shard for shard in range(plan.shards) if rng.random() < 0.3]
            world.migrate(rng.choice(PARALLELISM), lost)
            return True
        if rng.random() < plan.truncations:
            log = rng.choice(world.topic.partitions)
            world.truncate(log.number, rng.randint(log.low, max(log.low, log.end)))
            if world.in_flight:  # what is behind the jump may overtake what is before it
                world.delay(rng.randrange(len(world.in_flight)), rng.randint(2, 12))
            return True
        if len(plan.policies) > 1 and world.policy == plan.policies[0] and rng.random() < 0.05:
            world.change_policy(plan.policies[1])
            return True
        if world.in_flight and rng.random() < plan.drops:
            world.drop(rng.randrange(len(world.in_flight)))
            return True
        return False

    def _score(self, arrivable: list[int]) -> None:
        world, plan, rng = self._world, self._world.plan, self._rng
        if rng.random() < plan.delays:
            world.delay(rng.choice(arrivable), rng.randint(2, 12))
            return
        first = rng.choice(arrivable)
        worker = world.worker_number(world.in_flight[first].shard)
        mates = [
            i
            for i in arrivable
            if i != first and world.worker_number(world.in_flight[i].shard) == worker
        ]
        bundle = [first, *mates[: rng.randint(1, plan.bundle_max) - 1]]
        if self._faults_left and rng.random() < plan.failures:
            self._faults_left -= 1
            writes = rng.choice((-1, 0, 1, 2, 3))
            world.score(bundle, rng.randint(0, len(bundle)), writes)
            if rng.random() < 0.3:
                world.lose_worker(worker)
            return
        world.score(bundle)
        if rng.random() < plan.repeats:
            world.repeat(rng.choice((0, 1, 3, 15)))


def run(plan: Plan, reference: Reference) -> World:
    """Simulate one pipeline.

    Raises:
        Violation: a promise was broken; any other of `FAILURES` is a violation as well.
    """
    world = World(plan, reference, Random(plan.seed * 2 + 1))
    Pilot(world).fly()
    return world


def first_violation(seeds: Iterable[int], reference: Reference) -> tuple[int, Exception] | None:
    """The first of `seeds` that breaks a promise, and how."""
    for seed in seeds:
        try:
            run(draw(seed), reference)
        except FAILURES as error:
            return seed, error
    return None


def replay_command(seed: int) -> str:
    """What to type to see a seed again."""
    return f"make simulate SEEDS={seed}"


def main() -> int:
    """Run the seeds that the command line names; 1 if one of them breaks a promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0-9999", help="first-last, or one seed")
    first, _, last = parser.parse_args().seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    reference = Reference()
    gc.disable()  # a pipeline leaves no cycles, and the reference is large and stays
    began, began_cpu = time.monotonic(), time.process_time()
    failed, events = 0, 0
    for done, seed in enumerate(seeds, 1):
        try:
            world = run(draw(seed), reference)
            events += len(world.topic)
        except FAILURES as error:
            failed += 1
            print(
                f"seed {seed}: {type(error).__name__}: {error}\n  replay: {replay_command(seed)}",
                flush=True,
            )
        reference.forget_other_paths()
        if done % PROGRESS_SEEDS == 0 or done == len(seeds):
            rate = 60 * done / (time.monotonic() - began)
            own = 60 * done / (time.process_time() - began_cpu)
            print(
                f"{done}/{len(seeds)} pipelines, {failed} violations, {rate:.0f} a minute, "
                f"{own:.0f} a minute of one core's time",
                flush=True,
            )
    print(f"{events} events")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
