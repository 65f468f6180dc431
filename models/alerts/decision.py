"""Decides what every event means for its entity's alerts; see `models.alerts.policy`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from streamgauge.models.alerts import budget
from streamgauge.models.alerts import policy as alerting
from streamgauge.models.alerts.budget import Start, Terms, decide
from streamgauge.models.alerts.calibration import Calibration
from streamgauge.models.alerts.policy import (
    ANOMALOUS,
    CALM_EVENTS,
    CLOSED,
    NORMAL,
    NOW_RATE,
    OPENED,
    RENEWED,
    SETTLED_LEAST,
    SETTLED_RATIO,
    SURPRISE_ONCE_IN,
    TOLD_EVENTS,
    UNSETTLED_PRICE,
    UPDATED,
    USUAL_RATE,
    WARMING,
    WORSE_RATIO,
    AlertPolicy,
)
from streamgauge.models.alerts.thresholds import SCORE_MIN, Thresholds
from streamgauge.models.state.entity_row import Record

NEVER = 1 << 32  # no count of events reaches it


class Rules(NamedTuple):
    """An alert policy under one artifact's calibration and thresholds, for compiled code."""

    terms: Terms
    #: (1 + E,) float64 each, by `prior`: first threshold, what it sinks a day, and its floor.
    theta: np.ndarray
    eta: np.ndarray
    floor: np.ndarray
    #: From this score on an event is a surprise.
    surprise: np.float32
    new_normal_after: int

    @classmethod
    def of(cls, policy: AlertPolicy, calibration: Calibration, thresholds: Thresholds) -> Rules:
        """What follows from all three."""
        start = thresholds.start(policy.budget)
        # Adding 0 makes 0 of -0: of the two, max() may return either.
        return cls(
            terms=Terms.of(policy.budget),
            theta=np.asarray(start.theta) + 0.0,
            eta=np.asarray(start.eta) + 0.0,
            floor=np.asarray(start.floor) + 0.0,
            surprise=np.float32(calibration.threshold(SURPRISE_ONCE_IN)),
            new_normal_after=policy.new_normal_after or NEVER,
        )


def fill_new(rows: np.ndarray, policy: AlertPolicy, rules: Rules) -> None:
    """Write the state before the first event, in place; `prior` is there already."""
    for name, *_ in alerting.FIELDS:
        rows[name] = 0
    prior = rows["prior"]
    start = Start(rules.theta[prior], rules.eta[prior], rules.floor[prior])
    budget.fill_new(rows, policy.budget, start)


@njit(error_model="numpy", inline="always")
def may_learn(head: Record, warming: bool) -> bool:
    """Whether statistics take in the next event of an entity."""
    return head.surprised == 0 or warming


@njit(error_model="numpy", inline="always")
def judge(
    head: Record,
    score: np.float32,
    change: np.float32,
    warming: bool,
    event_time_us: int,
    rules: Rules,
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
    learned, is_open = may_learn(head, warming), head.episode_events > 0
    settled = _move_unrest(head, float(change), learned)
    exceeds, theta = bool(score >= rules.surprise), head.theta
    level = math.log(max(float(score), SCORE_MIN))
    if exceeds and not warming:
        head.surprised = np.uint32(CALM_EVENTS)
    elif head.surprised > 0:
        head.surprised -= np.uint32(1)
    if learned:
        head.settled_events = np.uint32(0)
    elif settled:
        head.settled_events += np.uint32(1)
    else:
        head.settled_events -= min(head.settled_events, np.uint32(UNSETTLED_PRICE))
    # Whatever is told: a new normal shapes scores, and no score depends on the budget.
    renewed = settled and head.settled_events >= rules.new_normal_after
    is_worse = bool(score > WORSE_RATIO * head.told_peak)
    may_tell = not warming and not renewed and (is_worse or not (is_open and settled))
    prior = min(int(head.prior), len(rules.eta) - 1)
    eta, floor = rules.eta[prior], rules.floor[prior]
    _, sent = decide(head, level, event_time_us, may_tell, rules.terms, eta, floor)
    _count_told(head, score, sent)
    opened = sent and not is_open
    is_calm = head.surprised == 0 and head.budget_time_us >= head.quiet_until_us
    closed = is_open and (renewed or (is_calm and not level > theta))
    if is_open:
        head.episode_peak = max(head.episode_peak, score)
    else:
        head.episode_peak = score if opened else np.float32(0.0)
    verdict = ANOMALOUS if level > theta or (exceeds and (is_open or opened)) else NORMAL
    told = OPENED if opened else 0
    told |= UPDATED if sent and is_open else 0
    told |= CLOSED if closed else 0
    told |= RENEWED if renewed else 0
    if is_open or opened:
        head.episode_events += np.uint32(1)
    return WARMING if warming else verdict, told, theta


@njit(error_model="numpy", inline="always")
def _count_told(head: Record, score: np.float32, sent: bool) -> None:
    """Take in what the last message stands for: what came soon behind it belongs to it."""
    if head.told_events < TOLD_EVENTS:
        head.told_events += np.uint32(1)
    if sent:
        head.told_events, head.told_peak = np.uint32(0), score
    elif head.told_events < TOLD_EVENTS:
        head.told_peak = max(head.told_peak, score)


@njit(error_model="numpy", inline="always")
def _move_unrest(head: Record, moved: float, learned: bool) -> bool:
    """Take in how far an entity moved; returns whether it moves no more than usual."""
    head.unrest_now += NOW_RATE * (moved - head.unrest_now)
    if learned:
        # A mean of all events at first, so that few are enough for it to mean something.
        rate = max(1.0 / max(int(head.seen) - 1, 1), USUAL_RATE)
        head.unrest_usual += rate * (moved - head.unrest_usual)
    return head.unrest_now <= SETTLED_RATIO * head.unrest_usual + SETTLED_LEAST
