"""The life of an alert: decides for each event whether an alert opens, is repeated or closes.

Two decisions are made per event, independently of each other.

Learning. An event is *rare* if the model expects it at most once in 20 events. After a rare
event the entity's statistics stop learning until 10 calm events have come in a row, so that a
failure does not become the baseline.

Messages. The budget (`models.alerts.budget`) decides which events send a message. It never
changes a score. An alert opens at a message. Each further message while it is open is an
update. It closes when the entity is calm, the cool-down is over, and the score is below the
threshold.

    rare event    x xx xxxxxxx x          the 10th calm event closes the alert
    learning    ──┐                   ┌──────
    message       o      u                "opened", "updated"; "closed" is free of charge
    alert         ├───────────────────┤

A level shift is different from a failure: after it, the entity moves from event to event no
more than it did before. Such an entity is *stationary*. While it is stationary, no update is
due unless the score has become much worse than at the last message. After
`AlertPolicy.new_normal_after` stationary events without learning, the new level is accepted
as the baseline, which closes the alert. A failure that changes continuously is never stationary.

This module alone assigns the alert fields of a row (`tests/test_alert_fields.py`).
"""

from __future__ import annotations

import math
from enum import IntFlag
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamgauge.models.alerts import budget
from streamgauge.models.alerts.budget import BudgetParams, Start
from streamgauge.models.alerts.calibration import Calibration
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.alerts.thresholds import SCORE_MIN, Thresholds
from streamgauge.models.blocks.scored_block import ANOMALOUS, NORMAL, WARMING
from streamgauge.models.state.entity_row import ALERT_FIELDS, Record

# From this rarity on an event is rare. 1 in 20 detects most on the development sets: AUC-PR of
# server machines and services .530 and .505, against .511 and .492 at 1 in 5, .479 at 1 in 300.
RARE_1_IN_N = 20.0
CALM_EVENTS = 10  # in a row, after which an entity is calm

RECENT_RATE = 0.1  # learning rate of the recent step size
BASELINE_RATE = 0.01  # least learning rate of its baseline
# An entity is stationary if its recent step size is at most this many times the baseline, plus
# a constant. The constant makes a flat line stationary, and values beyond the clipping of
# standard values: otherwise an entity whose unit changes would never get a new baseline.
STATIONARY_RATIO, STATIONARY_LEAST = 2.0, 0.01
# Stationary events that one event which is not stationary takes back. Noise exceeds the ratio
# now and then, so one such event must not reset the count.
UNSTEADY_EVENT_COST = 10

# A score is much worse than a message if it exceeds the highest score that the message covers by
# half. A message covers the 50 events from it on: by then a smoothed score is within a tenth
# of its final value after a step.
WORSE_RATIO, MESSAGE_EVENTS = 1.5, 50

BEYOND_ANY_COUNT = 1 << 32  # no event count reaches it


class AlertAction(IntFlag):
    """What an event does to the alert of its entity; several may apply."""

    NONE = 0
    OPENED = 1
    UPDATED = 2
    CLOSED = 4
    #: The present level becomes the baseline. An open alert closes.
    BASELINE_ACCEPTED = 8


# Plain integers: compiled code knows no flags.
_OPENED, _UPDATED, _CLOSED = (
    int(AlertAction.OPENED),
    int(AlertAction.UPDATED),
    int(AlertAction.CLOSED),
)
_BASELINE_ACCEPTED = int(AlertAction.BASELINE_ACCEPTED)


class AlertRules(NamedTuple):
    """An alert policy under the calibration and thresholds of one artifact, for compiled code."""

    budget: BudgetParams
    #: (1 + E,) float64 each, by `prior_index`: first threshold, its decay per day, its floor.
    log_threshold: NDArray[Any]
    threshold_rate: NDArray[Any]
    floor: NDArray[Any]
    #: Events with at least this score are rare.
    rare_score: np.float32
    new_normal_after: int

    @classmethod
    def of(
        cls, policy: AlertPolicy, calibration: Calibration, thresholds: Thresholds
    ) -> AlertRules:
        """Combine all three."""
        start = thresholds.start(policy.budget)
        # Adding 0 turns -0 into 0: max() may return either of the two.
        return cls(
            budget=BudgetParams.of(policy.budget),
            log_threshold=np.asarray(start.log_threshold) + 0.0,
            threshold_rate=np.asarray(start.threshold_rate) + 0.0,
            floor=np.asarray(start.floor) + 0.0,
            rare_score=np.float32(calibration.threshold(RARE_1_IN_N)),
            new_normal_after=policy.new_normal_after or BEYOND_ANY_COUNT,
        )


class EventAddress(NamedTuple):
    """The event in the log, and its time."""

    partition: int
    offset: int
    row: int
    time_us: int


def fill_new(rows: NDArray[Any], policy: AlertPolicy, rules: AlertRules) -> None:
    """Write the state before the first event, in place; `prior_index` must be set."""
    for name, *_ in ALERT_FIELDS:
        rows[name] = 0
    prior = rows["prior_index"]
    start = Start(rules.log_threshold[prior], rules.threshold_rate[prior], rules.floor[prior])
    budget.fill_new(rows, policy.budget, start)


@njit(error_model="numpy", inline="always")
def may_learn(head: Record, is_warming: bool) -> bool:
    """Return whether the statistics of an entity learn from its next event."""
    return bool(head.calm_events_left == 0 or is_warming)


@njit(error_model="numpy", inline="always")
def decide(
    head: Record,
    score: np.float32,
    change: np.float32,
    is_warming: bool,
    event: EventAddress,
    rules: AlertRules,
) -> tuple[int, int, float]:
    """Advance the alert of an entity by one event, in place.

    The caller builds the transition from the row and then calls `complete`, which clears what
    the action ends.

    Args:
        head: record of the entity, `models.state.entity_row.HEAD`; `event_count` includes
            the event.
        score: of the event.
        change: squared step from the entity's previous event.
        is_warming: whether the scores of the entity do not count yet.
        event: which event it is.
        rules: in force.

    Returns:
        The verdict, the `AlertAction` as a plain integer, and the threshold that the log score
        had to exceed for a message.
    """
    learned, is_open = may_learn(head, is_warming), head.alert_events > 0
    is_stationary = _update_step_size(head, float(change), learned)
    is_rare, log_threshold = bool(score >= rules.rare_score), head.log_threshold
    log_score = math.log(max(float(score), SCORE_MIN))
    _update_calm(head, is_rare and not is_warming)
    _update_stationary(head, learned, is_stationary)
    # Independent of messages: a new baseline changes scores, and no score may depend on the budget.
    accepted = is_stationary and head.stationary_events >= rules.new_normal_after
    is_worse = bool(score > WORSE_RATIO * head.message_peak)
    may_send = not is_warming and not accepted and (is_worse or not (is_open and is_stationary))
    sent = _charge(head, log_score, event.time_us, may_send, rules)
    _update_message(head, score, sent)
    opened = sent and not is_open
    is_calm = head.calm_events_left == 0 and head.budget_time_us >= head.quiet_until_us
    closed = is_open and (accepted or (is_calm and not log_score > log_threshold))
    _update_alert(head, score, event, is_open, opened)
    action = _OPENED if opened else 0
    action |= _UPDATED if sent and is_open else 0
    action |= _CLOSED if closed else 0
    action |= _BASELINE_ACCEPTED if accepted else 0
    is_anomalous = log_score > log_threshold or (is_rare and (is_open or opened))
    verdict = ANOMALOUS if is_anomalous else NORMAL
    return WARMING if is_warming else verdict, action, log_threshold


def complete(row: Record, action: int) -> None:
    """Clear what `action` ends, in place, after its transition was built."""
    if action & AlertAction.CLOSED:
        close(row)
    if action & AlertAction.BASELINE_ACCEPTED:
        accept_baseline(row)


def close(row: Record) -> None:
    """Close the alert of an entity, in place."""
    row["alert_events"] = 0


def accept_baseline(row: Record) -> None:
    """Let an entity learn again from the next event on, in place."""
    row["calm_events_left"] = row["stationary_events"] = 0


@njit(error_model="numpy", inline="always")
def _charge(
    head: Record, log_score: float, event_time_us: int, may_send: bool, rules: AlertRules
) -> bool:
    """Return whether the budget sends a message for an event."""
    prior = min(int(head.prior_index), len(rules.threshold_rate) - 1)
    threshold_rate, floor = rules.threshold_rate[prior], rules.floor[prior]
    _, sent = budget.charge(
        head, log_score, event_time_us, may_send, rules.budget, threshold_rate, floor
    )
    return bool(sent)


@njit(error_model="numpy", inline="always")
def _update_calm(head: Record, is_rare: bool) -> None:
    """Count calm events; a rare event resets the count."""
    if is_rare:
        head.calm_events_left = np.uint32(CALM_EVENTS)
    elif head.calm_events_left > 0:
        head.calm_events_left -= np.uint32(1)


@njit(error_model="numpy", inline="always")
def _update_stationary(head: Record, learned: bool, is_stationary: bool) -> None:
    """Count stationary events that were not learned from."""
    if learned:
        head.stationary_events = np.uint32(0)
    elif is_stationary:
        head.stationary_events += np.uint32(1)
    else:
        head.stationary_events -= min(head.stationary_events, np.uint32(UNSTEADY_EVENT_COST))


@njit(error_model="numpy", inline="always")
def _update_message(head: Record, score: np.float32, sent: bool) -> None:
    """Update the highest score that the last message covers."""
    if head.message_events < MESSAGE_EVENTS:
        head.message_events += np.uint32(1)
    if sent:
        head.message_events, head.message_peak = np.uint32(0), score
    elif head.message_events < MESSAGE_EVENTS:
        head.message_peak = max(head.message_peak, score)


@njit(error_model="numpy", inline="always")
def _update_alert(
    head: Record, score: np.float32, event: EventAddress, is_open: bool, opened: bool
) -> None:
    """Open an alert at the event, or add the event to the open one."""
    if is_open:
        head.alert_peak = max(head.alert_peak, score)
    else:
        head.alert_peak = score if opened else np.float32(0.0)
    if opened:
        head.alert_partition, head.alert_offset = event.partition, event.offset
        head.alert_row, head.alert_time_us = event.row, event.time_us
    if is_open or opened:
        head.alert_events += np.uint32(1)


@njit(error_model="numpy", inline="always")
def _update_step_size(head: Record, change: float, learned: bool) -> bool:
    """Update the step sizes of an entity; returns whether it is stationary."""
    head.step_size_recent += RECENT_RATE * (change - head.step_size_recent)
    if learned:
        # At first the mean of all events, so that it is usable after a few of them.
        rate = max(1.0 / max(int(head.event_count) - 1, 1), BASELINE_RATE)
        head.step_size_baseline += rate * (change - head.step_size_baseline)
    limit = STATIONARY_RATIO * head.step_size_baseline + STATIONARY_LEAST
    return bool(head.step_size_recent <= limit)
