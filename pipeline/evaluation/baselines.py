"""Detectors that a model has to beat, fitted per entity on its train part, scoring causally.

    random    uniform noise, the level that says nothing
    z-score   squared standard values
    ridge     what a ridge autoregression on the last five events of all features misses
    pca       what the first components with 90 % of the variance miss

All share what makes them comparable: standard values by the train part's mean and standard
deviation, clipped; squared residuals over the train part's residual variance, capped; their
mean over features; its root, smoothed. A single feature has no components: there PCA sees
the last values beside the newest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import lfilter

from streamgauge.models.training.fit import filled

CLIP, CAP = 20.0, 100.0
VARIANCE_MIN = 1e-2  # of residuals, in standard units: a constant feature misses nothing
LAGS, RIDGE = 5, 50.0
PCA_SHARE, PCA_LAGS = 0.9, 20
ALPHA = 0.1
TRAIN_MIN = 2 * PCA_LAGS  # events below which nothing is fitted

#: Residuals of both parts: (train z, test z) -> (train residuals, test residuals).
Residuals = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def scores(name: str, train: np.ndarray, test: np.ndarray, seed: int = 0) -> np.ndarray:
    """Scores (T,) of the test part by the baseline `name`.

    Args:
        name: a key of `BASELINES`.
        train: (S, F) raw values of the same entity, NaN where missing.
        test: (T, F) raw values that follow.
        seed: for the random one.
    """
    residuals = BASELINES[name]
    if residuals is None:
        return np.random.default_rng(seed).random(len(test))
    if len(train) < TRAIN_MIN:
        return np.zeros(len(test))
    train, test = filled(train.astype(np.float64)), filled(test.astype(np.float64))
    mean, std = train.mean(axis=0), np.where(np.ptp(train, axis=0) > 0, train.std(axis=0), 1.0)
    before, after = (np.clip((part - mean) / std, -CLIP, CLIP) for part in (train, test))
    missed, residual = residuals(before, after)
    variance = np.maximum(missed.var(axis=0), VARIANCE_MIN)
    return smoothed(np.sqrt(np.minimum(residual**2 / variance, CAP).mean(axis=1)))


def smoothed(values: np.ndarray) -> np.ndarray:
    """Exponentially weighted mean of all values so far, beginning at the first."""
    start = [(1 - ALPHA) * values[0]]
    return lfilter([ALPHA], [1.0, ALPHA - 1.0], values, zi=start)[0]


def _standard(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return train, test


def _ridge(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One regression of all features on their last values."""
    taps = _with_lags(train, LAGS)
    gram = taps.T @ taps + RIDGE * np.eye(taps.shape[1])
    coefficients = np.linalg.solve(gram, taps.T @ train[LAGS:])
    following = np.concatenate([train[-LAGS:], test])
    return train[LAGS:] - taps @ coefficients, test - _with_lags(following, LAGS) @ coefficients


def _with_lags(z: np.ndarray, lags: int) -> np.ndarray:
    """The last `lags` events (T - lags, lags F) and a one before each event but the first."""
    past = [z[lags - lag : len(z) - lag] for lag in range(1, lags + 1)]
    return np.concatenate([*past, np.ones((len(z) - lags, 1))], axis=1)


def _pca(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the span of the first components."""
    if train.shape[1] == 1:
        following = np.concatenate([train[-PCA_LAGS:], test])
        train, test = (
            np.lib.stride_tricks.sliding_window_view(part[:, 0], PCA_LAGS + 1)
            for part in (train, following)
        )
    _, singular, basis = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)
    share = np.cumsum(singular**2) / max(float(np.sum(singular**2)), 1e-12)
    kept = basis[: int(np.searchsorted(share, PCA_SHARE)) + 1]
    return train - train @ kept.T @ kept, test - test @ kept.T @ kept


BASELINES: dict[str, Residuals | None] = {
    "random": None,
    "z-score": _standard,
    "ridge": _ridge,
    "pca": _pca,
}
