"""Baseline detectors, fitted per entity on its train part; they score causally.

    random    uniform noise, the level of no information
    z-score   squared standard values
    ridge     residuals of a ridge autoregression on the last five events of all features
    pca       residuals after the first components with 90 % of the variance

All baselines share the steps around the residuals, which makes their scores comparable.
Values are standardised by the mean and standard deviation of the train part and clipped.
Squared residuals are divided by the residual variance of the train part, capped, and averaged
over features. The score is the smoothed square root of the average. A single feature has no
principal components, so for it PCA runs on windows of the last values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from streamgauge.models.training.fit import filled

CLIP, CAP = 20.0, 100.0
VARIANCE_MIN = 1e-2  # of residuals, in standard units: those of a constant feature are 0
LAGS, RIDGE = 5, 50.0
PCA_SHARE, PCA_LAGS = 0.9, 20
ALPHA = 0.1
TRAIN_MIN = 2 * PCA_LAGS  # events below which nothing is fitted

#: Residuals of both parts: (train z, test z) -> (train residuals, test residuals).
Residuals = Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]


def scores(name: str, train: NDArray[Any], test: NDArray[Any], seed: int = 0) -> NDArray[Any]:
    """Scores (T,) of the test part by the baseline `name`.

    Args:
        name: a key of `BASELINES`.
        train: (S, F) raw values of the entity, NaN where missing.
        test: (T, F) raw values of the same entity after them.
        seed: seed of the random baseline.
    """
    residuals = BASELINES[name]
    if residuals is None:
        return np.random.default_rng(seed).random(len(test))
    if len(train) < TRAIN_MIN:
        return np.zeros(len(test))
    train, test = filled(train.astype(np.float64)), filled(test.astype(np.float64))
    mean, std = train.mean(axis=0), np.where(np.ptp(train, axis=0) > 0, train.std(axis=0), 1.0)
    train_z, test_z = (np.clip((part - mean) / std, -CLIP, CLIP) for part in (train, test))
    train_residual, residual = residuals(train_z, test_z)
    variance = np.maximum(train_residual.var(axis=0), VARIANCE_MIN)
    return smoothed(np.sqrt(np.minimum(residual**2 / variance, CAP).mean(axis=1)))


def smoothed(values: NDArray[Any]) -> NDArray[Any]:
    """The exponentially weighted mean of all values so far; it starts at the first value."""
    start = [(1 - ALPHA) * values[0]]
    means: NDArray[Any] = lfilter([ALPHA], [1.0, ALPHA - 1.0], values, zi=start)[0]
    return means


def _standard(train: NDArray[Any], test: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return train, test


def _ridge(train: NDArray[Any], test: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Residuals of one regression of all features on their previous values."""
    taps = _with_lags(train, LAGS)
    gram = taps.T @ taps + RIDGE * np.eye(taps.shape[1])
    coefficients = np.linalg.solve(gram, taps.T @ train[LAGS:])
    following = np.concatenate([train[-LAGS:], test])
    return train[LAGS:] - taps @ coefficients, test - _with_lags(following, LAGS) @ coefficients


def _with_lags(z: NDArray[Any], lags: int) -> NDArray[Any]:
    """Design matrix (T - lags, lags F + 1): the `lags` events before each event, and a 1."""
    past = [z[lags - lag : len(z) - lag] for lag in range(1, lags + 1)]
    return np.concatenate([*past, np.ones((len(z) - lags, 1))], axis=1)


def _pca(train: NDArray[Any], test: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The part of each event outside the span of the first principal components."""
    if train.shape[1] == 1:
        following = np.concatenate([train[-PCA_LAGS:], test])
        train, test = (
            np.lib.stride_tricks.sliding_window_view(part[:, 0], PCA_LAGS + 1)
            for part in (train, following)
        )
    _, singular, basis = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)
    share = np.cumsum(singular**2) / max(float(np.sum(singular**2)), 1e-12)
    span = basis[: int(np.searchsorted(share, PCA_SHARE)) + 1]
    return train - train @ span.T @ span, test - test @ span.T @ span


BASELINES: dict[str, Residuals | None] = {
    "random": None,
    "z-score": _standard,
    "ridge": _ridge,
    "pca": _pca,
}
