"""What the kernel reads, and the memory it works in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamgauge.models.forecast.spec import ForecasterSpec
from streamgauge.models.simd.matmul import COLUMNS, LANES, pack
from streamgauge.models.state.entity_row import TERMS, Vectors, vectors_of


class ModelParams(NamedTuple):
    """The numbers of a model."""

    lags: int
    season_parts: int
    clip: np.float32
    cap: np.float32
    level_weight: np.float32
    season_rate_min: np.float32
    rate_min: np.float32
    prior_events: np.float32
    alpha_fast: np.float32
    alpha_slow: np.float32

    @classmethod
    def of(cls, spec: ForecasterSpec, features: int) -> ModelParams:
        """As compiled code takes them."""
        norm, single = spec.normaliser, np.float32
        return cls(
            spec.lags,
            spec.season_parts,
            single(norm.clip),
            single(spec.cap),
            spec.level_weight_of(features),
            single(1.0 / spec.season_events),
            single(norm.rate_min),
            single(norm.prior_events),
            single(spec.alphas[0]),
            single(spec.alphas[1]),
        )


class PackedNetwork(NamedTuple):
    """All that a step reads and never writes, as compiled code sees it."""

    at: Vectors
    terms: ModelParams
    #: Packed (2F + 3H, H + 1): mean and log sigma, reset, update and new gate from hidden.
    from_hidden: np.ndarray
    #: Packed (3H, F + 1): the same gates from the event.
    from_event: np.ndarray
    #: (1 + E, L, F) coefficients and (1 + E, F) smallest variances, the fleet's first; flat.
    coefficients: np.ndarray
    var_floors: np.ndarray

    @classmethod
    def of(
        cls,
        spec: ForecasterSpec,
        weights: dict[str, np.ndarray],
        coefficients: np.ndarray,
        std_floor: np.ndarray,
        dtype: np.dtype,
    ) -> PackedNetwork:
        """Lay out the arrays that `models.forecaster.weight_shapes` names for rows of `dtype`."""

        def biased(name: str, suffix: str = "") -> np.ndarray:
            weight, bias = weights[f"{name}weight{suffix}"], weights[f"{name}bias{suffix}"]
            return np.hstack([weight, bias[:, None]])

        hidden = [biased("mean."), biased("log_sigma."), biased("gru.", "_hh")]
        return cls(
            vectors_of(dtype),
            ModelParams.of(spec, std_floor.shape[1]),
            pack(np.vstack(hidden)),
            pack(biased("gru.", "_ih")),
            np.ascontiguousarray(coefficients, np.float32).reshape(-1),
            np.square(std_floor, dtype=np.float32).reshape(-1),
        )


class Scratch(NamedTuple):
    """What a group is worked on in, and what it says; all float32 but the places."""

    #: (F,) each, bounds of raw values.
    lower: np.ndarray
    upper: np.ndarray
    #: (LANES,) int64, where the hidden vectors lie in the table, and the events in `event`.
    hidden_at: np.ndarray
    event_at: np.ndarray
    #: (LANES,) int64, the part of the day.
    season: np.ndarray
    #: (LANES, F) flat, standard values.
    event: np.ndarray
    #: (LANES, M) flat, products with either; M is a multiple of `COLUMNS`.
    from_hidden: np.ndarray
    from_event: np.ndarray
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
        lower, upper = (np.ascontiguousarray(bound, np.float32) for bound in bounds)

        def per_event(count: int = 1) -> np.ndarray:
            return np.zeros(LANES * count, np.float32)

        def products(count: int) -> np.ndarray:
            return per_event(-(-count // COLUMNS) * COLUMNS)

        return cls(
            lower=lower,
            upper=upper,
            hidden_at=np.zeros(LANES, np.int64),
            event_at=np.arange(LANES) * features,
            season=np.zeros(LANES, np.int64),
            event=per_event(features),
            from_hidden=products(2 * features + 3 * hidden),
            from_event=products(3 * hidden),
            score=per_event(),
            loss=per_event(),
            change=per_event(),
            part=per_event(features),
            expected=per_event(features),
            residuals=per_event(TERMS * features * keeps_residuals),
        )
