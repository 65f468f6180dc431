"""Proves at start-up that a score depends neither on its neighbours nor on the machine."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import numpy as np

from streamgauge.models.errors import ArtifactError
from streamgauge.models.forecast.forecaster import Forecaster, Scores
from streamgauge.models.simd.matmul import LANES

# Of crowds: almost alone, a full group, several of which one is not. Not 1: an array of one
# record is another type to numba, for which it would compile all anew.
SIZES = (2, LANES, 3 * LANES - 5)
EVENTS = 12  # per slot: enough for lags, hidden and statistics to feed back into the score
STEP_US = 3_700_000_000  # between events: a new part of the day every third
SEED = 20_240_917  # of the known sequence; part of every stored digest

PROBE = "\0self-test"  # no real entity: control characters are refused in entity ids


def self_test(forecaster: Forecaster) -> str:
    """Score the known sequence in every lane, among changing neighbours.

    Returns:
        SHA-256 over everything the sequence gave, scores and state, 64 hex digits.

    Raises:
        ArtifactError: two slots differ in a bit.
    """
    expected: bytes | None = None
    for rows in SIZES:
        known, crowd = _sequences(forecaster, rows)
        for turn in range(min(LANES, rows)):
            slots = np.arange(turn, rows, LANES)
            for slot, found in _run(forecaster, known, np.roll(crowd, turn, axis=1), slots):
                if expected is None:
                    expected = found
                elif found != expected:
                    raise ArtifactError(
                        f"self-test: slot {slot} of {rows} must give the bits of slot 0; they "
                        "differ; install the pinned numba"
                    )
    assert expected is not None
    return hashlib.sha256(expected).hexdigest()


def _sequences(forecaster: Forecaster, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The known sequence (EVENTS, F) and neighbours (EVENTS, rows, F), NaN rows included."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    priors = forecaster.priors
    std = np.sqrt(priors.var)
    known = priors.mean + std * rng.normal(size=(EVENTS, len(std)))
    crowd = priors.mean + std * rng.normal(scale=30.0, size=(EVENTS, rows, len(std)))
    known[2, 0] = np.nan  # a missing value
    crowd[:, ::7] = np.nan
    crowd[:, 3::11] = np.inf
    return known.astype(np.float32), crowd.astype(np.float32)


def _run(
    forecaster: Forecaster, known: np.ndarray, crowd: np.ndarray, slots: np.ndarray
) -> list[tuple[int, bytes]]:
    """All bytes that the known sequence produces in each of `slots`: scores, then the rest."""
    count = crowd.shape[1]
    rows = np.zeros(count, forecaster.dtype)
    forecaster.fill_new(rows, [PROBE] * count)
    learn = np.arange(count) % 5 != int(slots[0]) % 5  # neighbours differ in this as well
    learn[slots] = True
    told = []
    for i in range(EVENTS):
        x = crowd[i].copy()
        x[slots] = known[i]
        event_time_us = (i + np.arange(count)) * STEP_US  # neighbours have other times of day
        event_time_us[slots] = i * STEP_US
        told.append(forecaster.step(x, rows, event_time_us, learn))
    found = []
    for slot in slots.tolist():
        scores = np.array([one.score[slot] for one in told], "<f4")
        rest = [getattr(one, f.name)[slot] for one in told for f in fields(Scores)[1:]]
        pieces = [scores, *(np.asarray(part, "<f4") for part in rest)]
        data = b"".join(piece.tobytes() for piece in pieces) + rows[slot].tobytes()
        found.append((slot, data))
    return found
