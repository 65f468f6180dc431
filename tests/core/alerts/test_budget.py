from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.models.alerts import budget
from streamgauge.models.alerts.budget import DAY_US, Start, first_threshold, messages, start_of
from streamgauge.models.alerts.policy import BudgetSpec
from streamgauge.models.errors import ConfigError

HOUR_US = DAY_US // 24


def hourly(count: int) -> np.ndarray:
    return (HOUR_US * np.arange(1, count + 1, dtype=np.int64))[:, None]


def sent(score, times=None, spec=None, start=None, may_send=None) -> np.ndarray:
    """Rows at which one entity sends."""
    score = np.asarray(score, float)[:, None]
    is_sent = messages(
        score,
        hourly(len(score)) if times is None else np.asarray(times, np.int64)[:, None],
        spec or BudgetSpec(cooldown_s=0.0),
        start=start or Start(1.0, 0.0, 0.0),
        may_send=None if may_send is None else np.asarray(may_send)[:, None],
    )
    return np.flatnonzero(is_sent[:, 0])


STREAMS = st.lists(
    st.tuples(
        st.floats(-5.0, 8.0, allow_nan=False, width=32),
        st.integers(0, 3 * HOUR_US),
        st.booleans(),
    ),
    min_size=2,
    max_size=250,
)
SPECS = st.builds(
    BudgetSpec,
    per_day=st.sampled_from([10.0, 1.0, 0.2, 1 / 7]),
    cooldown_s=st.sampled_from([0, 600]),
)
STARTS = st.builds(
    lambda log_threshold, threshold_rate, below: Start(
        log_threshold, threshold_rate, log_threshold - below
    ),
    st.floats(-3.0, 3.0),
    st.floats(0.01, 3.0),
    st.floats(0.0, 3.0),
)


def unpacked(stream) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    score, gaps, allowed = (np.array(column) for column in zip(*stream, strict=True))
    return score[:, None], (1 + np.cumsum(gaps))[:, None], allowed[:, None]


@settings(max_examples=150, deadline=None)
@given(STREAMS, SPECS, STARTS)
def test_no_stream_gets_more_messages_than_the_budget_and_the_start(stream, spec, start):
    score, times, allowed = unpacked(stream)
    sent_so_far = np.cumsum(messages(score, times, spec, start=start, may_send=allowed)[:, 0])
    days = (times[:, 0] - times[0, 0]) / DAY_US
    assert (sent_so_far <= spec.per_day * (days + budget.CREDIT_DAYS) + 1e-6).all()


@settings(max_examples=150, deadline=None)
@given(STREAMS, SPECS, STARTS)
def test_no_window_gets_more_messages_than_may_be_saved_up(stream, spec, start):
    score, times, allowed = unpacked(stream)
    at = times[messages(score, times, spec, start=start, may_send=allowed)[:, 0], 0]
    for first in range(len(at)):
        days = (at[first:] - at[first]) / DAY_US
        most = spec.per_day * (days + budget.CREDIT_DAYS_MAX) + 1
        assert (np.arange(1, len(days) + 1) <= most + 1e-6).all()


@settings(max_examples=150, deadline=None)
@given(STREAMS, SPECS, STARTS)
def test_due_messages_are_bounded_without_any_credit(stream, spec, start):
    score, times, _ = unpacked(stream)
    rows = np.zeros(1, budget.ROW)
    budget.fill_new(rows, spec, start)
    due, params = 0, budget.BudgetParams.of(spec)
    for one, time in zip(score, times, strict=True):
        rows["credit"] = 1e9
        given = (one[0], time[0], True, params, start.threshold_rate, start.floor)
        due += budget.charge(rows[0], *given)[0]
        days = (time[0] - times[0, 0]) / DAY_US
        reach = max(float(score.max()) - start.log_threshold, 0.0)
        # The controller's own guarantee: messages <= B T + B / eta * reach + 1.
        assert due <= spec.per_day * days + spec.per_day / start.threshold_rate * reach + 1 + 1e-6


@settings(max_examples=50, deadline=None)
@given(STREAMS, STREAMS, SPECS)
def test_entities_do_not_share_a_budget(one, two, spec):
    start = Start(np.array([0.5, 1.5]), np.array([0.3, 0.6]), np.array([0.0, 0.2]))
    columns = [unpacked(stream[: min(len(one), len(two))]) for stream in (one, two)]
    score, times, allowed = (np.hstack(parts) for parts in zip(*columns, strict=True))
    together = messages(score, times, spec, start=start, may_send=allowed)
    for i in range(2):
        own = Start(
            *(value[i] for value in (start.log_threshold, start.threshold_rate, start.floor))
        )
        alone = messages(*columns[i][:2], spec, start=own, may_send=columns[i][2])
        np.testing.assert_array_equal(together[:, i], alone[:, 0])


def test_a_message_raises_the_threshold_and_time_lowers_it():
    start = Start(1.0, 0.5, 0.0)
    rows = np.zeros(1, budget.ROW)
    spec = BudgetSpec(per_day=2.0, cooldown_s=0.0)
    budget.fill_new(rows, spec, start)
    params = budget.BudgetParams.of(spec)
    assert budget.charge(rows[0], 1.1, DAY_US, True, params, start.threshold_rate, start.floor)[1]
    assert rows["log_threshold"][0] == 1.25
    later = DAY_US * 3 // 2
    assert not budget.charge(rows[0], 1.1, later, True, params, start.threshold_rate, start.floor)[
        1
    ]
    assert rows["log_threshold"][0] == 1.0


def test_the_threshold_stops_at_its_floor():
    rows = np.zeros(1, budget.ROW)
    spec, start = BudgetSpec(), Start(1.0, 0.5, 0.8)
    budget.fill_new(rows, spec, start)
    for day in (1, 30):
        params = budget.BudgetParams.of(spec)
        budget.charge(rows[0], 0.0, day * DAY_US, True, params, start.threshold_rate, start.floor)
    assert rows["log_threshold"][0] == 0.8


def test_messages_of_an_entity_keep_the_cooldown():
    spec = BudgetSpec(per_day=100.0, cooldown_s=3 * 3_600.0)
    assert sent([2.0] * 8, spec=spec).tolist() == [0, 3, 6]


def test_what_is_due_without_credit_raises_the_threshold_all_the_same():
    # Two days' worth may be sent at once: two. The third is due, dropped, and leaves the
    # threshold at 3.3; two days later it has sunk to 1.7 and there is credit again.
    spec, start = BudgetSpec(per_day=1.0, cooldown_s=0.0), Start(1.0, 0.8, 0.0)
    times = hourly(6)[:, 0].copy()
    times[3:] += 2 * DAY_US
    assert sent([5.0, 5.0, 5.0, 0.0, 1.5, 1.9], times, spec, start).tolist() == [0, 1, 5]


def test_a_budget_below_one_in_two_days_first_saves_up():
    spec = BudgetSpec(per_day=0.25, cooldown_s=0.0)
    times = DAY_US // 4 * np.arange(1, 13)
    assert sent([9.0] * 12, times, spec, Start(1.0, 1e-6, 0.0)).tolist() == [8]


def test_a_storm_leaves_the_rest_of_the_day_silent():
    assert len(sent([9.0] * 24, start=Start(1.0, 1e-6, 0.0))) == 2


def test_a_quiet_year_saves_up_a_week():
    times = np.r_[HOUR_US, 365 * DAY_US + hourly(24)[:, 0]]
    assert len(sent([0.0] + [9.0] * 24, times, start=Start(1.0, 1e-6, 0.0))) == 8


def test_warming_entities_say_nothing_and_keep_their_threshold():
    may_send = [False] * 3 + [True] * 2
    start = Start(1.0, 24.0, 0.0)
    assert sent([2.0] * 5, start=start, may_send=may_send).tolist() == [3]
    assert sent([0.9] * 5, start=start, may_send=may_send).tolist() == [4]


def test_a_score_that_is_no_number_and_a_clock_that_goes_back_send_nothing_more():
    assert sent([np.nan] * 3).tolist() == []
    times = [10 * DAY_US, DAY_US, 10 * DAY_US]
    assert sent([9.0] * 3, times=times).tolist() == [0, 1]  # no credit for days that come twice


def test_first_threshold_keeps_the_budget_on_its_own_data_and_is_the_lowest_that_does():
    score = np.random.default_rng(1).normal(size=24 * 20)
    times = hourly(len(score))[:, 0]
    spec = BudgetSpec(per_day=0.5, cooldown_s=7_200.0)
    log_threshold = first_threshold(score, times, spec)

    def apart(threshold: float) -> int:
        count, until = 0, 0
        for value, time in zip(score, times.tolist(), strict=True):
            if value > threshold and time >= until:
                count, until = count + 1, time + 2 * HOUR_US
        return count

    days = (times[-1] - times[0]) / DAY_US
    below = np.sort(score)[np.searchsorted(np.sort(score), log_threshold) - 1]
    assert apart(log_threshold) <= 0.5 * days < apart(below)


def test_a_start_follows_the_scale_of_the_scores():
    score, times = np.random.default_rng(0).normal(size=500), hourly(500)[:, 0]
    one, two = (start_of(score * factor, times, BudgetSpec()) for factor in (1.0, 2.0))
    assert (two.log_threshold, two.threshold_rate, two.floor) == pytest.approx(
        (2 * one.log_threshold, 2 * one.threshold_rate, 2 * one.floor)
    )


@pytest.mark.parametrize("values", [{"per_day": 0.0}, {"per_day": -1.0}, {"cooldown_s": -1.0}])
def test_a_budget_that_cannot_be_kept_is_refused(values):
    with pytest.raises(ConfigError, match=f"budget: {next(iter(values))}"):
        BudgetSpec(**values)
