"""Decides what every event means for its entity's alerts; see `models.alerts.policy`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from streamgauge.models.alerts import budget
from streamgauge.models.alerts import policy as alerting
from streamgauge.models.alerts.budget import BudgetParams, Start, decide
from streamgauge.models.alerts.calibration import Calibration
from streamgauge.models.alerts.policy import (
    ANOMALOUS,
    BASELINE_ACCEPTED,
    BASELINE_RATE,
    CALM_EVENTS,
    CLOSED,
    MESSAGE_EVENTS,
    NORMAL,
    OPENED,
    RECENT_RATE,
    STATIONARY_LEAST,
    STATIONARY_RATIO,
    SURPRISE_RARITY,
    UNSTEADY_EVENT_COST,
    UPDATED,
    WARMING,
    WORSE_RATIO,
    AlertPolicy,
)
from streamgauge.models.alerts.thresholds import SCORE_MIN, Thresholds
from streamgauge.models.state.entity_row import Record

NEVER = 1 << 32  # no count of events reaches it


class AlertRules(NamedTuple):
    """An alert policy under one artifact's calibration and thresholds, for compiled code."""

    terms: BudgetParams
    #: (1 + E,) float64 each, by `prior`: first threshold, what it sinks a day, and its floor.
    log_threshold: np.ndarray
    threshold_rate: np.ndarray
    floor: np.ndarray
    #: From this score on an event is a surprise.
    surprise: np.float32
    new_normal_after: int

    @classmethod
    def of(
        cls, policy: AlertPolicy, calibration: Calibration, thresholds: Thresholds
    ) -> AlertRules:
        """What follows from all three."""
        start = thresholds.start(policy.budget)
        # Adding 0 makes 0 of -0: of the two, max() may return either.
        return cls(
            terms=BudgetParams.of(policy.budget),
            log_threshold=np.asarray(start.log_threshold) + 0.0,
            threshold_rate=np.asarray(start.threshold_rate) + 0.0,
            floor=np.asarray(start.floor) + 0.0,
            surprise=np.float32(calibration.threshold(SURPRISE_RARITY)),
            new_normal_after=policy.new_normal_after or NEVER,
        )


def fill_new(rows: np.ndarray, policy: AlertPolicy, rules: AlertRules) -> None:
    """Write the state before the first event, in place; `prior` is there already."""
    for name, *_ in alerting.FIELDS:
        rows[name] = 0
    prior = rows["prior_index"]
    start = Start(rules.log_threshold[prior], rules.threshold_rate[prior], rules.floor[prior])
    budget.fill_new(rows, policy.budget, start)


@njit(error_model="numpy", inline="always")
def may_learn(head: Record, warming: bool) -> bool:
    """Whether statistics take in the next event of an entity."""
    return head.calm_events_left == 0 or warming


@njit(error_model="numpy", inline="always")
def judge(
    head: Record,
    score: np.float32,
    change: np.float32,
    warming: bool,
    event_time_us: int,
    rules: AlertRules,
) -> tuple[int, int, float]:
    """Advance an entity by one event, in place, but for what closing and renewing clear.

    Args:
        head: its record, `models.row.HEAD`; `seen` includes the event.
        score: of the event.
        change: how far the entity moved from its last event.
        warming: whether its scores do not count yet.
        event_time_us: of the event.
        rules: in force.

    Returns:
        The verdict, the bits of what is told, and what the log score had to pass for a message.
    """
    learned, is_open = may_learn(head, warming), head.alert_events > 0
    is_stationary = _update_step_size(head, float(change), learned)
    exceeds, log_threshold = bool(score >= rules.surprise), head.log_threshold
    level = math.log(max(float(score), SCORE_MIN))
    if exceeds and not warming:
        head.calm_events_left = np.uint32(CALM_EVENTS)
    elif head.calm_events_left > 0:
        head.calm_events_left -= np.uint32(1)
    if learned:
        head.stationary_events = np.uint32(0)
    elif is_stationary:
        head.stationary_events += np.uint32(1)
    else:
        head.stationary_events -= min(head.stationary_events, np.uint32(UNSTEADY_EVENT_COST))
    # Whatever is told: a new normal shapes scores, and no score depends on the budget.
    baseline_accepted = is_stationary and head.stationary_events >= rules.new_normal_after
    is_worse = bool(score > WORSE_RATIO * head.message_peak)
    may_tell = (
        not warming and not baseline_accepted and (is_worse or not (is_open and is_stationary))
    )
    prior = min(int(head.prior_index), len(rules.threshold_rate) - 1)
    threshold_rate, floor = rules.threshold_rate[prior], rules.floor[prior]
    _, sent = decide(head, level, event_time_us, may_tell, rules.terms, threshold_rate, floor)
    _update_message(head, score, sent)
    opened = sent and not is_open
    is_calm = head.calm_events_left == 0 and head.budget_time_us >= head.quiet_until_us
    closed = is_open and (baseline_accepted or (is_calm and not level > log_threshold))
    if is_open:
        head.alert_peak = max(head.alert_peak, score)
    else:
        head.alert_peak = score if opened else np.float32(0.0)
    verdict = ANOMALOUS if level > log_threshold or (exceeds and (is_open or opened)) else NORMAL
    told = OPENED if opened else 0
    told |= UPDATED if sent and is_open else 0
    told |= CLOSED if closed else 0
    told |= BASELINE_ACCEPTED if baseline_accepted else 0
    if is_open or opened:
        head.alert_events += np.uint32(1)
    return WARMING if warming else verdict, told, log_threshold


@njit(error_model="numpy", inline="always")
def _update_message(head: Record, score: np.float32, sent: bool) -> None:
    """Take in what the last message stands for: what came soon behind it belongs to it."""
    if head.message_events < MESSAGE_EVENTS:
        head.message_events += np.uint32(1)
    if sent:
        head.message_events, head.message_peak = np.uint32(0), score
    elif head.message_events < MESSAGE_EVENTS:
        head.message_peak = max(head.message_peak, score)


@njit(error_model="numpy", inline="always")
def _update_step_size(head: Record, moved: float, learned: bool) -> bool:
    """Take in how far an entity moved; returns whether it moves no more than usual."""
    head.step_size_recent += RECENT_RATE * (moved - head.step_size_recent)
    if learned:
        # A mean of all events at first, so that few are enough for it to mean something.
        rate = max(1.0 / max(int(head.event_count) - 1, 1), BASELINE_RATE)
        head.step_size_baseline += rate * (moved - head.step_size_baseline)
    return head.step_size_recent <= STATIONARY_RATIO * head.step_size_baseline + STATIONARY_LEAST
