from __future__ import annotations

import numpy as np
import pytest

from streamgauge.pipeline.evaluation import baselines
from streamgauge.pipeline.evaluation.baselines import BASELINES, scores, smoothed

FITTED = [name for name in BASELINES if name != "random"]


def parts(features: int = 3, rows: int = 900) -> tuple[np.ndarray, np.ndarray]:
    """Waves of one period with noise; the second part has a jump of all features at 400."""
    rng = np.random.default_rng(5)
    phase = np.arange(2 * rows)[:, None] / 9 + np.arange(features)
    values = np.sin(phase) + 0.1 * rng.normal(size=(2 * rows, features))
    train, test = values[:rows].astype(np.float32), values[rows:].astype(np.float32)
    test[400:430] += np.float32(3.0)
    return train, test


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("name", FITTED)
def test_every_baseline_sees_a_jump(name, features):
    train, test = parts(features)
    score = scores(name, train, test)
    assert score.shape == (900,)
    assert score[400:430].max() > 1.4 * score[50:400].max()


@pytest.mark.parametrize("row", [1, 600])
@pytest.mark.parametrize("name", FITTED)
def test_baselines_are_causal(name, row):
    train, test = parts()
    changed = test.copy()
    changed[row:] = 50.0
    one, other = scores(name, train, test), scores(name, train, changed)
    np.testing.assert_array_equal(one[:row], other[:row])


@pytest.mark.parametrize("name", FITTED)
def test_units_do_not_matter(name):
    train, test = parts()
    factor = np.array([1e6, 1.0, 1e-4], np.float32)
    np.testing.assert_allclose(
        scores(name, train * factor, test * factor), scores(name, train, test), rtol=1e-3
    )


@pytest.mark.parametrize("name", BASELINES)
def test_missing_values_and_constant_features_give_finite_scores(name):
    train, test = parts()
    train[:, 1] = 7.0
    test[:, 1] = 7.0
    train[::5, 0] = test[::7, 2] = np.nan
    assert np.isfinite(scores(name, train, test)).all()


@pytest.mark.parametrize("name", FITTED)
def test_a_baseline_is_not_fitted_on_too_few_events(name):
    train, test = parts()
    assert not scores(name, train[: baselines.TRAIN_MIN - 1], test).any()


def test_ridge_forecasts_what_an_autoregression_can():
    rng = np.random.default_rng(0)
    walk = np.zeros(3_000)
    for t in range(2, 3_000):
        walk[t] = 1.6 * walk[t - 1] - 0.8 * walk[t - 2] + rng.normal()
    train, test = walk[:2_000, None], walk[2_000:, None]
    std = train.std()
    missed, residual = BASELINES["ridge"](train / std, test / std)
    # Nothing but the noise is left, and what ridge adds; to repeat the last value misses 1.4.
    assert residual.std() * std == pytest.approx(1.0, abs=0.1)
    assert missed.std() * std == pytest.approx(1.0, abs=0.1)


def test_smoothing_begins_at_the_first_value():
    assert smoothed(np.array([2.0, 2.0, 12.0])) == pytest.approx([2.0, 2.0, 3.0])


def test_random_scores_depend_on_the_seed_alone():
    train, test = parts()
    one = scores("random", train, test, seed=1)
    np.testing.assert_array_equal(one, scores("random", train * 2, test, seed=1))
    assert (one != scores("random", train, test, seed=2)).all()
