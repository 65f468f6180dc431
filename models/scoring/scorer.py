"""Scores blocks against entity tables, in waves over repeated entities.

The events of an entity must advance its state one after the other. So a block is stepped in
waves: the first events of all its entities, then their second events, and so on. The kernel
takes each wave in groups of `LANES` entities. The bits of an entity depend neither on the
other entities of its group nor on those of its block.

    block     a b a c a b
    wave 0    a b . c        ──► groups of up to 16 entities
    wave 1        a   b
    wave 2            a

The loop over groups is compiled (`models.scoring.waves`). This module does what is rare: new
entities, erasures, expiry and transitions.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamgauge.models.alerts import decision
from streamgauge.models.alerts.decision import AlertAction, AlertRules
from streamgauge.models.alerts.policy import AlertPolicy
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
from streamgauge.models.kernel.buffers import EventGroup
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.waves import (
    LATE_SET_ASIDE,
    BlockEvents,
    Clocks,
    Decisions,
    EventResults,
    WavePolicy,
    are_silent,
    arrange,
    is_expired,
    step_waves,
)
from streamgauge.models.state.entity_row import floats, heads
from streamgauge.models.state.entity_table import EntityTable, Layout


class Scorer:
    """Advances entity tables by blocks, under one artifact, one scoring and one alert policy."""

    def __init__(self, artifact: Artifact, policy: ScoringPolicy, alerts: AlertPolicy) -> None:
        self._artifact = artifact
        self._forecaster = artifact.forecaster
        self._policy = policy
        #: Both policies as bytes; equal policies have equal bytes.
        self.policies = msgspec.json.encode((policy, alerts), order="sorted")
        self._alerts = alerts
        self._rules = AlertRules.of(alerts, artifact.calibration, artifact.thresholds)
        self._transitions = TransitionBuilder(artifact.schema.names, artifact.calibration, alerts)
        warmup = artifact.washout_events if policy.warmup_events is None else policy.warmup_events
        ttl_us = policy.entity_ttl_s * 1_000_000
        self._compiled = WavePolicy(warmup, ttl_us, policy.late == "set_aside")
        dtype = artifact.forecaster.dtype
        self.layout = Layout.of(dtype, artifact.schema.fingerprint(), artifact.digest)
        self._group, self._decisions = EventGroup.new(), Decisions.new()

    def under(self, policies: bytes) -> Scorer:
        """Return a scorer of the same artifact under `policies`, as in `Scorer.policies`."""
        if policies == self.policies:
            return self
        scoring, alerts = msgspec.json.decode(policies, type=tuple[ScoringPolicy, AlertPolicy])
        return Scorer(self._artifact, scoring, alerts)

    def step(
        self, table: EntityTable, block: Block, clock_us: NDArray[Any] | None = None
    ) -> ScoredBlock:
        """Score `block` and advance `table`, in place.

        Args:
            table: with rows of `layout`.
            block: events in offset order.
            clock_us: (N,) int64, the clock of the block's partition at each event; None
                advances the clock of the table. For a caller that steps only some of the
                events that the clock is made of.
        """
        if block.offset_resets:
            self._follow_offset_reset(table, block)
        if not len(block):
            return self._finish(_Run(block, *np.empty((2, 0), np.int64)))
        names, codes = block.entities()
        if clock_us is None:
            clock = table.clocks.setdefault(block.partition, PartitionClock())
            clock_us = clock.advance(block.event_time_us, names, codes)
        run = _Run(block, self._find_rows(table, names)[codes], clock_us)
        is_without_row = (run.table_row < 0) & (block.row != ERASURE)
        run.set_aside(TOO_MANY_ENTITIES, np.flatnonzero(is_without_row))
        order, starts = arrange(codes, run.table_row, len(names))
        self._step_groups(table, run, order, starts)
        return self._finish(run)

    def _step_groups(
        self, table: EntityTable, run: _Run, order: NDArray[Any], starts: NDArray[Any]
    ) -> None:
        """Step all groups of a block; see `models.scoring.waves.arrange`."""
        clocks = _clocks(table)
        group, groups = 0, len(starts) - 1
        while group < groups:
            rows = table.rows
            group, lanes = step_waves(
                group, starts, order, heads(rows), floats(rows), run.events, clocks,
                self._compiled, self._rules, self._forecaster.network, self._forecaster.scratch,
                self._group, self._decisions, run.results,
            )  # fmt: skip
            if lanes:
                self._apply_actions(table, run, lanes)
            elif group < groups:
                self._restart(table, run, clocks, order[starts[group] : starts[group + 1]])

    def _apply_actions(self, table: EntityTable, run: _Run, lanes: int) -> None:
        """Record the transitions of the last group, then clear what its actions end."""
        group, decisions = self._group, self._decisions
        for lane in np.flatnonzero(decisions.action[:lanes]).tolist():
            row = table.rows[group.rows[lane]]
            action = AlertAction(int(decisions.action[lane]))
            # Without an open alert a new baseline is no transition.
            if action != AlertAction.BASELINE_ACCEPTED:
                transition = self._transitions.build(
                    run.block,
                    int(group.events[lane]),
                    row,
                    scored=self._score_of(lane),
                    action=action,
                    log_threshold=float(decisions.threshold[lane]),
                )
                run.transitions.append(transition)
            decision.complete(row, action)
            if action & AlertAction.BASELINE_ACCEPTED:
                self._forecaster.restart_level(row)

    def _score_of(self, lane: int) -> EventScore:
        scratch, size = self._forecaster.scratch, self._artifact.schema.size
        features = slice(lane * size, (lane + 1) * size)
        return EventScore(
            float(scratch.score[lane]), scratch.part[features], scratch.expected[features]
        )

    def _restart(
        self, table: EntityTable, run: _Run, clocks: Clocks, indices: NDArray[Any]
    ) -> None:
        """Restart the entities of a group that are erased or whose state has expired."""
        for event in indices.tolist():
            index = int(run.table_row[event])
            if index < 0:
                continue
            name, rows = table.entity_ids[index], table.rows[index : index + 1]
            if run.block.row[event] == ERASURE:
                run.table_row[event] = -1
                table.forget_names([name])
            elif not is_expired(heads(rows)[0], event, run.events, clocks, self._compiled.ttl_us):
                continue
            rows[:] = np.zeros(1, self.layout.dtype)
            self._fill_new(rows, [name])

    @staticmethod
    def _follow_offset_reset(table: EntityTable, block: Block) -> None:
        """Let the entities of a partition warm up again if its reader skipped lost events."""
        clock = table.clocks.setdefault(block.partition, PartitionClock())
        if block.offset_resets > clock.offset_resets:
            clock.offset_resets = block.offset_resets
            rows = table.rows[: len(table)]
            is_affected = rows["partition"] == block.partition
            rows["event_count"][is_affected] = np.minimum(rows["event_count"][is_affected], 1)

    def evict(self, table: EntityTable) -> None:
        """Drop entities that were erased or that their next event would restart.

        A snapshot must follow. The time at which a row is dropped changes no score.
        """
        rows = table.rows[: len(table)]
        is_gone = rows["event_time_us"] == 0
        if self._compiled.ttl_us:
            silent = are_silent(heads(table.rows), _clocks(table), self._compiled.ttl_us)
            is_gone |= silent[: len(table)]
        if is_gone.any():
            table.retain(np.flatnonzero(~is_gone))

    def _find_rows(self, table: EntityTable, names: list[str]) -> NDArray[Any]:
        """Return the rows of `names`, and admit new entities while the shard has room."""
        rows = table.find(names)
        new = np.flatnonzero(rows < 0)
        limit = self._policy.entities_per_shard_max
        if limit:
            new = new[: max(0, limit - len(table))]
        if len(new):
            admitted = [names[i] for i in new.tolist()]
            rows[new] = table.add(admitted)
            self._fill_new(table.rows[rows[new[0]] : len(table)], admitted)
        return rows

    def _fill_new(self, rows: NDArray[Any], names: list[str]) -> None:
        """Write the state of the entities `names` before their first event into zeroed rows."""
        self._forecaster.fill_new(rows, names)
        decision.fill_new(rows, self._alerts, self._rules)

    def _finish(self, run: _Run) -> ScoredBlock:
        block, results = run.block, run.results
        late = np.flatnonzero(results.lateness)
        run.set_aside(LATE_EVENT, late[results.lateness[late] == LATE_SET_ASIDE])
        aside = {
            reason: block.take(np.sort(np.concatenate(events)), block.previous_end)
            for reason, events in run.aside.items()
        }
        columns = (results.score, results.verdict, results.confidence, results.loss)
        if aside or run.erasures.size:
            scored = np.setdiff1d(np.arange(len(block)), run.not_scored())
            block = block.take(scored, block.previous_end)
            columns = tuple(column[scored] for column in columns)
        score, verdict, confidence, loss = columns
        return ScoredBlock(
            block=block,
            score=score,
            rarity_1_in_n=self._artifact.calibration.rarity_1_in_n(score),
            verdict=verdict,
            confidence=confidence,
            loss=loss,
            transitions=sorted(run.transitions, key=lambda t: (t.offset, t.row)),
            set_aside=aside,
            late=len(late),
            erased=len(run.erasures),
        )


class _Run:
    """The results of one block while its groups are stepped."""

    def __init__(self, block: Block, table_row: NDArray[Any], clock_us: NDArray[Any]) -> None:
        self.block = block
        #: (N,) row of each event's entity in the table; -1 if it has none.
        self.table_row = table_row
        contiguous = np.ascontiguousarray
        self.events = BlockEvents(
            partition=block.partition,
            features=contiguous(block.features).reshape(-1),
            event_time_us=contiguous(block.event_time_us),
            offset=contiguous(block.offset),
            row=contiguous(block.row),
            clock_us=clock_us,
            table_row=table_row,
        )
        #: Indices of erasures, which are no events.
        self.erasures = np.flatnonzero(block.row == ERASURE)
        self.results = EventResults.of(len(block))
        self.transitions: list[Transition] = []
        self.aside: dict[str, list[NDArray[Any]]] = {}

    def set_aside(self, reason: str, events: NDArray[Any]) -> None:
        """Set the events at these indices aside."""
        if len(events):
            self.aside.setdefault(reason, []).append(events)

    def not_scored(self) -> NDArray[Any]:
        """Return the indices of erasures and of events set aside."""
        parts = [events for parts in self.aside.values() for events in parts]
        return np.concatenate([self.erasures, *parts])


def _clocks(table: EntityTable) -> Clocks:
    """Return the clocks of the partitions of a table."""
    pairs = [(partition, clock.now_us) for partition, clock in table.clocks.items()]
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return Clocks(both[:, 0].copy(), both[:, 1].copy())
