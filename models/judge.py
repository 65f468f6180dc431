"""Decides what every event means for its entity's alerts; see `models.alerting`."""

from __future__ import annotations

import numpy as np

from models import budget
from models.alerting import (
    ANOMALOUS,
    CALM_EVENTS,
    FIELDS,
    NORMAL,
    NOW_RATE,
    SETTLED_LEAST,
    SETTLED_RATIO,
    SURPRISE_ONCE_IN,
    TOLD_EVENTS,
    UNSETTLED_PRICE,
    USUAL_RATE,
    WARMING,
    WORSE_RATIO,
    AlertPolicy,
    Ruling,
)
from models.budget import Start
from models.calibration import Calibration
from models.course import Course
from models.thresholds import Thresholds, log_score

NEVER = 1 << 32  # no count of events reaches it


class Judge:
    """Applies an alert policy under one artifact's calibration and thresholds."""

    def __init__(
        self, policy: AlertPolicy, calibration: Calibration, thresholds: Thresholds
    ) -> None:
        self._policy = policy
        self._spec = policy.budget
        start = thresholds.start(self._spec)
        # By `prior`. Adding 0 makes 0 of -0: of the two, max() may return either.
        self._theta, self._eta, self._floor = (
            np.asarray(part) + 0.0 for part in (start.theta, start.eta, start.floor)
        )
        self._new_normal_after = policy.new_normal_after or NEVER
        self._surprise = np.float32(calibration.threshold(SURPRISE_ONCE_IN))

    def fill_new(self, rows: np.ndarray) -> None:
        """Write the state before the first event, in place; `prior` is there already."""
        for name, *_ in FIELDS:
            rows[name] = 0
        budget.fill_new(rows, self._spec, self._start_of(rows["prior"]))

    @staticmethod
    def may_learn(rows: np.ndarray, warming: np.ndarray) -> np.ndarray:
        """Whether statistics take in the next event of each of `rows` (B,)."""
        return (rows["surprised"] == 0) | warming

    def judge(
        self,
        rows: np.ndarray,
        score: np.ndarray,
        change: np.ndarray,
        warming: np.ndarray,
        event: np.ndarray,
    ) -> Ruling:
        """Advance `rows` in place by one event each, `close` and `renew` aside.

        Args:
            rows: (B,) records with `FIELDS`, `prior`, and `seen`, the event included.
            score: (B,) float32.
            change: (B,) float32, how far each entity moved from its last event.
            warming: (B,) bool, entities whose score does not count yet.
            event: (B,) records, `EVENT`, of the events.
        """
        learned = self.may_learn(rows, warming)
        settled = _move_unrest(rows, change, learned)
        is_open, exceeds = rows["episode_events"] > 0, score >= self._surprise
        level, theta = log_score(score), rows["theta"].copy()
        surprised, lasting = rows["surprised"], rows["settled_events"]
        surprised -= surprised > 0
        surprised[exceeds & ~warming] = CALM_EVENTS
        less = lasting - np.minimum(lasting, UNSETTLED_PRICE)
        lasting[:] = np.where(learned, 0, np.where(settled, lasting + np.uint32(1), less))
        # Whatever is told: a new normal shapes scores, and no score depends on the budget.
        renewed = settled & (lasting >= self._new_normal_after)
        is_news = (~(is_open & settled) | _is_worse(rows, score)) & ~renewed
        start = self._start_of(rows["prior"])
        _, sent = budget.step(
            rows, level, event["event_time_us"], ~warming & is_news, self._spec, start
        )
        opened = sent & ~is_open
        is_over = rows["budget_time_us"] >= rows["quiet_until_us"]
        is_calm = (surprised == 0) & is_over & ~(level > theta)
        self._follow(rows, score, is_open, opened, event)
        _count_told(rows, score, sent)
        anomalous = (level > theta) | (exceeds & (is_open | opened))
        verdict = np.where(warming, WARMING, np.where(anomalous, ANOMALOUS, NORMAL))
        closed = is_open & (is_calm | renewed)
        told = (opened, sent & is_open, closed, renewed)
        return Ruling(verdict.astype(np.uint8), np.exp(theta), *told)

    def judge_sequence(
        self,
        row: np.ndarray,
        score: np.ndarray,
        change: np.ndarray,
        warming: np.ndarray,
        event_time_us: np.ndarray,
    ) -> Ruling:
        """Advance one entity by many events, up to where there is something to say.

        Or up to where learning stops or begins: the events behind either meet another state.

        Args:
            row: (1,) record; all of `FIELDS` but where an alert opened are advanced.
            score: (T,) float32; T, change, warming and times as at `judge`.
            change: (T,) float32.
            warming: (T,) bool.
            event_time_us: (T,) int64.

        Returns:
            The ruling on as many events as were judged.
        """
        start = self._start_of(row["prior"][0])
        seen = int(row["seen"][0]) - len(score)
        course = Course(row, seen, self._spec, start, self._new_normal_after)
        learns, was_open = course.learns(bool(warming[0])), row["episode_events"][0] > 0
        columns = (score >= self._surprise, score, log_score(score), change, warming, event_time_us)
        thetas, verdicts = [], []
        for event in zip(*(column.tolist() for column in columns), strict=True):
            if course.learns(event[4]) != learns:
                break
            thetas.append(course.account.theta)
            verdicts.append(course.step(*event))
            if course.ends():
                break
        course.write(row)
        count = len(verdicts)
        high = score[:count].max() if was_open else score[count - 1] * course.opened
        row["episode_peak"] = np.maximum(row["episode_peak"], high) if was_open else high
        ends = np.zeros((4, count), bool)
        ends[:, -1] = course.opened, course.updated, course.closed, course.renewed
        return Ruling(np.array(verdicts, np.uint8), np.exp(np.array(thetas)), *ends)

    def severity(self, once_in: float) -> str:
        """Say "critical" or "warning" of an alert at this rarity."""
        return "critical" if once_in >= self._policy.critical_once_in else "warning"

    def _start_of(self, prior: np.ndarray) -> Start:
        return Start(self._theta[prior], self._eta[prior], self._floor[prior])

    @staticmethod
    def _follow(
        rows: np.ndarray,
        score: np.ndarray,
        is_open: np.ndarray,
        opened: np.ndarray,
        event: np.ndarray,
    ) -> None:
        """Write down where alerts opened, how long they are and how high."""
        peak = np.maximum(rows["episode_peak"], score)
        rows["episode_peak"] = np.where(is_open, peak, np.where(opened, score, 0))
        rows["episode_events"] += is_open | opened
        if opened.any():
            for name in ("partition", "offset", "row"):
                rows[f"episode_{name}"][opened] = event[name][opened]
            rows["episode_time_us"][opened] = event["event_time_us"][opened]


def _is_worse(rows: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Where the score is far above what the last message stands for, (B,)."""
    return score.astype(np.float64) > WORSE_RATIO * rows["told_peak"].astype(np.float64)


def _count_told(rows: np.ndarray, score: np.ndarray, sent: np.ndarray) -> None:
    """Take in what the last message stands for: what came soon behind it belongs to it."""
    count, peak = rows["told_events"], rows["told_peak"]
    count += count < TOLD_EVENTS
    count[sent] = 0
    here = np.maximum(peak, score)
    peak[:] = np.where(sent, score, np.where(count < TOLD_EVENTS, here, peak))


def _move_unrest(rows: np.ndarray, change: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """Take in how far each entity moved; returns where it moves no more than usual, (B,)."""
    usual, now = rows["unrest"][:, 0], rows["unrest"][:, 1]
    moved = change.astype(np.float64)
    now += NOW_RATE * (moved - now)
    # A mean of all events at first, so that few are enough for it to mean something.
    rate = np.maximum(1.0 / np.maximum(rows["seen"] - np.uint32(1), 1), USUAL_RATE)
    usual += np.where(learned, rate * (moved - usual), 0.0)
    return now <= SETTLED_RATIO * usual + SETTLED_LEAST
