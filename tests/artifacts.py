"""Small artifacts for tests, made without torch and without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models import artifact, calibration, drift, thresholds
from models.forecaster import Forecaster, ScorePriors, weight_shapes
from models.linear import Linear
from models.normaliser import NormaliserSpec, Priors
from models.row import TERMS
from models.schema import Feature, Schema
from models.spec import ForecasterSpec

EVENTS, WARMUP = 1_000, 50  # of each entity that an artifact is calibrated on

KNOWN_ENTITIES = ("known-0", "known-1")  # entities the artifact has statistics of


def make_forecaster(
    features: int = 3,
    hidden: int = 8,
    seed: int = 0,
    lags: int = 5,
    missing: str = "allow",
    normaliser: NormaliserSpec | None = None,
) -> Forecaster:
    """A forecaster with random weights for data of about mean 0 and variance 1."""
    rng = np.random.default_rng(seed)
    schema = Schema(tuple(Feature(f"f{i:02d}") for i in range(features)), missing)
    spec = ForecasterSpec(hidden=hidden, lags=lags, normaliser=normaliser or NormaliserSpec())
    weights = {
        name: rng.normal(scale=0.3 / np.sqrt(shape[-1]), size=shape).astype(np.float32)
        for name, shape in weight_shapes(spec, features).items()
    }
    known = len(KNOWN_ENTITIES)
    priors = Priors(
        np.zeros(features, np.float32),
        np.ones(features, np.float32),
        np.full((1 + known, features), 1e-2, np.float32),
        KNOWN_ENTITIES,
        rng.normal(size=(known, features)).astype(np.float32),
        np.full((known, features), 0.5, np.float32),
    )
    decay = 0.5 ** np.arange(1, lags + 1, dtype=np.float32)
    pooled = np.repeat(decay[:, None], features, axis=1)
    linear = Linear(pooled, np.repeat(pooled[None], known, axis=0))
    scale = np.ones((TERMS, features), np.float32)
    scores = ScorePriors(scale, np.repeat(scale[None], known, axis=0), 1.0)
    return Forecaster(schema, spec, weights, linear, priors, scores)


def make_artifact(
    directory: Path,
    features: int = 3,
    hidden: int = 8,
    seed: int = 0,
    washout: int = 20,
    calmer: float = 1.0,
) -> Path:
    """Write an artifact for data of about mean 0 and variance 1; returns `directory`.

    It is calibrated on scores of noise, times `calmer`: on calmer data than that.
    """
    rng = np.random.default_rng(seed)
    forecaster = make_forecaster(features, hidden, seed)
    scores, minutes = _scores_of_noise(forecaster, rng)
    scores *= np.float32(calmer)
    noise = rng.normal(size=(scores.size, features)).astype(np.float32)
    reference = drift.fit(noise, scores.ravel(), scores.ravel())
    artifact.write(
        directory,
        forecaster,
        calibration.fit(scores.ravel()),
        thresholds.fit(list(scores[: len(KNOWN_ENTITIES)]), [minutes] * len(KNOWN_ENTITIES)),
        reference,
        washout_events=washout,
        training={"data": {"name": "random", "hash": "0" * 64}, "seed": seed},
    )
    return directory


def _scores_of_noise(
    forecaster: Forecaster, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, T) of entities that only ever send noise, and their event times (T,)."""
    count = 16
    rows = np.zeros(count, forecaster.dtype)
    forecaster.fill_new(rows, ["never seen"] * count)
    minutes, learn = np.arange(1, EVENTS + 1) * 60_000_000, np.ones(count, bool)
    noise = rng.normal(size=(EVENTS, count, forecaster.schema.size)).astype(np.float32)
    scores = [
        forecaster.step(x, rows, np.full(count, time_us), learn).score
        for x, time_us in zip(noise, minutes.tolist(), strict=True)
    ]
    return np.stack(scores, axis=1)[:, WARMUP:], minutes[WARMUP:]
