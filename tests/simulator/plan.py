"""What one seed stands for: the shape of a run and the faults it may meet.

Every seed switches kinds of faults on and off at random (swarm testing), so that some
runs have few kinds but many of each, and bugs that one fault would hide still show.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from simulator.reference import FLOOD, FLOOD_EVENTS, POLICIES, REGULARS, TTL_S
from streamgauge.models.blocks.chain import SILENT_OFFSETS_MAX

RUNNERS_HELD_MAX = 64  # held_blocks_max of a real job; no run without losses reaches it


@dataclass(frozen=True, slots=True)
class Plan:
    """One simulated pipeline."""

    seed: int
    #: Tick at which each partition is created; 0 for those there from the start.
    created: tuple[int, ...]
    shards: int
    routing: str
    #: (script, number of its events), and the partition of each script.
    entities: tuple[tuple[int, int], ...]
    home: dict[int, int]
    #: Entities also send to other partitions.
    spread: bool
    #: Shares of messages: with one event, with a malformed one, followed by missing offsets.
    single: float
    malformed: float
    holes: float
    #: Hundredths of a tick between two events.
    pace: int
    #: partition -> (tick from which it is silent, for how many ticks).
    idle: dict[int, tuple[int, int]]
    #: Places in `POLICIES`, the first one in force at the start.
    policies: tuple[int, ...]
    entities_per_shard_max: int
    held_blocks_max: int
    tables_max: int
    log_bytes_min: int
    window_s: int
    #: Most messages of one block, most blocks of one bundle.
    block_messages_max: int
    bundle_max: int
    #: How far back in the order of sending a block may be overtaken.
    overtaken_by: int
    #: Chances per delivered block or per bundle.
    repeats: float
    delays: float
    failures: float
    leaks: float
    #: Chances per action.
    checkpoints: float
    crashes: float
    quiet: float
    rewinds: float
    truncations: float
    #: Blocks are lost between steps: gaps must be given up.
    drops: float
    #: Most faults of all kinds.
    faults_max: int
    #: Chances per action that a shard's snapshot is kept, that a new job starts from those.
    snapshots: float
    migrations: float
    #: Offsets after which a shard without events is sent an empty block.
    silent_offsets_max: int

    @property
    def is_lossless(self) -> bool:
        """Nothing is injected that loses events."""
        return not (self.drops or self.truncations or self.held_blocks_max < RUNNERS_HELD_MAX)

    @property
    def is_pure(self) -> bool:
        """All outputs are a function of the log: what is emitted twice must be equal twice."""
        return (
            self.is_lossless
            and len(self.policies) == 1
            and not self.spread
            and not self.entities_per_shard_max
        )


def draw(seed: int) -> Plan:
    """The plan of `seed`."""
    rng = Random(seed)

    def some(chance: float, share: float) -> float:
        """`share` in a part of all seeds, 0 in the others."""
        return share * rng.random() if rng.random() < chance else 0.0

    partitions = rng.choice((1, 1, 2, 2, 3))
    created = [0] * partitions
    if rng.random() < 0.15:
        created.append(rng.randrange(5, 25))
    scripts = rng.sample(range(REGULARS), rng.randrange(3, 11))
    entities = [(script, rng.randrange(4, 13)) for script in scripts]
    is_flooded = rng.random() < 0.12
    if is_flooded:
        flood = rng.sample(range(REGULARS, REGULARS + FLOOD), rng.randrange(6, 18))
        entities += [(script, FLOOD_EVENTS) for script in flood]
    gives_up = rng.random() < 0.1
    idle = {}
    if len(created) > 1 and rng.random() < 0.2:
        idle[rng.randrange(len(created))] = (rng.randrange(30), rng.randrange(10, 60))
    return Plan(
        seed=seed,
        created=tuple(created),
        shards=rng.choice((1, 2, 2, 3)),
        routing="partition" if rng.random() < 0.15 else "entity",
        entities=tuple(entities),
        home={script: rng.randrange(len(created)) for script, _ in entities},
        spread=len(created) > 1 and rng.random() < 0.08,
        single=rng.choice((0.4, 0.8, 1.0)),
        malformed=some(0.3, 0.2),
        holes=some(0.4, 0.4),
        pace=rng.choice((5, 20, 40)),
        idle=idle,
        policies=tuple(rng.sample(range(len(POLICIES)), 2 if rng.random() < 0.15 else 1)),
        entities_per_shard_max=rng.randrange(2, 7) if is_flooded else 0,
        held_blocks_max=rng.randrange(1, 4) if gives_up else RUNNERS_HELD_MAX,
        tables_max=rng.choice((1, 2, 16, 16)),
        log_bytes_min=rng.choice((0, 2_000, 4_000, 1 << 20)),
        window_s=rng.choice((TTL_S, 3 * TTL_S)),
        block_messages_max=rng.choice((10, 20, 40)),
        bundle_max=rng.choice((1, 3, 6)),
        overtaken_by=rng.choice((0, 0, 2, 5)),
        repeats=0.7 * rng.random() if gives_up else some(0.4, 0.5),
        delays=some(0.3, 0.3),
        failures=some(0.5, 0.3),
        leaks=rng.random(),
        checkpoints=0.05 + 0.2 * rng.random(),
        crashes=some(0.7, 0.15),
        quiet=some(0.25, 0.2),
        rewinds=some(0.1, 0.2),
        truncations=some(0.2, 0.4),
        drops=0.3 * rng.random() if gives_up else 0.0,
        faults_max=rng.choice((1, 3, 6)),
        **_draw_migrations(rng),
    )


def _draw_migrations(rng: Random) -> dict[str, float]:
    """Last, so that whatever is drawn before stays as it was when seeds were written down."""
    migrates = rng.random() < 0.3
    return {
        "snapshots": (0.05 + 0.15 * rng.random()) * migrates,
        "migrations": (0.02 + 0.06 * rng.random()) * migrates,
        "silent_offsets_max": rng.choice((5, 30, SILENT_OFFSETS_MAX)),
    }
