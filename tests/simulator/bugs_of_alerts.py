"""Bugs to plant in what an entity's alerts and budget rest on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from simulator.planting import bug

from models.alerting import Ruling
from models.forecaster import Forecaster
from models.judge import Judge
from models.scorer import Scorer
from models.shard import ShardScorer
from models.table import EntityTable


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
        shard._scorer._judge.fill_new(fresh)
        table.rows[field] = fresh[field]

    return _rebuilt_without(forget)


@bug
def threshold_starts_again_in_rebuild() -> tuple[Any, str, Any]:
    return _starts_again("theta")


@bug
def credit_starts_again_in_rebuild() -> tuple[Any, str, Any]:
    return _starts_again("credit")


@bug
def cooldown_forgotten_in_rebuild() -> tuple[Any, str, Any]:
    def forget(shard: ShardScorer, table: EntityTable) -> None:
        table.rows["quiet_until_us"] = 0

    return _rebuilt_without(forget)


@bug
def surprise_forgotten_in_rebuild() -> tuple[Any, str, Any]:
    def forget(shard: ShardScorer, table: EntityTable) -> None:
        table.rows["surprised"] = 0

    return _rebuilt_without(forget)


@bug
def unrest_forgotten_in_rebuild() -> tuple[Any, str, Any]:
    def forget(shard: ShardScorer, table: EntityTable) -> None:
        table.rows["unrest"] = 0

    return _rebuilt_without(forget)


@bug
def failures_are_learned() -> tuple[Any, str, Any]:
    return Judge, "may_learn", staticmethod(lambda rows, warming: np.ones(len(rows), bool))


@bug
def reminders_are_free_of_charge() -> tuple[Any, str, Any]:
    before = Judge.judge

    def judge(self: Judge, rows: np.ndarray, *args: Any) -> Ruling:
        ruling = before(self, rows, *args)
        rows["credit"] += ruling.updated
        return ruling

    return Judge, "judge", judge


@bug
def new_normal_keeps_the_old_level() -> tuple[Any, str, Any]:
    return Forecaster, "start_anew", lambda self, rows, renewed: None


@bug
def entity_at_a_new_normal_leaves() -> tuple[Any, str, Any]:
    """As one that was erased: neither has seen an event."""
    before = Scorer.evict

    def evict(self: Scorer, table: EntityTable) -> None:
        before(self, table)
        is_gone = table.rows["seen"][: len(table)] == 0
        if is_gone.any():
            table.retain(np.flatnonzero(~is_gone))

    return Scorer, "evict", evict
