"""What entities do in the simulator, and what an undisturbed run makes of it.

Every simulated entity plays a fixed script. The reference is a tree per entity: a node is
what the scorer returned and stored after a sequence of events, each under a policy. Events
of one partition make a single path of it, computed once for all seeds by the real scorer
on one table that nothing ever happens to; other paths (a gap that was given up, a change of
policy, an entity that changed partitions) grow when a run takes them. In the reference
the clock of a partition stands still, so that no entity restarts because of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec
import numpy as np
import pyarrow as pa

from fixtures.artifacts import KNOWN_ENTITIES, make_forecaster
from fixtures.blocks import START_US
from streamgauge.models.alerts import calibration, thresholds
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.block import NOTHING_BEFORE, Block
from streamgauge.models.blocks.scored_block import LATE_EVENT, ScoredBlock, Transition
from streamgauge.models.drift import reference
from streamgauge.models.forecast.forecaster import Forecaster
from streamgauge.models.forecast.spec import ForecasterSpec
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable

FEATURES, HIDDEN, LAGS = 2, 4, 2
REGULARS, EVENTS = 20, 24  # entities with a script of that many events
FAILS_EVERY, CALM_EVENTS = 3, 6  # every third script is a failure after so many events
FLOOD, FLOOD_EVENTS = 24, 2  # entities that come to fill the shards
TTL_S = 600
PATHS_MAX = 50_000  # nodes off the straight paths kept at once; they hold about a kB each
CALMER = np.float32(0.3)  # what scores are worth to the calibration
WARM_UP = (-1, -1)  # stands for no event and no policy
NEVER_FORGOTTEN_US = 1 << 62  # no clock is ever past it

_SENSITIVE = AlertPolicy(3.0, cooldown_s=60, new_normal_after=3, critical_rarity_1_in_n=40)
_CALM = AlertPolicy(1.0, cooldown_s=150, new_normal_after=6, critical_rarity_1_in_n=40)
#: The policies a run may have or change to; limits on entities are the run's own.
POLICIES: tuple[tuple[ScoringPolicy, AlertPolicy], ...] = (
    (ScoringPolicy("score", 0, 0, 2), _SENSITIVE),
    (ScoringPolicy("set_aside", 0, 0, 3), _CALM),
    (ScoringPolicy("score", 0, TTL_S, 2), _CALM),
    (ScoringPolicy("set_aside", 0, TTL_S, 2), _SENSITIVE),
)
BITS = np.dtype(
    [
        ("score", "<f4"),
        ("rarity_1_in_n", "<f4"),
        ("loss", "<f4"),
        ("verdict", "u1"),
        ("confidence", "<f4"),
    ]
)


@dataclass(frozen=True, eq=False)
class Script:
    """The events of one entity, in the order in which it sends them."""

    name: str
    #: (K,) int64; mostly ascending, some late, some after a silence longer than the TTL.
    time_us: np.ndarray
    #: (K, F) float32, NaN where missing.
    features: np.ndarray
    #: (K,) int64, ascending: when the event is sent.
    sent_us: np.ndarray

    @cached_property
    def times(self) -> list[int]:
        """`time_us` as plain integers."""
        return self.time_us.tolist()


@dataclass(slots=True, eq=False)
class Node:
    """An entity after some sequence of events, and what the last of them brought about."""

    script: int
    #: Row bytes, without what depends on the log and on others; empty before the first event.
    row: bytes = b""
    #: Event that opened the last alert; -1 for none.
    opened: int = -1
    #: Latest event time.
    time_us: int = 0
    #: Score, rarity, loss and verdict as `BITS`; empty if the event was set aside.
    bits: bytes = b""
    is_late: bool = False
    #: Encoded transitions, with events named by their place in the script.
    transitions: tuple[bytes, ...] = ()
    after: dict[tuple[int, int], Node] = field(default_factory=dict)


class Reference:
    """Answers what an undisturbed scorer does; see the module."""

    def __init__(self, seed: int = 11) -> None:
        rng = np.random.default_rng(seed)
        names = [*KNOWN_ENTITIES, *(f"e{i:02d}" for i in range(2, REGULARS))]
        self.scripts = [_regular(name, rng, i % FAILS_EVERY == 0) for i, name in enumerate(names)]
        self.scripts += [_flood(f"x{i:02d}", rng) for i in range(FLOOD)]
        self.artifact = _artifact(self.scripts, rng)
        self._scorers = [Scorer(self.artifact, *policy) for policy in POLICIES]
        self.layout = self._scorers[0].layout
        self._off_path = 0
        self.roots = [Node(i) for i in range(len(self.scripts))]
        self._compute_straight_paths()

    def after(self, node: Node, event: int, policy: int) -> Node:
        """What `event` of the entity's script makes of `node`."""
        found = node.after.get((event, policy))
        return found or self._grow(node, event, policy)

    def warming(self, node: Node) -> Node:
        """The same memory, of an entity that has to warm up again."""
        rows = np.frombuffer(node.row, self.layout.dtype).copy()
        if rows["event_count"][0] <= 1:
            return node
        if (found := node.after.get(WARM_UP)) is None:
            rows["event_count"] = 1
            found = node.after[WARM_UP] = replace(node, row=rows.tobytes(), after={})
        return found

    def forget_other_paths(self) -> None:
        """Keep the straight paths only; between runs, so that memory stays bounded."""
        if self._off_path > PATHS_MAX:
            self._off_path = 0
            self.roots = [Node(i) for i in range(len(self.scripts))]
            self._compute_straight_paths()

    def _compute_straight_paths(self) -> None:
        for policy, scorer in enumerate(self._scorers):
            table = EntityTable(self.layout)
            nodes = list(self.roots)
            for event in range(EVENTS):
                here = [i for i, s in enumerate(self.scripts) if event < len(s.time_us)]
                before = [nodes[i] for i in here]
                table.rows["clock_us"] = NEVER_FORGOTTEN_US
                scored = scorer.step(table, _one_each([self.scripts[i] for i in here], event))
                for i, node in zip(here, self._nodes(table, scored, before, event), strict=True):
                    nodes[i].after[(event, policy)] = node
                    nodes[i] = node

    def _grow(self, node: Node, event: int, policy: int) -> Node:
        script = self.scripts[node.script]
        table = EntityTable(self.layout)
        if node.row:
            rows = np.frombuffer(node.row, self.layout.dtype).copy()
            rows["alert_offset"] = node.opened + 1
            rows["clock_us"] = NEVER_FORGOTTEN_US
            table.fill([script.name], rows)
        scored = self._scorers[policy].step(table, _one_each([script], event))
        [grown] = self._nodes(table, scored, [node], event)
        node.after[(event, policy)] = grown
        self._off_path += 1
        return grown

    def _nodes(
        self, table: EntityTable, scored: ScoredBlock, before: list[Node], event: int
    ) -> list[Node]:
        """Nodes after `before`, whose entities were in a block with one event of each."""
        scripts = [self.scripts[node.script] for node in before]
        aside = scored.set_aside.get(LATE_EVENT)
        set_aside = set(aside.entity_id.to_pylist()) if aside is not None else set()
        bits = dict(zip(scored.block.entity_id.to_pylist(), bits_of(scored), strict=True))
        transitions: dict[str, list[bytes]] = {}
        for transition in scored.transitions:
            transitions.setdefault(transition.entity_id, []).append(
                msgspec.msgpack.encode(transition)
            )
        rows = table.rows[table.find([script.name for script in scripts])]
        opened = rows["alert_offset"] - 1
        blank_circumstances(rows)
        return [
            Node(
                node.script,
                rows[i].tobytes(),
                int(opened[i]),
                int(rows["event_time_us"][i]),
                b"" if script.name in set_aside else bits[script.name],
                int(script.time_us[event]) < node.time_us,
                tuple(transitions.get(script.name, ())),
            )
            for i, (node, script) in enumerate(zip(before, scripts, strict=True))
        ]


def bits_of(scored: ScoredBlock) -> list[bytes]:
    """The results of each scored event, as `BITS`."""
    results = np.empty(len(scored.block), BITS)
    for name in BITS.names or ():
        results[name] = getattr(scored, name)
    data = results.tobytes()
    return [data[at : at + BITS.itemsize] for at in range(0, len(data), BITS.itemsize)]


def blank_circumstances(rows: np.ndarray) -> None:
    """Clear where episodes opened and when others sent: of the log, not of the script."""
    for name in ("alert_offset", "alert_partition", "alert_row", "clock_us", "partition"):
        rows[name] = 0


def renamed(transition: Transition, event: int, opened: int) -> bytes:
    """`transition` with its events named by their places in the script, as in `Node`."""
    named = msgspec.structs.replace(
        transition,
        partition=0,
        offset=event + 1,
        row=0,
        opened_partition=0,
        opened_offset=opened + 1,
        opened_row=0,
    )
    return msgspec.msgpack.encode(named)


def _one_each(scripts: Sequence[Script], event: int) -> Block:
    """A block with one event of each script; offset = place in the script + 1."""
    count = len(scripts)
    return Block(
        0,
        event + 1,
        event + 2,
        NOTHING_BEFORE,
        np.full(count, event + 1, np.int64),
        np.zeros(count, np.int32),
        np.array([script.time_us[event] for script in scripts]),
        pa.array([script.name for script in scripts], pa.string()),
        np.stack([script.features[event] for script in scripts]),
    )


def _regular(name: str, rng: np.random.Generator, fails: bool) -> Script:
    """A script of noise with surprises; erratic after a while if the entity `fails`."""
    steps_s = rng.uniform(20, 100, EVENTS)
    silent_s = (rng.random(EVENTS) < 0.08) * 2.5 * TTL_S
    sent_us = START_US + (np.cumsum(steps_s + silent_s) * 1e6).astype(np.int64)
    late_us = (rng.random(EVENTS) < 0.08) * rng.integers(60, 300, EVENTS) * 1_000_000
    # Behind half of all silences comes what the entity measured all the while.
    late_us += ((rng.random(EVENTS) < 0.5) * silent_s * 1e6).astype(np.int64)
    features = rng.normal(size=(EVENTS, FEATURES))
    features[rng.random(EVENTS) < 0.15] *= 8  # surprises, so that alerts open and close
    if fails:  # calm, then never stationary: several messages
        features[:CALM_EVENTS] *= 0.02
        features[CALM_EVENTS:] *= 8
    features[rng.random((EVENTS, FEATURES)) < 0.05] = np.nan
    return Script(name, sent_us - late_us, features.astype(np.float32), sent_us)


def _flood(name: str, rng: np.random.Generator) -> Script:
    sent_us = START_US + np.sort(rng.integers(0, 1_500, FLOOD_EVENTS)) * 1_000_000
    features = rng.normal(size=(FLOOD_EVENTS, FEATURES)).astype(np.float32)
    return Script(name, sent_us, features, sent_us)


def _artifact(scripts: Sequence[Script], rng: np.random.Generator) -> Artifact:
    """A tiny artifact, calibrated on the scripts as if they were calmer: alerts are common."""
    made = make_forecaster(FEATURES, HIDDEN, seed=3, lags=LAGS)
    spec = ForecasterSpec(hidden=HIDDEN, lags=LAGS, alphas=(0.6, 0.3))
    forecaster = Forecaster(
        made.schema,
        spec,
        made.weights,
        linear=made.linear,
        priors=made.priors,
        score_priors=made.score_priors,
    )
    values = rng.normal(size=(1_000, FEATURES)).astype(np.float32)
    any_scores = np.abs(rng.normal(1.0, 0.2, 1_000)).astype(np.float32)

    def assemble(scores: np.ndarray) -> Artifact:
        # Far apart, so that a budget of one a day lets many scores pass.
        times_us = np.arange(1, len(scores) + 1) * 3 * 3_600_000_000
        return Artifact(
            made.schema,
            forecaster,
            calibration.fit(scores),
            thresholds.fit([scores] * len(KNOWN_ENTITIES), [times_us] * len(KNOWN_ENTITIES)),
            reference.fit(values, any_scores, any_scores),
            {"washout_events": 2},
            "5e" * 32,
        )

    scorer = Scorer(assemble(any_scores), ScoringPolicy(), AlertPolicy())
    table, scores = EntityTable(scorer.layout), []
    for _ in range(2):  # twice over, because a calibration needs 500 scores
        for event in range(EVENTS):
            here = [script for script in scripts if event < len(script.time_us)]
            scores.append(scorer.step(table, _one_each(here, event)).score)
    return assemble(np.concatenate(scores) * CALMER)
