"""At most B messages per entity and day: one knob, held online without a static threshold.

A threshold that was right on calibration data is wrong a week later. So every entity has
its own: it sinks with time and rises wherever a message is due, in such proportion that B
a day leave it where it is (adaptive conformal inference, Gibbs and Candes 2021, at the
level of messages). One is due where the log score passes the threshold and the last due
one is at least a cool-down ago. A lasting anomaly is due again after each cool-down and
pays again: if episodes counted instead, the threshold would sink into one endless alert.

    log score   ▁▁▁▂▁▁▇▇▇▇▇▇▁▁▁▁▂▁▁▁▅▁▁▁▁
    due               x  x          x          cool-down = 3
    threshold   ▆▆▆▆▅▅▇▇▆█▇▇▇▇▆▆▆▆▅▅▆▆▅▅▅      sinks eta a day, + eta / B where one is due

With T days since the start, and no assumption about scores or drift, there are due at most

    B T + B / eta (highest log score - first threshold) + 1

since the threshold never passes the highest score by more than eta / B. The second term is
large where a score may be. So each entity has credit besides, B a day; a message costs 1,
and one that is due without credit is not sent. It raises the threshold all the same: what
was not worth telling in a storm must not be told of noise after it. Sent are at most

    B (T + CREDIT_DAYS),  and  B (W + CREDIT_DAYS_MAX) + 1  in any W days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from streamgauge.models.errors import ConfigError
from streamgauge.models.simd.compile_cache import cached_njit

DAY_US = 86_400_000_000

#: Fields of an entity's row; float64, since one event of many a second moves theta by 1e-8.
FIELDS = (
    ("log_threshold", "<f8", ()),  # threshold on the log score
    ("credit", "<f8", ()),  # messages that may be sent
    ("budget_time_us", "<i8", ()),  # up to where the budget is counted; 0 = no event yet
    ("quiet_until_us", "<i8", ()),  # the end of the cool-down
)
ROW = np.dtype(list(FIELDS))

# quality.md section 6: .25 to .5 standard deviations of the log score held the budget.
ETA_STD = 0.375

# At the start an entity may send this many days' worth of messages: with none, a budget of 1
# finds .45 and .84 of the events of both development sets, with it .48 and .90.
CREDIT_DAYS = 2.0
CREDIT_DAYS_MAX = 7.0  # that can be saved up; without a bound a quiet year ends in a storm


@dataclass(frozen=True, slots=True)
class BudgetSpec:
    """The knob, and how messages of one entity keep apart."""

    #: Messages per entity and day.
    per_day: float = 1.0
    #: No two messages of an entity are closer, in event time.
    cooldown_s: float = 3_600.0

    def __post_init__(self) -> None:
        if not self.per_day > 0:
            raise ConfigError(f"budget: per_day must be above 0; got {self.per_day}")
        if not self.cooldown_s >= 0:
            raise ConfigError(f"budget: cooldown_s must be >= 0; got {self.cooldown_s}")


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What calibration says about log scores; scalars, or (N,) of as many entities."""

    #: First threshold.
    log_threshold: np.ndarray | float
    #: What the threshold sinks in a day.
    threshold_rate: np.ndarray | float
    #: The threshold never sinks below.
    floor: np.ndarray | float


def fill_new(rows: np.ndarray, spec: BudgetSpec, start: Start) -> None:
    """Write the state before the first event, in place."""
    rows["log_threshold"] = np.maximum(start.log_threshold, start.floor)
    rows["credit"] = spec.per_day * CREDIT_DAYS
    rows["budget_time_us"] = rows["quiet_until_us"] = 0


class BudgetParams(NamedTuple):
    """A budget as compiled code sees it."""

    per_day: float
    credit_max: float
    cooldown_us: int

    @classmethod
    def of(cls, spec: BudgetSpec) -> BudgetParams:
        """The terms of a spec."""
        return cls(spec.per_day, 1.0 + spec.per_day * CREDIT_DAYS_MAX, int(spec.cooldown_s * 1e6))


@njit(error_model="numpy", inline="always")
def decide(
    row: Any,
    log_score: float,
    event_time_us: int,
    may_tell: bool,
    terms: BudgetParams,
    eta: float,
    floor: float,
) -> tuple[bool, bool]:
    """Decide on one event, then learn from it, in place.

    Args:
        row: a record with `FIELDS`.
        log_score: NaN is no message.
        event_time_us: above 0; a time that goes back counts as no time.
        may_tell: where False (warming, nothing new) nothing is due, credit grows and the
            threshold stays.
        terms: the knob.
        eta: what the threshold sinks in a day.
        floor: it never sinks below.

    Returns:
        Whether a message is due, and whether it is sent.
    """
    before = row.budget_time_us
    now = max(before, event_time_us)
    days = (now - before) / DAY_US if before > 0 else 0.0
    due = may_tell and log_score > row.log_threshold and now >= row.quiet_until_us
    credit = min(row.credit + terms.per_day * days, terms.credit_max)
    sent = due and credit >= 1.0
    rise = (1.0 / terms.per_day if due else 0.0) - (days if may_tell else 0.0)
    row.log_threshold = max(row.log_threshold + eta * rise, floor)
    row.credit = credit - 1.0 if sent else credit
    row.budget_time_us = now
    if due:
        row.quiet_until_us = now + terms.cooldown_us
    return due, sent


def messages(
    log_score: np.ndarray,
    event_time_us: np.ndarray,
    spec: BudgetSpec,
    start: Start,
    may_tell: np.ndarray | None = None,
) -> np.ndarray:
    """Where messages would have been sent, (T, N) bool, series side by side.

    Args:
        log_score: (T, N), NaN behind the end of a shorter series.
        event_time_us: (T, N), or (T, 1) if all share their times.
        spec: the knob.
        start: scalars or (N,).
        may_tell: (T, N); None = everywhere.
    """
    rows = np.zeros(log_score.shape[1], ROW)
    fill_new(rows, spec, start)
    allowed = np.ones(log_score.shape, bool) if may_tell is None else may_tell
    times = np.broadcast_to(event_time_us, log_score.shape)
    eta, floor = (np.broadcast_to(one, len(rows)) for one in (start.threshold_rate, start.floor))
    return _messages(rows, log_score, times, allowed, BudgetParams.of(spec), eta, floor)


@cached_njit(error_model="numpy")
def _messages(
    rows: np.ndarray,
    log_score: np.ndarray,
    event_time_us: np.ndarray,
    may_tell: np.ndarray,
    terms: BudgetParams,
    eta: np.ndarray,
    floor: np.ndarray,
) -> np.ndarray:
    sent = np.zeros(log_score.shape, np.bool_)
    for t in range(log_score.shape[0]):
        for i in range(len(rows)):
            score, time_us, may = log_score[t, i], event_time_us[t, i], may_tell[t, i]
            _, sent[t, i] = decide(rows[i], score, time_us, may, terms, eta[i], floor[i])
    return sent


def start_of(log_score: np.ndarray, event_time_us: np.ndarray, spec: BudgetSpec) -> Start:
    """Where an entity starts, from its scores on data that was held out.

    Args:
        log_score: (T,) finite, not empty.
        event_time_us: (T,) ascending.
        spec: the knob.
    """
    eta, floor = ETA_STD * float(log_score.std()), float(np.median(log_score))
    return Start(first_threshold(log_score, event_time_us, spec), eta, floor)


def first_threshold(log_score: np.ndarray, event_time_us: np.ndarray, spec: BudgetSpec) -> float:
    """The lowest threshold that, left alone, sends no more than the budget on a series."""
    allowed = spec.per_day * float(event_time_us[-1] - event_time_us[0]) / DAY_US
    levels = np.unique(log_score)
    low, high = 0, len(levels) - 1  # nothing passes the highest level
    while low < high:
        middle = (low + high) // 2
        over = event_time_us[log_score > levels[middle]]
        low, high = (low, middle) if _apart(over, spec) <= allowed else (middle + 1, high)
    return float(levels[low])


def _apart(time_us: np.ndarray, spec: BudgetSpec) -> int:
    """How many of ascending times are left if each must be a cool-down behind the last left."""
    count = at = 0
    while at < len(time_us):
        count += 1
        at = max(at + 1, int(np.searchsorted(time_us, time_us[at] + spec.cooldown_s * 1e6)))
    return count
