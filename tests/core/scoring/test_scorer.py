"""What the scorer decides beside the model: late events, limits, TTL, explanations."""

import numpy as np
import pytest

from fixtures.artifacts import KNOWN_ENTITIES, make_artifact
from fixtures.blocks import START_US, STEP_US, make_block
from streamgauge.models.alerts.decision import AlertRules, fill_new
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.scored_block import NEW_NORMAL, VERDICTS
from streamgauge.models.errors import ConfigError
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.scoring.waves import arrange
from streamgauge.models.state.entity_table import EntityTable

EAGER = AlertPolicy(per_entity_day=1_000, cooldown_s=600, critical_rarity_1_in_n=1e8)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a"))


def step(artifact, block, policy=None, alerts=None):
    scorer = Scorer(artifact, policy or ScoringPolicy(warmup_events=10), alerts or EAGER)
    table = EntityTable(scorer.layout)
    return scorer.step(table, block), table


def test_scores_do_not_depend_on_the_order_of_other_entities(artifact):
    block = make_block(["a", "b", "c", "a", "b", "c"])
    swapped = block.take(np.array([1, 0, 2, 4, 3, 5]), -1)
    one, _ = step(artifact, block)
    two, _ = step(artifact, swapped)
    np.testing.assert_array_equal(one.score[[1, 0, 2, 4, 3, 5]], two.score)


def groups(code, table_row):
    """The groups of events that `arrange` makes."""
    order, starts = arrange(np.array(code, np.int64), np.array(table_row, np.int64), max(code) + 1)
    return [group.tolist() for group in np.split(order, starts[1:-1])]


def test_waves_hold_each_entity_once_and_keep_offset_order():
    assert groups([1, 1, 0, 1, 0, 2], [5, 5, 2, 5, 2, 9]) == [[0, 2, 5], [1, 4], [3]]


def test_groups_are_the_waves_cut_at_sixteen():
    rng = np.random.default_rng(0)
    for count in (1, 64, 500):
        code = rng.integers(0, 40, count)
        table_row = np.where(rng.random(count) < 0.1, -1, code + 7)
        with_row = np.flatnonzero(table_row >= 0)
        # By definition: the n-th wave holds the n-th event of every entity.
        turn = np.array([int((code[with_row[with_row < e]] == code[e]).sum()) for e in with_row])
        waves = [with_row[turn == n] for n in range(max(turn, default=-1) + 1)]
        expected = [wave[i : i + 16].tolist() for wave in waves for i in range(0, len(wave), 16)]
        assert groups(code, table_row) == expected


def test_no_events_no_groups():
    order, starts = arrange(np.zeros(2, np.int64), np.full(2, -1), 1)
    assert (order.tolist(), starts.tolist()) == ([], [0])


def test_more_entities_than_a_group_are_all_scored(artifact):
    scored, table = step(artifact, make_block([f"e{i}" for i in range(200)]))
    assert len(table) == 200
    assert np.isfinite(scored.score).all()


def test_late_events_are_scored_and_counted(artifact):
    block = make_block(["a"] * 4)
    block.event_time_us[2] = START_US - STEP_US
    scored, _ = step(artifact, block)
    assert (scored.late, len(scored.block), scored.set_aside) == (1, 4, {})


def test_a_late_event_does_not_set_its_entity_back(artifact):
    block = make_block(["a"] * 5)
    block.event_time_us[2:4] = START_US + np.array([0, 30_000_000])  # both before the second
    scored, table = step(artifact, block)
    assert scored.late == 2
    assert table.rows["event_time_us"][0] == block.event_time_us[4]


def test_late_events_are_set_aside_where_the_policy_says_so(artifact):
    block = make_block(["a", "b", "a", "a"])
    block.event_time_us[2] = START_US - STEP_US
    scored, table = step(artifact, block, ScoringPolicy(late="set_aside"))
    assert scored.late == 1
    assert scored.set_aside["late_event"].offset.tolist() == [2]
    assert scored.block.offset.tolist() == [0, 1, 3]
    without, other = step(artifact, block.take(np.array([0, 1, 3]), -1))
    np.testing.assert_array_equal(scored.score, without.score)
    assert table.digest_of_rows() == other.digest_of_rows()


def test_entities_past_the_limit_are_set_aside_and_the_others_scored(artifact):
    block = make_block(["a", "b", "c", "a", "c"])
    scored, table = step(artifact, block, ScoringPolicy(entities_per_shard_max=2))
    assert scored.set_aside["too_many_entities"].entity_id.to_pylist() == ["c", "c"]
    assert scored.block.offset.tolist() == [0, 1, 3]
    assert table.entity_ids == ["a", "b"]


def test_an_entity_silent_for_longer_than_the_ttl_restarts(artifact):
    policy = ScoringPolicy(entity_ttl_s=3600)
    block = make_block(["a"] * 20)
    scorer = Scorer(artifact, policy, EAGER)
    table = EntityTable(scorer.layout)
    scorer.step(table, block)
    later = make_block(["a"] * 5, first=500)
    scored = scorer.step(table, later)
    fresh, _ = step(artifact, later, policy)
    np.testing.assert_array_equal(scored.score, fresh.score)


@pytest.mark.parametrize(("hours", "seen"), [(1, 5), (3, 1)])
def test_an_entity_that_moves_is_forgotten_by_the_clock_of_where_it_was(artifact, hours, seen):
    """It might have been dropped by then, and no score depends on when a snapshot is written."""
    scorer = Scorer(artifact, ScoringPolicy(entity_ttl_s=3600), EAGER)
    table = EntityTable(scorer.layout)
    scorer.step(table, make_block(["a", "x", "a", "x", "a", "x", "a"], partition=1))
    scorer.step(table, make_block(["x", "y"], first=60 * hours, partition=1))
    scorer.step(table, make_block(["a"], first=30, partition=0))
    assert table.rows["event_count"][table.find(["a"])].tolist() == [seen]


def test_eviction_drops_idle_entities_only(artifact):
    scorer = Scorer(artifact, ScoringPolicy(entity_ttl_s=60), EAGER)
    table = EntityTable(scorer.layout)
    # A minute between two events.
    scorer.step(table, make_block(["first", "old", "a", "b", "c", "d", "c", "d"]))
    before = table.rows[table.find(["c"])].tobytes()
    scorer.evict(table)
    # "first" came before there was a clock; "c" and "d" had events within twice the TTL.
    assert table.entity_ids == ["first", "c", "d"]
    assert table.rows[table.find(["c"])].tobytes() == before


def test_an_alert_says_what_came_and_what_was_expected(artifact):
    rng = np.random.default_rng(1)
    features = rng.normal(scale=0.3, size=(60, 3)).astype(np.float32)
    features[40:50, 1] = 900.0
    block = make_block([KNOWN_ENTITIES[0]] * 60, features=features)
    scored, _ = step(artifact, block)
    opened = scored.transitions[0]
    assert (opened.status, opened.entity_id) == ("opened", KNOWN_ENTITIES[0])
    assert 40 <= opened.offset < 50
    assert opened.offset == opened.opened_offset
    assert opened.event_time_us == START_US + opened.offset * STEP_US
    name, value, expected, share = opened.features[0]
    assert (name, value) == ("f01", 900.0)
    assert abs(expected) < 900
    assert share == max(s for *_, s in opened.features) > 0.3
    assert opened.score > opened.threshold


def test_a_closed_alert_names_the_event_that_opened_it(artifact):
    rng = np.random.default_rng(1)
    features = rng.normal(scale=0.1, size=(400, 3)).astype(np.float32)
    features[40:44, :] = 900.0
    scored, _ = step(artifact, make_block([KNOWN_ENTITIES[0]] * 400, features=features))
    opened, closed = (one for one in scored.transitions if one.status != "updated")
    assert (opened.status, closed.status) == ("opened", "closed")
    assert closed.opened_offset == opened.offset < closed.offset
    assert closed.events == closed.offset - opened.offset + 1
    assert closed.peak >= opened.score


def at_new_normal(artifact, policy):
    """A scorer, and a table whose only entity has just accepted its level as the baseline."""
    scorer = Scorer(artifact, policy, AlertPolicy(20, 600, new_normal_after=30))
    table = EntityTable(scorer.layout)
    features = np.random.default_rng(1).normal(size=(400, 3)).astype(np.float32)
    features[200:] += 8
    for i in range(400):
        scored = scorer.step(table, make_block(["a"], first=i, features=features[i : i + 1]))
        if any(transition.reason == NEW_NORMAL for transition in scored.transitions):
            return scorer, table, i
    raise AssertionError("no new normal")


def test_a_new_normal_starts_as_a_new_entity_with_the_budget_it_had(artifact):
    _, table, _ = at_new_normal(artifact, ScoringPolicy(warmup_events=20))
    row = table.rows[0]
    assert (row["event_count"], row["statistics_weight"], row["season_weight"].any()) == (
        0,
        0,
        False,
    )
    start = np.float32(artifact.forecaster.score_priors.score**2)
    assert (row["smoothed_fast"], row["smoothed_slow"]) == (start, start)
    assert (row["calm_events_left"], row["stationary_events"], row["alert_events"]) == (0, 0, 0)
    fresh = table.rows[:1].copy()
    alerts = AlertPolicy(20, 600)
    fill_new(fresh, alerts, AlertRules.of(alerts, artifact.calibration, artifact.thresholds))
    assert row["credit"] != fresh["credit"][0]
    assert row["log_threshold"] > fresh["log_threshold"][0]
    assert abs(row["mean"]).max() < 4  # until the next event


def test_an_entity_at_its_new_normal_does_not_leave_as_one_that_was_erased(artifact):
    scorer, table, _ = at_new_normal(artifact, ScoringPolicy(warmup_events=20))
    before = table.digest_of_rows()
    scorer.evict(table)
    assert table.digest_of_rows() == before


def test_an_entity_at_its_new_normal_is_forgotten_like_any_other(artifact):
    policy = ScoringPolicy(warmup_events=20, entity_ttl_s=3600)
    scorer, table, last = at_new_normal(artifact, policy)
    later = make_block(["a"] * 5, first=last + 100)
    scored = scorer.step(table, later)
    fresh = EntityTable(scorer.layout)
    np.testing.assert_array_equal(scored.score, scorer.step(fresh, later).score)
    assert table.rows["credit"][0] == fresh.rows["credit"][0]


def test_hostile_values_leave_all_state_finite(artifact):
    rng = np.random.default_rng(3)
    values = np.array([1e38, -1e38, 3.4e38, 1e-45, -0.0, 0.0, 1e20, np.nan], np.float32)
    features = rng.choice(values, size=(2_000, 3))
    names = [f"e{i % 5}" for i in range(2_000)]
    scored, table = step(artifact, make_block(names, features=features))
    assert np.isfinite(scored.score).all()
    for field in table.layout.dtype.names:
        assert np.isfinite(table.rows[field][: len(table)]).all(), field


def test_unknown_late_policy_is_refused():
    with pytest.raises(ConfigError, match="late must be one of .* got 'drop'"):
        ScoringPolicy(late="drop")


def test_confidence_grows_with_every_event_until_warming_ends(artifact):
    block = make_block(["a", "b"] * 8)
    scored, _ = step(artifact, block, ScoringPolicy(warmup_events=5))
    assert scored.confidence[::2] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1])
    assert (scored.confidence[1::2] == scored.confidence[::2]).all()
    warming = scored.verdict == VERDICTS.index("warming")
    assert (warming == (scored.confidence < 1)).all()
    assert (step(artifact, block, ScoringPolicy(warmup_events=0))[0].confidence == 1).all()


def test_the_budget_changes_messages_and_no_score(artifact):
    rng = np.random.default_rng(3)
    levels = np.repeat(rng.normal(0, 6, (60, 1)), 50, axis=0)
    values = (levels + rng.normal(size=(3_000, 3))).astype(np.float32)
    block = make_block(["host"] * 3_000, features=values)
    by_budget = {}
    for per_day in (0.01, 1.0, 2_000.0):
        policy = AlertPolicy(per_day, cooldown_s=0.0, new_normal_after=20)
        scored, _ = step(artifact, block, ScoringPolicy(warmup_events=20), policy)
        by_budget[per_day] = scored
    few, some, many = (len(by_budget[per_day].transitions) for per_day in by_budget)
    assert few <= some < many
    for scored in by_budget.values():
        assert scored.score.tobytes() == by_budget[1.0].score.tobytes()
        assert scored.confidence.tobytes() == by_budget[1.0].confidence.tobytes()
    assert any(one.reason == NEW_NORMAL for one in by_budget[2_000.0].transitions)
