"""Small artifacts for tests, made without torch and without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models import artifact, calibration, drift
from models.forecaster import Forecaster, ScorePriors, weight_shapes
from models.kernel import TERMS, ForecasterSpec
from models.linear import Linear
from models.normaliser import NormaliserSpec, Priors
from models.schema import Feature, Schema

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
        np.full(features, 1e-2, np.float32),
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


def make_artifact(directory: Path, features: int = 3, hidden: int = 8, seed: int = 0) -> Path:
    """Write an artifact for data of about mean 0 and variance 1; returns `directory`."""
    rng = np.random.default_rng(seed)
    forecaster = make_forecaster(features, hidden, seed)
    scores = np.abs(rng.normal(1.0, 0.2, 4_000)).astype(np.float32)
    reference = drift.fit(
        rng.normal(size=(4_000, features)).astype(np.float32), scores, scores.astype(np.float32)
    )
    artifact.write(
        directory,
        forecaster,
        calibration.fit(scores),
        reference,
        washout_events=20,
        training={"data": {"name": "random", "hash": "0" * 64}, "seed": seed},
    )
    return directory
