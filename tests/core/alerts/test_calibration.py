from __future__ import annotations

import numpy as np
import pytest

from streamgauge.models.alerts import calibration
from streamgauge.models.alerts.calibration import RARITY_MAX, Calibration
from streamgauge.models.errors import ArtifactError, TrainingError


@pytest.fixture(scope="module")
def exponential() -> Calibration:
    return calibration.fit(np.random.default_rng(0).exponential(size=200_000))


def test_bulk_is_the_empirical_tail_frequency(exponential):
    scores = np.log([2.0, 5.0, 20.0])  # exceeded once in 2, 5 and 20
    assert exponential.rarity_1_in_n(scores) == pytest.approx([2, 5, 20], rel=0.05)


def test_tail_beyond_the_data_follows_the_pareto_law(exponential):
    assert exponential.tail_shape == pytest.approx(0, abs=0.1)
    assert exponential.rarity_1_in_n(np.log([1e4]))[0] == pytest.approx(1e4, rel=0.35)


def test_heavy_tail_is_recognised():
    pareto = np.random.default_rng(0).pareto(4.0, 200_000)  # shape 1 / 4
    assert calibration.fit(pareto).tail_shape == pytest.approx(0.25, abs=0.06)


def test_rarity_is_monotone_finite_and_bounded(exponential):
    scores = np.concatenate([np.linspace(-5, 50, 5_000), [1e6, 1e30, np.inf]])
    rarity = exponential.rarity_1_in_n(scores)
    assert rarity.dtype == np.float32
    assert np.isfinite(rarity).all()
    assert (np.diff(rarity) >= 0).all()
    assert (rarity[0], rarity[-1]) == (1.0, np.float32(RARITY_MAX))


def test_score_that_is_not_a_number_is_the_rarest(exponential):
    assert exponential.rarity_1_in_n(np.array([np.nan]))[0] == np.float32(RARITY_MAX)


@pytest.mark.parametrize("rarity_1_in_n", [2.0, 30.0, 49.0, 51.0, 1e3, 1e6])
@pytest.mark.parametrize("shape", [0.0, 0.3])
def test_threshold_is_the_inverse_of_rarity(exponential, rarity_1_in_n, shape):
    arrays = exponential.to_arrays()
    arrays["calibration.tail"] = np.array([*arrays["calibration.tail"]])
    arrays["calibration.tail"][2] = shape
    one = Calibration.from_arrays(arrays)
    assert one.rarity_1_in_n(np.array([one.threshold(rarity_1_in_n)]))[0] == pytest.approx(
        rarity_1_in_n, rel=1e-4
    )


def test_arrays_round_trip(exponential):
    again = Calibration.from_arrays(exponential.to_arrays())
    scores = np.linspace(0, 30, 1_000)
    assert again.rarity_1_in_n(scores).tobytes() == exponential.rarity_1_in_n(scores).tobytes()


def test_constant_scores_can_be_calibrated():
    one = calibration.fit(np.ones(1_000))
    assert one.rarity_1_in_n(np.array([0.9]))[0] == 1.0
    assert one.rarity_1_in_n(np.array([2.0]))[0] == np.float32(RARITY_MAX)


def test_too_few_scores_are_refused():
    with pytest.raises(TrainingError, match="at least 500 held-out scores; got 3"):
        calibration.fit(np.array([1.0, 2.0, 3.0, np.nan]))


def test_calibration_that_is_not_monotone_is_refused(exponential):
    arrays = exponential.to_arrays()
    arrays["calibration.grid"] = arrays["calibration.grid"][::-1].copy()
    with pytest.raises(ArtifactError, match="ascending grid"):
        Calibration.from_arrays(arrays)
