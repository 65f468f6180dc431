"""Four traps that the usual detectors fall into, through the real scorer under its defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from fixtures.artifacts import make_artifact
from fixtures.blocks import STEP_US, make_block
from streamgauge.models.alerts.budget import CREDIT_DAYS, DAY_US
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.scored_block import (
    ANOMALOUS,
    BACK_TO_NORMAL,
    NEW_NORMAL,
    NORMAL,
    ScoredBlock,
    Transition,
)
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.transforms.messages.alerts import explain

FEATURES = 3
FAULT = 1_000  # the event at which all goes wrong; a minute lies between two
POLICY = AlertPolicy()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    directory = tmp_path_factory.mktemp("artifact") / "a"
    return artifacts.load(make_artifact(directory, FEATURES, washout=200))


@dataclass(frozen=True)
class Told:
    """What a series came to."""

    scored: ScoredBlock

    @property
    def messages(self) -> list[Transition]:
        """The messages that were sent; closing an alert sends none."""
        return [one for one in self.scored.transitions if one.status != "closed"]

    def at(self, status: str) -> list[int]:
        """The events of all transitions of that status."""
        return [one.offset for one in self.scored.transitions if one.status == status]

    def share(self, verdict: int, first: int, end: int) -> float:
        """The share of a verdict among the events from `first` to before `end`."""
        return float((self.scored.verdict[first:end] == verdict).mean())


def watch(artifact: Artifact, values: np.ndarray) -> Told:
    """Score one entity, all of its events in one block."""
    scorer = Scorer(artifact, ScoringPolicy(), POLICY)
    block = make_block(["host"] * len(values), features=values.astype(np.float32))
    return Told(scorer.step(EntityTable(scorer.layout), block))


def noise(count: int, seed: int = 0) -> np.ndarray:
    """Nothing of note; of variance 1 and without tails, so that no message is due by chance."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, FEATURES)) * math.sqrt(3)


def burst(values: np.ndarray, first: int, count: int, size: float, seed: int = 1) -> None:
    """Add steps up and down to `count` events, in place."""
    rng = np.random.default_rng(seed)
    values[first : first + count] += size * rng.choice([-1.0, 1.0], (count, FEATURES))


def test_a_step_of_a_flat_line_opens_an_alert_at_once(artifact: Artifact) -> None:
    values = np.full((FAULT + 50, FEATURES), 0.5)
    values[FAULT:] = 0.6
    watched = watch(artifact, values)
    assert [(one.status, one.offset) for one in watched.messages] == [("opened", FAULT)]
    assert watched.share(ANOMALOUS, FAULT, FAULT + 50) == 1.0


def test_all_twenty_events_of_a_burst_are_anomalous_and_one_message_is_sent(
    artifact: Artifact,
) -> None:
    values = noise(FAULT + 500)
    burst(values, FAULT, 20, 8.0)
    watched = watch(artifact, values)
    assert watched.share(ANOMALOUS, FAULT, FAULT + 20) == 1.0
    assert [(one.status, one.offset) for one in watched.messages] == [("opened", FAULT)]
    [closed] = [one for one in watched.scored.transitions if one.status == "closed"]
    assert closed.reason == BACK_TO_NORMAL
    assert watched.share(ANOMALOUS, closed.offset + 1, FAULT + 500) == 0.0


def test_a_failure_of_ten_thousand_events_stays_open_to_its_end(artifact: Artifact) -> None:
    end = FAULT + 10_000
    values = noise(end + 1_000)
    values[FAULT:end] = 6 * np.random.default_rng(2).normal(size=(10_000, FEATURES))
    watched = watch(artifact, values)
    assert len(watched.at("opened")) == 1
    assert FAULT <= watched.at("opened")[0] < FAULT + 5
    [closed] = [one for one in watched.scored.transitions if one.status == "closed"]
    assert (closed.reason, end < closed.offset < end + 500) == (BACK_TO_NORMAL, True)
    # It is no less of a failure after a week: nothing of it was learned.
    assert watched.share(ANOMALOUS, FAULT + 5, end) == 1.0
    early, late = (
        watched.scored.score[FAULT + 500 : FAULT + 1_500],
        watched.scored.score[end - 1_000 : end],
    )
    assert np.median(late) > 0.9 * np.median(early)
    days = np.array([one.offset for one in watched.messages]) * STEP_US / DAY_US
    most = POLICY.per_entity_day * (days + CREDIT_DAYS)
    assert (np.arange(1, len(days) + 1) <= most).all()
    assert len(watched.at("updated")) >= 3
    assert min(np.diff(days)) * 86_400 >= POLICY.cooldown_s


def test_a_lasting_step_sends_one_message_and_becomes_the_new_normal(artifact: Artifact) -> None:
    values = noise(5_000)
    values[FAULT:] += 5.0
    burst(values, 4_000, 20, 5.0)  # no more than the step was
    watched = watch(artifact, values)
    step, new_normal, again, over = watched.scored.transitions
    assert (step.status, again.status) == ("opened", "opened")
    assert FAULT <= step.offset < FAULT + 3
    assert 4_000 <= again.offset < 4_020
    after = new_normal.offset - FAULT - POLICY.new_normal_after
    assert (new_normal.status, new_normal.reason, 0 <= after < 100) == ("closed", NEW_NORMAL, True)
    assert (over.status, over.reason) == ("closed", BACK_TO_NORMAL)
    assert watched.share(ANOMALOUS, FAULT + 3, new_normal.offset + 1) == 1.0
    assert watched.share(NORMAL, new_normal.offset + 300, 4_000) > 0.99
    name, value, mean, _ = new_normal.features[0]
    assert value - mean == pytest.approx(5.0, abs=2.5)
    assert explain(new_normal).startswith(f"new normal: {name} was about {mean:.4g}, is now about")


def test_a_failure_at_a_level_that_is_not_yet_normal_sends_a_message(artifact: Artifact) -> None:
    values = noise(3_000)
    values[FAULT:] += 2.0
    values[2_000:2_200] += 15.0
    watched = watch(artifact, values)
    step, failure = watched.messages
    assert (step.status, failure.status) == ("opened", "updated")
    assert FAULT <= step.offset < FAULT + 20
    assert 2_000 <= failure.offset < 2_065


def test_a_change_of_unit_sends_one_message_and_becomes_the_new_normal(artifact: Artifact) -> None:
    values = 10 + noise(8_000)
    values[FAULT:] *= 1_000
    burst(values, 6_000, 20, 15_000.0)
    watched = watch(artifact, values)
    assert [one.reason for one in watched.scored.transitions][:2] == [None, NEW_NORMAL]
    step, again = watched.messages
    assert FAULT <= step.offset < FAULT + 3
    assert 6_000 <= again.offset < 6_003
    assert watched.share(NORMAL, 4_000, 6_000) > 0.99


def test_a_step_in_one_feature_alone_sends_one_message(artifact: Artifact) -> None:
    values = noise(5_000)
    values[FAULT:, 1] += 8.0
    watched = watch(artifact, values)
    assert [one.status for one in watched.scored.transitions] == ["opened", "closed"]
    assert watched.scored.transitions[1].reason == NEW_NORMAL
    assert watched.scored.transitions[1].features[0][0] == "f01"
