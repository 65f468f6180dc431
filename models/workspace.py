"""What the kernel reads, and the memory it works in.

The features of an event are worked on in chunks. All distances in a chunk are constants, or
LLVM would have to ask at run time whether arrays overlap, and would not vectorise at all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.product import LANES, ROWS, pack
from models.row import TERMS, Vectors, vectors_of
from models.spec import ForecasterSpec

CHUNK = 64
# Where the values of a chunk begin in `Scratch.work`, and how long it is.
(
    MEAN, VAR, SCALE, SCALE_LINEAR, USUAL, LAG, X, LINEAR, HEAD, LOG_SIGMA,
    FLOOR, LOWER, UPPER, Z, GAIN, MASK, RATIO, RATIO_LINEAR, LEVEL, PART, EXPECTED, OFF,
    OFF_LINEAR, TOTAL, COUNT, LOSS, CHANGE, AREA,
) = range(0, 28 * CHUNK, CHUNK)  # fmt: skip


class Network(NamedTuple):
    """All that a step reads and never writes, as compiled code sees it."""

    at: Vectors
    lags: int
    season_parts: int
    #: Packed (2F + 3H, H + 1): mean and log sigma, reset, update and new gate from hidden.
    from_hidden: np.ndarray
    #: Packed (3H, F + 1): the same gates from the event.
    from_event: np.ndarray
    #: (1 + E, L, F) coefficients and (1 + E, F) smallest variances, the fleet's first; flat.
    coefficients: np.ndarray
    var_floors: np.ndarray
    clip: np.float32
    cap: np.float32
    level_weight: np.float32
    season_rate_min: np.float32
    rate_min: np.float32
    prior_events: np.float32
    alpha_fast: np.float32
    alpha_slow: np.float32

    @classmethod
    def of(
        cls,
        spec: ForecasterSpec,
        weights: dict[str, np.ndarray],
        coefficients: np.ndarray,
        std_floor: np.ndarray,
        dtype: np.dtype,
    ) -> Network:
        """Lay out the arrays that `models.forecaster.weight_shapes` names for rows of `dtype`."""

        def biased(name: str, suffix: str = "") -> np.ndarray:
            weight, bias = weights[f"{name}weight{suffix}"], weights[f"{name}bias{suffix}"]
            return np.hstack([weight, bias[:, None]])

        hidden = [biased("mean."), biased("log_sigma."), biased("gru.", "_hh")]
        norm, single = spec.normaliser, np.float32
        return cls(
            vectors_of(dtype),
            spec.lags,
            spec.season_parts,
            pack(np.vstack(hidden)),
            pack(biased("gru.", "_ih")),
            np.ascontiguousarray(coefficients, single).reshape(-1),
            np.square(std_floor, dtype=single).reshape(-1),
            single(norm.clip),
            single(spec.cap),
            spec.level_weight_of(std_floor.shape[1]),
            single(1.0 / spec.season_events),
            single(norm.rate_min),
            single(norm.prior_events),
            single(spec.alphas[0]),
            single(spec.alphas[1]),
        )


class Scratch(NamedTuple):
    """What a group is worked on in, and what it says; all float32."""

    #: (H + 1, LANES) and (F + 1, LANES), below each a row of ones, which meets the biases.
    hidden: np.ndarray
    event: np.ndarray
    #: (M, LANES) products with either.
    from_hidden: np.ndarray
    from_event: np.ndarray
    #: The chunks of one event, one behind the other.
    work: np.ndarray
    #: (LANES,): smoothed score, high is anomalous; negative log-likelihood per observed feature,
    #: residuals capped; mean squared step from the last event, standard units, each at most
    #: `CHANGE_CAP`, 0 without a comparison.
    score: np.ndarray
    loss: np.ndarray
    change: np.ndarray
    #: (LANES, F) flat: each feature's part of the event's own score, before the mean over features;
    #: and in raw units the forecast made before the event came.
    part: np.ndarray
    expected: np.ndarray
    #: (LANES, TERMS, F) flat, squared residuals before any scale; or empty, they cost time.
    residuals: np.ndarray

    @classmethod
    def of(
        cls, bounds: tuple[np.ndarray, np.ndarray], hidden: int, keeps_residuals: bool = False
    ) -> Scratch:
        """For one group of a model with these bounds (F,) of raw values."""
        features = len(bounds[0])
        work = np.zeros((-(-features // CHUNK), AREA // CHUNK, CHUNK), np.float32)
        for slot in (VAR, SCALE, SCALE_LINEAR):
            work[:, slot // CHUNK] = 1.0
        work[:, X // CHUNK] = np.nan  # where there is no feature there is no value
        for slot, bound in zip((LOWER, UPPER), bounds, strict=True):
            for chunk, start in enumerate(range(0, features, CHUNK)):
                here = bound[start : start + CHUNK]
                work[chunk, slot // CHUNK, : len(here)] = here

        def lanes(count: int) -> np.ndarray:
            return np.ones((-(-count // ROWS) * ROWS, LANES), np.float32)

        def per_event(count: int = 1) -> np.ndarray:
            return np.zeros(LANES * count, np.float32)

        return cls(
            hidden=np.ones((hidden + 1, LANES), np.float32),
            event=np.ones((features + 1, LANES), np.float32),
            from_hidden=lanes(2 * features + 3 * hidden),
            from_event=lanes(3 * hidden),
            work=work.reshape(-1),
            score=per_event(),
            loss=per_event(),
            change=per_event(),
            part=per_event(features),
            expected=per_event(features),
            residuals=per_event(TERMS * features * keeps_residuals),
        )
