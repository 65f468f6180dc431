"""Alerts by value: which events send messages, which stop learning, and how an alert ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.models.alerts import calibration
from streamgauge.models.alerts.budget import CREDIT_DAYS, CREDIT_DAYS_MAX, DAY_US
from streamgauge.models.alerts.decision import (
    CALM_EVENTS,
    AlertAction,
    AlertRules,
    EventAddress,
    complete,
    decide,
    fill_new,
    may_learn,
)
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.alerts.thresholds import PER_DAY, Thresholds
from streamgauge.models.blocks.scored_block import ANOMALOUS, NORMAL, WARMING
from streamgauge.models.errors import ConfigError
from streamgauge.models.state.entity_row import HEAD

MINUTE_US = 60_000_000
HIGH, MILD, LOW = 100.0, 1.31, 0.5  # a rare event, above the threshold only, neither
POLICY = AlertPolicy(per_entity_day=2.0, cooldown_s=1_800, new_normal_after=50)
ACTIONS = {
    "opened": AlertAction.OPENED,
    "updated": AlertAction.UPDATED,
    "closed": AlertAction.CLOSED,
    "baseline_accepted": AlertAction.BASELINE_ACCEPTED,
}


@pytest.fixture(scope="module")
def fitted():
    """Calibration of scores about 1, 1 in 20 above 1.33."""
    return calibration.fit(np.random.default_rng(0).normal(1, 0.2, 5_000).astype(np.float32))


def thresholds(log_threshold: float = 1.3, deviation: float = 0.2) -> Thresholds:
    """Thresholds without known entities: an entity starts at this score."""
    levels = np.full((1, len(PER_DAY)), np.log(log_threshold))
    return Thresholds(levels, np.array([deviation]), np.array([np.log(0.9)]))


class Played:
    """The decisions on the events of one entity, a minute apart."""

    def __init__(
        self,
        fitted,
        scores,
        policy=POLICY,
        changes=None,
        warming=(),
        log_threshold=1.3,
        step_us=MINUTE_US,
    ):
        self.rows = np.zeros(1, HEAD)
        self.verdicts: list[int] = []
        self.learned: list[bool] = []
        self.thresholds: list[float] = []
        self.at: dict[str, list[int]] = {name: [] for name in ACTIONS}
        rules = AlertRules.of(policy, fitted, thresholds(log_threshold))
        fill_new(self.rows, policy, rules)
        row = self.rows[0]
        changes = np.ones(len(scores)) if changes is None else changes
        for i, (score, change) in enumerate(zip(scores, changes, strict=True)):
            self.learned.append(may_learn(row, i in warming))
            row["event_count"] += 1
            event = EventAddress(0, i, 0, (i + 1) * step_us)
            scored = (np.float32(score), np.float32(change), i in warming)
            verdict, action, log_threshold = decide(row, *scored, event, rules)
            self.verdicts.append(verdict)
            self.thresholds.append(float(np.exp(log_threshold)))
            for name, flag in ACTIONS.items():
                self.at[name] += [i] if action & flag else []
            complete(row, action)


def test_a_score_above_the_threshold_opens_at_once(fitted):
    played = Played(fitted, [LOW, HIGH, LOW])
    assert played.verdicts == [NORMAL, ANOMALOUS, NORMAL]
    assert played.at["opened"] == [1]


def test_it_closes_when_ten_calm_events_came_and_the_cooldown_is_over(fitted):
    assert Played(fitted, [HIGH] + [LOW] * 60).at["closed"] == [30]  # a minute each
    late = [HIGH] * 3 + [LOW] * 20 + [HIGH] + [LOW] * 60
    assert Played(fitted, late).at["closed"] == [23 + CALM_EVENTS]


def test_a_mild_alert_lasts_until_the_cooldown_is_over_and_stops_no_learning(fitted):
    played = Played(fitted, [MILD] + [LOW] * 60)
    assert (played.at["opened"], played.at["closed"]) == ([0], [30])
    assert all(played.learned)


def test_learning_stops_after_a_rare_event_and_resumes_after_ten_calm_ones(fitted):
    played = Played(fitted, [LOW, HIGH] + [LOW] * 15)
    assert played.learned == [True, True] + [False] * CALM_EVENTS + [True] * 5


def test_learning_does_not_depend_on_the_knob(fitted):
    scores = np.abs(np.random.default_rng(3).normal(1, 0.25, 400))
    runs = [Played(fitted, scores, AlertPolicy(per_day)) for per_day in (0.05, 1.0, 50.0)]
    assert runs[0].learned == runs[1].learned == runs[2].learned
    assert not all(runs[0].learned)


def test_a_warming_entity_says_nothing_and_learns_whatever_comes(fitted):
    played = Played(fitted, [HIGH] * 6, warming=range(4))
    assert played.verdicts == [WARMING] * 4 + [ANOMALOUS] * 2
    assert played.at["opened"] == [4]
    assert played.learned == [True] * 5 + [False]


def test_a_lasting_failure_sends_updates_and_is_charged_for_each(fitted):
    erratic = np.r_[np.ones(50), np.full(600, 9.0)]
    scores = [LOW] * 50 + list(10.0 ** np.arange(1, 601).clip(max=37))
    policy = AlertPolicy(per_entity_day=2.0, cooldown_s=1_800, new_normal_after=0)
    played = Played(fitted, scores, policy, erratic)
    assert played.at["opened"] == [50]
    assert played.at["updated"] == [50 + 30 * i for i in (1, 2, 3)]  # two days' worth is four
    assert played.at["closed"] == []
    assert played.rows["credit"][0] < 1


def test_a_stationary_entity_sends_no_update(fitted):
    changes = np.r_[np.ones(50), 9.0, np.ones(120)]
    scores = [LOW] * 50 + [HIGH] * 121
    policy = AlertPolicy(per_entity_day=2.0, cooldown_s=1_800, new_normal_after=0)
    played = Played(fitted, scores, policy, changes)
    assert (played.at["opened"], played.at["updated"]) == ([50], [])


def test_a_stationary_entity_does_not_raise_the_threshold(fitted):
    policy = AlertPolicy(per_entity_day=2.0, cooldown_s=1_800, new_normal_after=0)
    raised = Played(fitted, [LOW] * 50 + [HIGH] * 121, policy).thresholds
    assert raised[-1] == raised[60] > raised[49]


def test_an_alert_does_not_close_while_its_score_would_open_another(fitted):
    played = Played(fitted, [LOW] * 50 + [HIGH] * 3 + [MILD] * 100 + [LOW] * 3, log_threshold=1.2)
    assert (played.at["opened"], played.at["closed"]) == ([50], [153])


def test_a_stationary_entity_sends_an_update_if_it_becomes_much_worse(fitted):
    scores = np.r_[[LOW] * 50, [HIGH] * 60, [1.4 * HIGH] * 60, [1.6 * HIGH] * 60]
    policy = AlertPolicy(per_entity_day=20.0, cooldown_s=1_800, new_normal_after=0)
    played = Played(fitted, scores, policy, log_threshold=1.3)
    assert played.at["opened"] == [50]
    [again] = played.at["updated"]
    assert 170 <= again <= 200  # the cool-down delays it


def test_a_score_that_rises_after_a_message_is_covered_by_it(fitted):
    scores = [LOW] * 50 + (HIGH * np.linspace(0.25, 1.0, 45)).tolist() + [HIGH] * 100
    policy = AlertPolicy(per_entity_day=20.0, cooldown_s=1_200, new_normal_after=0)
    assert Played(fitted, scores, policy).at["updated"] == []


def test_a_stationary_change_becomes_the_new_normal_after_so_many_events(fitted):
    changes = np.r_[np.ones(50), 9.0, np.ones(59)]
    played = Played(fitted, [LOW] * 50 + [HIGH] * 60, changes=changes)
    # Event 50 is learned from. Step size 1.8 is at most twice its baseline, which rose from 1.
    assert played.at["baseline_accepted"] == played.at["closed"] == [100]
    assert played.at["opened"][0] == 50
    assert played.learned[101]


def test_a_new_normal_is_no_reminder_however_bad_its_last_event_is(fitted):
    scores = np.r_[[LOW] * 50, [HIGH] * 50, 100 * HIGH, [LOW] * 9]
    played = Played(fitted, scores, AlertPolicy(20.0, 1_800, new_normal_after=50))
    assert played.at["baseline_accepted"] == played.at["closed"] == [100]
    assert 100 not in played.at["updated"]


def test_a_failure_that_ends_is_no_new_normal_while_its_score_fades(fitted):
    changes = np.r_[np.ones(50), np.full(200, 4.0), np.ones(60)]
    played = Played(fitted, [LOW] * 50 + [HIGH] * 220 + [LOW] * 40, changes=changes)
    assert played.at["baseline_accepted"] == []
    assert len(played.at["closed"]) == 1


def test_a_single_large_step_does_not_delay_a_new_normal_for_long(fitted):
    changes = np.ones(300)
    changes[70::40] = 9.0
    assert (
        0
        < Played(fitted, [LOW] * 50 + [HIGH] * 250, changes=changes).at["baseline_accepted"][0]
        < 150
    )


def test_what_keeps_changing_is_no_new_normal(fitted):
    changes = np.r_[np.ones(50), np.full(500, 4.0)]
    played = Played(fitted, [LOW] * 50 + [HIGH] * 500, changes=changes)
    assert (played.at["baseline_accepted"], played.at["closed"]) == ([], [])
    assert played.verdicts[50:] == [ANOMALOUS] * 500


def test_a_flat_line_is_stationary(fitted):
    played = Played(fitted, [LOW] * 50 + [HIGH] * 61, changes=np.zeros(111))
    assert played.at["baseline_accepted"] == [100]


def test_zero_events_to_a_new_normal_means_never(fitted):
    policy = AlertPolicy(2.0, 1_800, new_normal_after=0)
    assert Played(fitted, [HIGH] * 3_000, policy, np.zeros(3_000)).at["baseline_accepted"] == []


def test_the_baseline_of_step_sizes_follows_only_learned_events(fitted):
    changes = np.r_[np.ones(50), np.full(100, 4.0)]
    played = Played(fitted, [LOW] * 50 + [HIGH] * 100, changes=changes)
    baseline, recent = played.rows["step_size_baseline"][0], played.rows["step_size_recent"][0]
    assert baseline == pytest.approx(1.06, abs=0.03)  # of the first rare event, and no other
    assert recent == pytest.approx(4.0, abs=0.01)


def test_events_of_an_open_alert_are_anomalous_if_they_are_rare(fitted):
    between = float(fitted.threshold(30))
    scores = [HIGH, between, LOW, between] + [LOW] * 40 + [between]
    verdicts = Played(fitted, scores, log_threshold=50.0).verdicts
    assert verdicts[:4] == [ANOMALOUS, ANOMALOUS, NORMAL, ANOMALOUS]
    assert verdicts[-1] == NORMAL


def test_the_threshold_is_reported_as_it_was_before_the_event(fitted):
    policy = AlertPolicy(per_entity_day=2.0, cooldown_s=0.0)
    first, second = Played(fitted, [HIGH, LOW], policy, step_us=1).thresholds
    assert first == pytest.approx(1.3)
    assert second == pytest.approx(1.3 * np.exp(0.375 * 0.2 / 2), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_entity_sends_more_than_its_budget_whatever_its_scores(fitted, data):
    count = data.draw(st.integers(2, 300))
    seed = data.draw(st.integers(0, 1 << 30))
    rng = np.random.default_rng(seed)
    per_day = data.draw(st.sampled_from([20.0, 1.0, 0.2]))
    policy = AlertPolicy(per_day, data.draw(st.sampled_from([0.0, 600.0])), 20)
    scores = np.exp(rng.normal(0, data.draw(st.floats(0.1, 5)), count)).astype(np.float32)
    step_us = data.draw(st.sampled_from([1_000, MINUTE_US, DAY_US // 7]))
    changes = rng.uniform(0, 9, count)
    played = Played(fitted, scores, policy, changes, range(5), step_us=step_us)
    at = sorted(played.at["opened"] + played.at["updated"])
    for i, first in enumerate(at):
        sent = np.arange(1, len(at) - i + 1)
        days = (np.array(at[i:]) - first) * step_us / DAY_US
        assert (sent <= per_day * (days + CREDIT_DAYS_MAX) + 1 + 1e-6).all()
        assert i + 1 <= per_day * (first * step_us / DAY_US + CREDIT_DAYS) + 1e-6
    opened, closed = played.at["opened"], played.at["closed"]
    assert len(opened) - len(closed) in (0, 1)
    pairs = zip(opened, closed, strict=False)
    assert all(one < other for one, other in pairs)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"per_entity_day": 0.0}, "per_entity_day must be above 0 and at most 86400; got 0"),
        ({"per_entity_day": float("nan")}, "per_entity_day must be above 0 .* got nan"),
        ({"per_entity_day": float("inf")}, "got inf"),
        ({"cooldown_s": -1.0}, "cooldown_s must be 0 to 2592000 .30 days.; got -1"),
        ({"new_normal_after": -1}, "new_normal_after must be >= 0; got -1"),
    ],
)
def test_impossible_policies_are_refused(change, text):
    with pytest.raises(ConfigError, match=text):
        AlertPolicy(**change)
