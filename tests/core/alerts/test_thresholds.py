from __future__ import annotations

import numpy as np
import pytest

from streamgauge.models.alerts import thresholds
from streamgauge.models.alerts.budget import ETA_STD
from streamgauge.models.alerts.policy import BudgetSpec
from streamgauge.models.alerts.thresholds import PER_DAY, TAIL_MIN, Thresholds
from streamgauge.models.errors import ArtifactError

MINUTES = np.arange(1, 10 * 1_440 + 1) * 60_000_000


def scores(level: float, seed: int) -> np.ndarray:
    """Ten days of scores, one a minute, around a level of the logarithm."""
    noise = np.random.default_rng(seed).normal(level, 0.3, len(MINUTES))
    return np.exp(noise).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> Thresholds:
    return thresholds.fit([scores(0.0, 1), scores(2.0, 2)], [MINUTES, MINUTES])


@pytest.mark.parametrize("per_day", [5.0, 1.0, 0.2])
def test_left_alone_a_first_threshold_sends_the_budget_and_no_more(fitted, per_day):
    spec = BudgetSpec(per_day=per_day)
    start = fitted.start(spec)
    for row, level, seed in ((1, 0.0, 1), (2, 2.0, 2)):
        over = MINUTES[np.log(scores(level, seed)) > start.log_threshold[row]]
        apart = 1 + int((np.diff(over) > spec.cooldown_s * 1e6).sum()) if len(over) else 0
        assert apart <= per_day * 10 + 1
        assert per_day < 1 or apart >= per_day * 10 * 0.7
        assert start.floor[row] == pytest.approx(level, abs=0.01)
        assert start.threshold_rate[row] == pytest.approx(ETA_STD * 0.3, rel=0.05)


def test_a_smaller_budget_starts_higher_also_between_and_beyond_those_kept(fitted):
    asked = [200.0, 100.0, 50.0, 3.0, 1.0, 0.7, 0.1, 0.01, 0.001]
    fitted_again = np.stack([fitted.start(BudgetSpec(per_day=one)).log_threshold for one in asked])
    assert (np.diff(fitted_again, axis=0) >= 0).all()
    assert (fitted_again[4] > fitted_again[3]).all()
    assert (fitted_again[0] == fitted_again[1]).all()


def test_an_entity_never_seen_starts_at_the_median_of_the_others(fitted):
    assert fitted.log_threshold[0] == pytest.approx(fitted.log_threshold[1:].mean(axis=0))


def test_an_entity_with_few_scores_starts_as_one_never_seen():
    short = TAIL_MIN - 1
    fitted_again = thresholds.fit(
        [scores(0.0, 1), scores(5.0, 2)[:short]], [MINUTES, MINUTES[:short]]
    )
    assert (fitted_again.log_threshold[2] == fitted_again.log_threshold[0]).all()
    assert (fitted_again.log_threshold[1] == fitted_again.log_threshold[0]).all()


def test_if_all_have_few_scores_their_sum_is_taken_for_one_entity():
    parts = [scores(1.0, seed)[:30] for seed in range(20)]
    fitted_again = thresholds.fit(parts, [MINUTES[:30]] * 20)
    assert (fitted_again.log_threshold == fitted_again.log_threshold[0]).all()
    assert fitted_again.median == pytest.approx(np.ones(21), abs=0.1)
    assert (np.diff(fitted_again.log_threshold[0]) >= 0).all()


def test_what_is_written_is_read_and_what_does_not_fit_is_refused_by_name(fitted):
    arrays = fitted.to_arrays()
    again = Thresholds.from_arrays(arrays, 2)
    assert (again.log_threshold == fitted.log_threshold).all() and (
        again.median == fitted.median
    ).all()
    with pytest.raises(ArtifactError, match=r"'thresholds.theta' must be finite and of shape"):
        Thresholds.from_arrays(arrays, 3)
    spoiled = {**arrays, "thresholds.deviation": np.array([1.0, np.nan, 1.0])}
    with pytest.raises(ArtifactError, match=r"'thresholds.deviation' must be finite"):
        Thresholds.from_arrays(spoiled, 2)
    assert arrays["thresholds.theta"].shape == (3, len(PER_DAY))
