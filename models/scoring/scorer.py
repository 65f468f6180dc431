"""Scores blocks against entity tables: waves over repeated entities, groups of one shape.

An entity's events must advance its state one after the other, so a block is stepped in
waves: first events of all its entities, then second events, and so on. Every wave is
fed to the kernel in groups of `LANES` entities. No entity's bits depend on who shares its
group or its block.

    block     a b a c a b
    wave 0    a b . c        ──► groups of up to 16 entities
    wave 1        a   b
    wave 2            a

The loop over groups is compiled (`models.scoring.waves`); here is what is rare.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import msgspec
import numpy as np

from streamgauge.models.alerts import decision
from streamgauge.models.alerts.decision import AlertRules
from streamgauge.models.alerts.policy import BASELINE_ACCEPTED, CLOSED, AlertPolicy
from streamgauge.models.alerts.transition import EventScore, TransitionBuilder
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.block import ERASURE, Block
from streamgauge.models.blocks.event_clock import PartitionClock
from streamgauge.models.blocks.scored_block import (
    LATE_EVENT,
    TOO_MANY_ENTITIES,
    ScoredBlock,
    Transition,
)
from streamgauge.models.errors import ConfigError
from streamgauge.models.scoring.waves import (
    LATE_ASIDE,
    Clocks,
    Events,
    Lanes,
    Results,
    WavePolicy,
    are_silent,
    arrange,
    must_forget,
    step_waves,
)
from streamgauge.models.state.entity_row import floats, heads
from streamgauge.models.state.entity_table import EntityTable, Layout

LATE_POLICIES = ("score", "set_aside")
LATE = LATE_EVENT


@dataclass(frozen=True, slots=True)
class ScoringPolicy:
    """What the scorer does where the model has no opinion."""

    #: An event older than its entity's last one: "score" it in offset order, or "set_aside".
    late: str = "score"
    #: Most entities a shard keeps; 0 for no limit. Past it new entities are set aside.
    entities_per_shard_max: int = 100_000
    #: Entities without an event for this long, in event time, start anew; 0 = never.
    entity_ttl_s: int = 0
    #: Events before an entity's verdicts count; None takes the artifact's washout length.
    warmup_events: int | None = None

    def __post_init__(self) -> None:
        if self.late not in LATE_POLICIES:
            raise ConfigError(f"scoring: late must be one of {LATE_POLICIES}; got {self.late!r}")
        for name in ("entities_per_shard_max", "entity_ttl_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"scoring: {name} must be >= 0; got {getattr(self, name)}")


class Scorer:
    """Steps entity tables through blocks with one artifact and one policy."""

    def __init__(self, artifact: Artifact, policy: ScoringPolicy, alerts: AlertPolicy) -> None:
        self._artifact = artifact
        self._forecaster = artifact.forecaster
        self._policy = policy
        #: The policies in force, as bytes; equal bytes, equal policies.
        self.policies = _policy_bytes(policy, alerts)
        self._alerts = alerts
        self._rules = AlertRules.of(alerts, artifact.calibration, artifact.thresholds)
        self._teller = TransitionBuilder(artifact, alerts)
        warmup = artifact.washout_events if policy.warmup_events is None else policy.warmup_events
        ttl_us = policy.entity_ttl_s * 1_000_000
        self._compiled = WavePolicy(warmup, ttl_us, policy.late == "set_aside")
        dtype = artifact.forecaster.dtype
        self.layout = Layout.of(dtype, artifact.schema.fingerprint(), artifact.digest)
        self._lanes = Lanes.new()

    def under(self, policies: bytes) -> Scorer:
        """This scorer under the policies that `policies` of another one held."""
        if policies == self.policies:
            return self
        scoring, alerts = msgspec.json.decode(policies, type=tuple[ScoringPolicy, AlertPolicy])
        return Scorer(self._artifact, scoring, alerts)

    def step(self, table: EntityTable, block: Block) -> ScoredBlock:
        """Score `block` and advance `table` in place."""
        if block.offset_resets:
            self._follow_offset_reset(table, block)
        if not len(block):
            return self._finish(_Run(block, *np.empty((2, 0), np.int64)))
        names, codes = block.entities()
        clock = table.clocks.setdefault(block.partition, PartitionClock())
        clock_us = clock.advance(block.event_time_us, names, codes)
        run = _Run(block, self._places(table, names)[codes], clock_us)
        place = run.place
        run.set_aside(TOO_MANY_ENTITIES, np.flatnonzero((place < 0) & (block.row != ERASURE)))
        order, starts = arrange(codes, place, len(names))
        clocks = _clocks(table)
        group, groups = 0, len(starts) - 1
        while group < groups:
            rows = table.rows
            group, told = step_waves(
                group, starts, order, heads(rows), floats(rows), run.events, clocks,
                self._compiled, self._rules, self._forecaster.network, self._forecaster.scratch,
                self._lanes, run.results,
            )  # fmt: skip
            if told:
                self._tell(table, run, told)
            elif group < groups:
                self._forget(table, run, clocks, order[starts[group] : starts[group + 1]])
        return self._finish(run)

    def _tell(self, table: EntityTable, run: _Run, count: int) -> None:
        """Report what came of the group in hand, and clear what that ends."""
        lanes, scratch, size = self._lanes, self._forecaster.scratch, run.block.features.shape[1]
        for lane in np.flatnonzero(lanes.told[:count]).tolist():
            row, told = table.rows[lanes.rows[lane]], int(lanes.told[lane])
            here = slice(lane * size, (lane + 1) * size)
            said = EventScore(
                float(scratch.score[lane]), scratch.part[here], scratch.expected[here]
            )
            event, log_threshold = int(lanes.events[lane]), float(lanes.log_threshold[lane])
            if told != BASELINE_ACCEPTED:  # a new normal where nothing was told is no news
                transition = self._teller.tell(run.block, event, row, said, told, log_threshold)
                run.transitions.append(transition)
            if told & CLOSED:
                row["alert_events"] = 0
            if told & BASELINE_ACCEPTED:
                row["calm_events_left"] = row["stationary_events"] = 0
                self._forecaster.start_anew(row)

    def _forget(self, table: EntityTable, run: _Run, clocks: Clocks, group: np.ndarray) -> None:
        """Let entities of a group forget: those that are erased, and those silent for too long."""
        for event in group.tolist():
            place = int(run.place[event])
            if place < 0:
                continue
            name, rows = table.entity_ids[place], table.rows[place : place + 1]
            if run.block.row[event] == ERASURE:
                run.place[event] = -1
                table.forget_names([name])
            elif not must_forget(heads(rows)[0], event, run.events, clocks, self._compiled.ttl_us):
                continue
            rows[:] = np.zeros(1, self.layout.dtype)
            self._fill_new(rows, [name])

    @staticmethod
    def _follow_offset_reset(table: EntityTable, block: Block) -> None:
        """Let a partition's entities warm up again if events were lost since its last block."""
        clock = table.clocks.setdefault(block.partition, PartitionClock())
        if block.offset_resets > clock.offset_resets:
            clock.offset_resets = block.offset_resets
            rows = table.rows[: len(table)]
            from_here = rows["partition"] == block.partition
            rows["event_count"][from_here] = np.minimum(rows["event_count"][from_here], 1)

    def evict(self, table: EntityTable) -> None:
        """Drop entities that were erased or that their next event would restart.

        A snapshot must follow. When a row leaves the table makes no difference to any score.
        """
        rows = table.rows[: len(table)]
        is_gone = rows["event_time_us"] == 0
        if self._compiled.ttl_us:
            silent = are_silent(heads(table.rows), _clocks(table), self._compiled.ttl_us)
            is_gone |= silent[: len(table)]
        if is_gone.any():
            table.retain(np.flatnonzero(~is_gone))

    def _places(self, table: EntityTable, names: list[str]) -> np.ndarray:
        """Rows of `names`, admitting new entities while the shard has room."""
        places = table.find(names)
        new = np.flatnonzero(places < 0)
        limit = self._policy.entities_per_shard_max
        if limit:
            new = new[: max(0, limit - len(table))]
        if len(new):
            admitted = [names[i] for i in new.tolist()]
            places[new] = table.add(admitted)
            self._fill_new(table.rows[places[new[0]] : len(table)], admitted)
        return places

    def _fill_new(self, rows: np.ndarray, names: list[str]) -> None:
        """Write the state of the entities `names` before their first event into zeroed rows."""
        self._forecaster.fill_new(rows, names)
        decision.fill_new(rows, self._alerts, self._rules)

    def _finish(self, run: _Run) -> ScoredBlock:
        block, results = run.block, run.results
        late = np.flatnonzero(results.lateness)
        run.set_aside(LATE, late[results.lateness[late] == LATE_ASIDE])
        aside = {
            reason: block.take(np.sort(np.concatenate(events)), block.previous_end)
            for reason, events in run.aside.items()
        }
        told = (results.score, results.verdict, results.confidence, results.loss)
        if aside or run.erasures.size:
            parts = [events for parts in run.aside.values() for events in parts]
            left_out = np.concatenate([run.erasures, *parts])
            kept = np.setdiff1d(np.arange(len(block)), left_out)
            block = block.take(kept, block.previous_end)
            told = tuple(one[kept] for one in told)
        score, verdict, confidence, loss = told
        run.transitions.sort(key=lambda t: (t.offset, t.row))
        rarity_1_in_n = self._artifact.calibration.rarity_1_in_n(score)
        erased = len(run.erasures)
        said = (score, rarity_1_in_n, verdict, confidence, loss)
        return ScoredBlock(block, *said, run.transitions, aside, len(late), erased)


class _Run:
    """What one block's step gathers on its way through the groups."""

    def __init__(self, block: Block, place: np.ndarray, clock_us: np.ndarray) -> None:
        self.block = block
        #: (N,) row of each event's entity in the table; -1 if it has none.
        self.place = place
        whole = np.ascontiguousarray
        self.events = Events(
            partition=block.partition,
            features=whole(block.features).reshape(-1),
            event_time_us=whole(block.event_time_us),
            offset=whole(block.offset),
            row=whole(block.row),
            clock_us=clock_us,
            place=place,
        )
        #: Places of what is no event but an erasure.
        self.erasures = np.flatnonzero(block.row == ERASURE)
        self.results = Results.of(len(block))
        self.transitions: list[Transition] = []
        self.aside: dict[str, list[np.ndarray]] = {}

    def set_aside(self, reason: str, events: np.ndarray) -> None:
        if len(events):
            self.aside.setdefault(reason, []).append(events)


def _clocks(table: EntityTable) -> Clocks:
    """How far the partitions of a table have come."""
    known = [(partition, clock.now_us) for partition, clock in table.clocks.items()]
    both = np.array(known, np.int64).reshape(-1, 2)
    return Clocks(both[:, 0].copy(), both[:, 1].copy())


def _policy_bytes(scoring: ScoringPolicy, alerts: AlertPolicy) -> bytes:
    """Both policies as JSON, without what a configuration may have added to them."""
    pair = [
        {f.name: getattr(policy, f.name) for f in fields(base)}
        for policy, base in ((scoring, ScoringPolicy), (alerts, AlertPolicy))
    ]
    return msgspec.json.encode(pair, order="sorted")
