"""Proves at start-up that a score does not depend on its neighbours in the tile."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import numpy as np

from models.errors import ArtifactError
from models.forecaster import Forecaster
from models.kernel import LANES, TILES, TileScores

EVENTS = 12  # per slot: enough for lags, hidden and statistics to feed back into the score
STEP_US = 3_700_000_000  # between events: a new part of the day every third
SEED = 20_240_917  # of the known sequence; part of every stored digest

# Two CPU families may round differently in every operation of 12 events; more is a fault.
KNOWN_TOLERANCE = 1e-4

PROBE = "\0self-test"  # no real entity: control characters are refused in entity ids


def self_test(forecaster: Forecaster) -> str:
    """Score the known sequence in every slot of every tile size, among changing neighbours.

    Returns:
        SHA-256 over everything the sequence gave, scores and state, 64 hex digits.

    Raises:
        ArtifactError: two slots differ in a bit.
    """
    expected: bytes | None = None
    for rows in TILES:
        known, crowd = _sequences(forecaster, rows)
        for turn in range(LANES):
            slots = np.arange(turn, rows, LANES)
            for slot, found in _run(forecaster, known, np.roll(crowd, turn, axis=1), slots):
                if expected is None:
                    expected = found
                elif found != expected:
                    raise ArtifactError(
                        f"self-test: slot {slot} of {rows} must give the bits of slot 0; they "
                        "differ; run with one BLAS thread (OPENBLAS_NUM_THREADS=1) and the "
                        "pinned numpy"
                    )
    assert expected is not None
    return hashlib.sha256(expected).hexdigest()


def sequences_agree(forecaster: Forecaster) -> bool:
    """Tell whether many events of one entity in one call get the bits that tiles give them."""
    kernel = forecaster.sequence
    assert kernel is not None
    _, crowd = _sequences(forecaster, TILES[0])
    events = np.nan_to_num(np.concatenate(crowd)[: LANES * 3 + 1], posinf=0.0)
    when = np.arange(len(events)) * STEP_US
    for learn in (True, False):
        rows = np.zeros(TILES[0], np.dtype(list(forecaster.fields), align=True))
        forecaster.fill_new(rows, [PROBE] * len(rows))
        tile, told = np.zeros((TILES[0], events.shape[1]), np.float32), []
        for i, event in enumerate(events):
            if i == 1:  # the first event is unlike all others, and never part of a sequence
                row = rows[:1].copy()
            tile[0] = event
            now = np.full(len(rows), when[i], np.int64)
            told.append(forecaster.step(tile, rows, now, np.full(len(rows), learn or i == 0)))
        together = kernel.step(events[1:], row, when[1:], learn)
        for name in (one.name for one in fields(TileScores)):
            apart = np.stack([getattr(one, name)[0] for one in told[1:]])
            if apart.tobytes() != getattr(together, name).tobytes():
                return False
        if any(row[n].tobytes() != rows[n][:1].tobytes() for n, *_ in forecaster.fields):
            return False
    return True


def known_scores(forecaster: Forecaster) -> np.ndarray:
    """Scores of the known sequence, (EVENTS,) float32, for comparison across CPU families."""
    known, crowd = _sequences(forecaster, TILES[0])
    [(_, found)] = _run(forecaster, known, crowd, np.array([0]))
    return np.frombuffer(found, "<f4")[:EVENTS].copy()


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
    rows = np.zeros(count, np.dtype(list(forecaster.fields)))
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
        rest = [getattr(one, f.name)[slot] for one in told for f in fields(TileScores)[1:]]
        pieces = [scores, *(np.asarray(part, "<f4") for part in rest)]
        data = b"".join(piece.tobytes() for piece in pieces) + rows[slot].tobytes()
        found.append((slot, data))
    return found
