"""Bugs to plant in what an entity's alerts and budget rest on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from simulator.mutation import bug
from streamgauge.models.alerts import decision
from streamgauge.models.alerts.decision import AlertAction, AlertRules
from streamgauge.models.forecast.forecaster import Forecaster
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.scoring.shard import ShardScorer
from streamgauge.models.state.entity_table import EntityTable


def _rebuilt_without(forget: Callable[[ShardScorer, EntityTable], None]) -> tuple[Any, str, Any]:
    before = ShardScorer._rebuild

    def rebuild(self: ShardScorer, *args: Any) -> EntityTable:
        table = before(self, *args)
        forget(self, table)
        return table

    return ShardScorer, "_rebuild", rebuild


def _starts_again(field: str) -> tuple[Any, str, Any]:
    """A rebuild that gives every row the `field` of a new one."""

    def forget(shard: ShardScorer, table: EntityTable) -> None:
        fresh = table.rows.copy()
        decision.fill_new(fresh, shard._scorer._alerts, shard._scorer._rules)
        table.rows[field] = fresh[field]

    return _rebuilt_without(forget)


@bug
def threshold_starts_again_in_rebuild() -> tuple[Any, str, Any]:
    return _starts_again("log_threshold")


@bug
def credit_starts_again_in_rebuild() -> tuple[Any, str, Any]:
    return _starts_again("credit")


@bug
def cooldown_forgotten_in_rebuild() -> tuple[Any, str, Any]:
    def forget(shard: ShardScorer, table: EntityTable) -> None:
        table.rows["quiet_until_us"] = 0

    return _rebuilt_without(forget)


@bug
def rare_event_forgotten_in_rebuild() -> tuple[Any, str, Any]:
    def forget(shard: ShardScorer, table: EntityTable) -> None:
        table.rows["calm_events_left"] = 0

    return _rebuilt_without(forget)


@bug
def step_size_forgotten_in_rebuild() -> tuple[Any, str, Any]:
    def forget(shard: ShardScorer, table: EntityTable) -> None:
        table.rows["step_size_baseline"] = table.rows["step_size_recent"] = 0

    return _rebuilt_without(forget)


@bug
def failures_are_learned() -> tuple[Any, str, Any]:
    before = AlertRules.of

    def of(cls: type[AlertRules], *args: Any) -> AlertRules:
        return before(*args)._replace(rare_score=np.float32(np.inf))

    return AlertRules, "of", classmethod(of)


@bug
def updates_are_free_of_charge() -> tuple[Any, str, Any]:
    before = Scorer._apply_actions

    def apply_actions(self: Scorer, table: EntityTable, run: Any, lanes: int) -> None:
        before(self, table, run, lanes)
        is_update = self._decisions.action[:lanes] & AlertAction.UPDATED > 0
        for row in self._group.rows[:lanes][is_update].tolist():
            table.rows["credit"][row] += 1

    return Scorer, "_apply_actions", apply_actions


@bug
def new_baseline_keeps_the_old_level() -> tuple[Any, str, Any]:
    return Forecaster, "restart_level", lambda self, row: None


@bug
def entity_at_a_new_baseline_leaves() -> tuple[Any, str, Any]:
    """As one that was erased: neither has seen an event."""
    before = Scorer.evict

    def evict(self: Scorer, table: EntityTable) -> None:
        before(self, table)
        is_gone = table.rows["event_count"][: len(table)] == 0
        if is_gone.any():
            table.retain(np.flatnonzero(~is_gone))

    return Scorer, "evict", evict
