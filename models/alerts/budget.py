"""The alert budget: at most B messages per entity and day on average, without a fixed threshold.

A threshold that fits the calibration data is wrong a week later. So every entity has a
threshold of its own. It decays with time and rises whenever a message is due, in such
proportion that B messages a day leave it unchanged (adaptive conformal inference, Gibbs and
Candes 2021, applied to messages). A message is due if the log score exceeds the threshold and
the previous due message is at least one cool-down ago. A lasting anomaly is due again after each
cool-down and is charged again: if the budget counted alerts instead, the threshold would
decay during one endless alert.

    log score   ▁▁▁▂▁▁▇▇▇▇▇▇▁▁▁▁▂▁▁▁▅▁▁▁▁
    due               x  x          x          cool-down = 3
    threshold   ▆▆▆▆▅▅▇▇▆█▇▇▇▇▆▆▆▆▅▅▆▆▅▅▅      decays by eta a day, + eta / B where one is due

In T days since the start, without any assumption about scores or drift, the number of messages
that are due is at most

    B T + B / eta (highest log score - first threshold) + 1

because the threshold never exceeds the highest score by more than eta / B. The second term can
be large. So each entity also has credit, which grows by B a day. A message costs 1, and a
message that is due without credit is not sent. It raises the threshold all the same.
Otherwise the threshold would decay during a storm, and noise after it would send messages. The
number of messages sent is at most

    B (T + CREDIT_DAYS),  and  B (W + CREDIT_DAYS_MAX) + 1  in any W days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamgauge.models.alerts.policy import BudgetSpec
from streamgauge.models.simd.compile_cache import cached_njit
from streamgauge.models.state.entity_row import BUDGET_FIELDS

DAY_US = 86_400_000_000

#: The budget of an entity without the rest of its row.
ROW = np.dtype(list(BUDGET_FIELDS))

# eta, in standard deviations of the log score. Values from .25 to .5 met the budget on the server
# machines and the services.
ETA_STD = 0.375

# Days of credit at the start. Without any, a budget of 1 detects .45 and .84 of the events of both
# development sets; with 2 days .48 and .90.
CREDIT_DAYS = 2.0
CREDIT_DAYS_MAX = 7.0  # most days of credit: without a bound a quiet year would end in a storm


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where the threshold of an entity starts; scalars, or (N,) for N entities."""

    #: First threshold on the log score.
    log_threshold: NDArray[Any] | float
    #: Decay of the threshold per day.
    threshold_rate: NDArray[Any] | float
    #: Lower bound of the threshold.
    floor: NDArray[Any] | float


def fill_new(rows: NDArray[Any], spec: BudgetSpec, start: Start) -> None:
    """Write the state before the first event, in place."""
    rows["log_threshold"] = np.maximum(start.log_threshold, start.floor)
    rows["credit"] = spec.per_day * CREDIT_DAYS
    rows["budget_time_us"] = rows["quiet_until_us"] = 0


class BudgetParams(NamedTuple):
    """A budget for compiled code."""

    per_day: float
    credit_max: float
    cooldown_us: int

    @classmethod
    def of(cls, spec: BudgetSpec) -> BudgetParams:
        """Return the numbers of `spec`."""
        return cls(
            per_day=spec.per_day,
            credit_max=1.0 + spec.per_day * CREDIT_DAYS_MAX,
            cooldown_us=int(spec.cooldown_s * 1e6),
        )


@njit(error_model="numpy", inline="always")
def charge(
    row: Any,
    log_score: float,
    event_time_us: int,
    may_send: bool,
    params: BudgetParams,
    eta: float,
    floor: float,
) -> tuple[bool, bool]:
    """Decide on the message of one event, then update threshold and credit, in place.

    Args:
        row: a record with `BUDGET_FIELDS`.
        log_score: NaN sends no message.
        event_time_us: above 0; a time before the previous one counts as no time passed.
        may_send: if False, no message is due, credit grows, and the threshold does not change.
        params: the budget.
        eta: decay of the threshold per day.
        floor: lower bound of the threshold.

    Returns:
        Whether a message is due, and whether it is sent.
    """
    before = row.budget_time_us
    now = max(before, event_time_us)
    days = (now - before) / DAY_US if before > 0 else 0.0
    due = may_send and log_score > row.log_threshold and now >= row.quiet_until_us
    credit = min(row.credit + params.per_day * days, params.credit_max)
    sent = due and credit >= 1.0
    rise = (1.0 / params.per_day if due else 0.0) - (days if may_send else 0.0)
    row.log_threshold = max(row.log_threshold + eta * rise, floor)
    row.credit = credit - 1.0 if sent else credit
    row.budget_time_us = now
    if due:
        row.quiet_until_us = now + params.cooldown_us
    return due, sent


def messages(
    log_score: NDArray[Any],
    event_time_us: NDArray[Any],
    spec: BudgetSpec,
    *,
    start: Start,
    may_send: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return where messages would have been sent, (T, N) bool, one column per series.

    Args:
        log_score: (T, N), NaN after the end of a shorter series.
        event_time_us: (T, N), or (T, 1) if all series share their times.
        spec: the budget.
        start: scalars or (N,).
        may_send: (T, N); None = everywhere.
    """
    rows = np.zeros(log_score.shape[1], ROW)
    fill_new(rows, spec, start)
    allowed = np.ones(log_score.shape, bool) if may_send is None else may_send
    times = np.broadcast_to(event_time_us, log_score.shape)
    eta, floor = (np.broadcast_to(each, len(rows)) for each in (start.threshold_rate, start.floor))
    sent: NDArray[Any] = _messages(
        rows, log_score, times, allowed, BudgetParams.of(spec), eta, floor
    )
    return sent


@cached_njit(error_model="numpy")
def _messages(
    rows: NDArray[Any],
    log_score: NDArray[Any],
    event_time_us: NDArray[Any],
    may_send: NDArray[Any],
    params: BudgetParams,
    eta: NDArray[Any],
    floor: NDArray[Any],
) -> NDArray[Any]:
    sent = np.zeros(log_score.shape, np.bool_)
    for t in range(log_score.shape[0]):
        for i in range(len(rows)):
            score, time_us, may = log_score[t, i], event_time_us[t, i], may_send[t, i]
            _, sent[t, i] = charge(rows[i], score, time_us, may, params, eta[i], floor[i])
    return sent


def start_of(log_score: NDArray[Any], event_time_us: NDArray[Any], spec: BudgetSpec) -> Start:
    """Return where an entity starts, from its scores on held-out data.

    Args:
        log_score: (T,) finite, not empty.
        event_time_us: (T,) ascending.
        spec: the budget.
    """
    eta, floor = ETA_STD * float(log_score.std()), float(np.median(log_score))
    return Start(first_threshold(log_score, event_time_us, spec), eta, floor)


def first_threshold(
    log_score: NDArray[Any], event_time_us: NDArray[Any], spec: BudgetSpec
) -> float:
    """Return the lowest constant threshold that keeps a series within the budget."""
    allowed = spec.per_day * float(event_time_us[-1] - event_time_us[0]) / DAY_US
    levels = np.unique(log_score)
    low, high = 0, len(levels) - 1  # nothing exceeds the highest level
    while low < high:
        middle = (low + high) // 2
        above_us = event_time_us[log_score > levels[middle]]
        is_within = _count_apart(above_us, spec) <= allowed
        low, high = (low, middle) if is_within else (middle + 1, high)
    return float(levels[low])


def _count_apart(time_us: NDArray[Any], spec: BudgetSpec) -> int:
    """Count the ascending times that remain if each must be a cool-down after the previous one."""
    count = index = 0
    while index < len(time_us):
        count += 1
        end_us = time_us[index] + spec.cooldown_s * 1e6
        index = max(index + 1, int(np.searchsorted(time_us, end_us)))
    return count
