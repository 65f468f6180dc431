"""Checks at start-up that scores depend neither on neighbouring events nor on the machine."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.errors import ArtifactError
from streamgauge.models.forecast.forecaster import Forecaster, Scores
from streamgauge.models.simd.matmul import LANES

# Batch sizes: a small one, a full group, and several groups with a partial one. Not 1: numba
# gives an array of a single record another type and would compile all functions for it again.
SIZES = (2, LANES, 3 * LANES - 5)
EVENTS = 12  # per row: enough for lags, hidden and statistics to affect the score
STEP_US = 3_700_000_000  # between events: a new part of the day every third
SEED = 20_240_917  # of the known sequence; part of every stored digest

PROBE = "\0self-test"  # no entity has this name: names may not hold control characters


def self_test(forecaster: Forecaster) -> str:
    """Score the known sequence in every lane, with changing neighbours.

    Returns:
        SHA-256 over all results of the sequence and its final state, 64 hex digits.

    Raises:
        ArtifactError: the results of two rows differ in a bit.
    """
    expected: bytes | None = None
    for rows in SIZES:
        known, neighbours = _sequences(forecaster, rows)
        for lane in range(min(LANES, rows)):
            probes = np.arange(lane, rows, LANES)
            shifted = np.roll(neighbours, lane, axis=1)
            for row, result in _run(forecaster, known, shifted, probes):
                if expected is None:
                    expected = result
                elif result != expected:
                    raise ArtifactError(
                        f"self-test: slot {row} of {rows} must give the bits of slot 0; they "
                        "differ; install the pinned numba"
                    )
    assert expected is not None
    return hashlib.sha256(expected).hexdigest()


def _sequences(forecaster: Forecaster, rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the known sequence (EVENTS, F), and neighbours (EVENTS, rows, F) with NaN rows."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    priors = forecaster.priors
    std = np.sqrt(priors.var)
    known = priors.mean + std * rng.normal(size=(EVENTS, len(std)))
    neighbours = priors.mean + std * rng.normal(scale=30.0, size=(EVENTS, rows, len(std)))
    known[2, 0] = np.nan  # a missing value
    neighbours[:, ::7] = np.nan
    neighbours[:, 3::11] = np.inf
    return known.astype(np.float32), neighbours.astype(np.float32)


def _run(
    forecaster: Forecaster, known: NDArray[Any], neighbours: NDArray[Any], probes: NDArray[Any]
) -> list[tuple[int, bytes]]:
    """Score the known sequence in the rows `probes`; returns each row and the bytes it gave."""
    count = neighbours.shape[1]
    rows = np.zeros(count, forecaster.dtype)
    forecaster.fill_new(rows, [PROBE] * count)
    learn = np.arange(count) % 5 != int(probes[0]) % 5  # neighbours also differ in what they learn
    learn[probes] = True
    steps = []
    for i in range(EVENTS):
        x = neighbours[i].copy()
        x[probes] = known[i]
        event_time_us = (i + np.arange(count)) * STEP_US  # neighbours have other times of day
        event_time_us[probes] = i * STEP_US
        steps.append(forecaster.step(x, rows, event_time_us, learn))
    return [(row, _bytes_of(steps, row) + rows[row].tobytes()) for row in probes.tolist()]


def _bytes_of(steps: list[Scores], row: int) -> bytes:
    """Return the results of one row in all steps: its scores, then the rest step by step."""
    scores = np.array([step.score[row] for step in steps], "<f4")
    rest = [getattr(step, f.name)[row] for step in steps for f in fields(Scores)[1:]]
    return b"".join(np.asarray(part, "<f4").tobytes() for part in (scores, *rest))
