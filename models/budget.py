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

import numpy as np

from models.errors import ConfigError

DAY_US = 86_400_000_000

#: Fields of an entity's row; float64, since one event of many a second moves theta by 1e-8.
FIELDS = (
    ("theta", "<f8", ()),  # threshold on the log score
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
    theta: np.ndarray | float
    #: What the threshold sinks in a day.
    eta: np.ndarray | float
    #: The threshold never sinks below.
    floor: np.ndarray | float


def fill_new(rows: np.ndarray, spec: BudgetSpec, start: Start) -> None:
    """Write the state before the first event, in place."""
    rows["theta"] = np.maximum(start.theta, start.floor)
    rows["credit"] = spec.per_day * CREDIT_DAYS
    rows["budget_time_us"] = rows["quiet_until_us"] = 0


def step(
    rows: np.ndarray,
    log_score: np.ndarray,
    event_time_us: np.ndarray,
    may_tell: np.ndarray,
    spec: BudgetSpec,
    start: Start,
) -> tuple[np.ndarray, np.ndarray]:
    """Decide on one event per row, then learn from it, in place.

    Args:
        rows: (B,) records with `FIELDS`.
        log_score: (B,) any float; NaN is no message.
        event_time_us: (B,) int64, above 0; a time that goes back counts as no time.
        may_tell: (B,) bool; where False (warming, nothing new) nothing is due, credit grows
            and the threshold stays.
        spec: the knob.
        start: as at `fill_new`; scalars, or (B,).

    Returns:
        (B,) bool each: where a message is due, and where it is sent.
    """
    before, credit, theta = rows["budget_time_us"], rows["credit"], rows["theta"]
    now = np.maximum(before, event_time_us)
    days = np.where(before > 0, now - before, 0) / DAY_US
    due = may_tell & (log_score > theta) & (now >= rows["quiet_until_us"])
    credit = np.minimum(credit + spec.per_day * days, credit_max(spec))
    sent = due & (credit >= 1.0)
    theta = theta + start.eta * (due / spec.per_day - days * may_tell)
    rows["theta"] = np.maximum(theta, start.floor)
    rows["credit"] = credit - sent
    rows["budget_time_us"] = now
    if due.any():
        rows["quiet_until_us"][due] = now[due] + cooldown_us(spec)
    return due, sent


class Account:
    """The same for many events of one entity, in plain Python: to the bit what `step` gives.

    A call of numpy on one row costs a microsecond, and a step takes two dozen.
    """

    def __init__(self, row: np.ndarray, spec: BudgetSpec, start: Start) -> None:
        """Take over a record (1,) with `FIELDS`; `start` holds scalars."""
        self.theta, self.credit, self.now_us, self.quiet_until_us = (
            row[name][0].item() for name, *_ in FIELDS
        )
        self._per_day, self._eta, self._floor = spec.per_day, float(start.eta), float(start.floor)
        self._credit_max, self._cooldown_us = credit_max(spec), cooldown_us(spec)

    def step(self, log_score: float, event_time_us: int, may_tell: bool) -> tuple[bool, bool]:
        """See the function of that name."""
        before, per_day = self.now_us, self._per_day
        now = self.now_us = max(before, event_time_us)
        days = float(now - before) / DAY_US if before > 0 else 0.0
        due = may_tell and log_score > self.theta and now >= self.quiet_until_us
        credit = min(self.credit + per_day * days, self._credit_max)
        sent = due and credit >= 1.0
        theta = self.theta + self._eta * (due / per_day - (days if may_tell else 0.0))
        self.theta, self.credit = max(theta, self._floor), credit - sent
        if due:
            self.quiet_until_us = now + self._cooldown_us
        return due, sent

    def write(self, row: np.ndarray) -> None:
        """Put the state into a record (1,)."""
        values = (self.theta, self.credit, self.now_us, self.quiet_until_us)
        for (name, *_), value in zip(FIELDS, values, strict=True):
            row[name] = value


def credit_max(spec: BudgetSpec) -> float:
    """The most that can be saved up."""
    return 1.0 + spec.per_day * CREDIT_DAYS_MAX


def cooldown_us(spec: BudgetSpec) -> int:
    """The cool-down in microseconds."""
    return int(spec.cooldown_s * 1e6)


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
    sent = np.zeros(log_score.shape, bool)
    allowed = np.ones(log_score.shape, bool) if may_tell is None else may_tell
    for t in range(len(log_score)):
        _, sent[t] = step(rows, log_score[t], event_time_us[t], allowed[t], spec, start)
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
