"""The arrays that the kernel reads, and the arrays that it works in."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.simd.matmul import COLUMNS, LANES
from streamgauge.models.state.entity_row import RESIDUALS, Vectors


class ModelParams(NamedTuple):
    """The numbers of a model, see `models.forecast.spec`."""

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


class PackedNetwork(NamedTuple):
    """Everything that a step reads and never writes, see `models.forecast.packing`."""

    vectors: Vectors
    params: ModelParams
    #: Packed (2F + 3H, H + 1): mean and log sigma, reset, update and new gate from hidden.
    from_hidden: NDArray[Any]
    #: Packed (3H, F + 1): the same gates from the event.
    from_event: NDArray[Any]
    #: (1 + E, L, F) coefficients and (1 + E, F) smallest variances, flat; index 0 is the fleet.
    coefficients: NDArray[Any]
    var_floors: NDArray[Any]


class EventGroup(NamedTuple):
    """One event each of up to `LANES` entities; arrays (LANES,)."""

    #: int64, row of the entity in the table. All rows are different.
    rows: NDArray[Any]
    #: int64, index of the event in the block.
    events: NDArray[Any]
    #: bool; False leaves statistics and scales unchanged.
    learn: NDArray[Any]
    #: int64, rows of the next group, to prefetch.
    next_rows: NDArray[Any]

    @classmethod
    def new(cls) -> EventGroup:
        """Allocate an empty group."""
        return cls(
            rows=np.zeros(LANES, np.int64),
            events=np.zeros(LANES, np.int64),
            learn=np.zeros(LANES, np.bool_),
            next_rows=np.zeros(LANES, np.int64),
        )


class Scratch(NamedTuple):
    """Memory of one group, and its results; float32 except where stated."""

    #: (F,) each, bounds of raw values.
    lower: NDArray[Any]
    upper: NDArray[Any]
    #: (LANES,) int64, where the hidden vectors begin in the table, and the events in `event`.
    hidden_at: NDArray[Any]
    event_at: NDArray[Any]
    #: (LANES,) int64, part of the day.
    season: NDArray[Any]
    #: (LANES, F) flat, standard values.
    event: NDArray[Any]
    #: (LANES, M) flat, products with either matrix; M is a multiple of `COLUMNS`.
    from_hidden: NDArray[Any]
    from_event: NDArray[Any]
    #: (LANES,): smoothed score, high is anomalous; negative log-likelihood per observed feature,
    #: residuals capped; mean squared step from the previous event in standard units, capped at
    #: `CHANGE_CAP` per feature, 0 without a comparison.
    score: NDArray[Any]
    loss: NDArray[Any]
    change: NDArray[Any]
    #: (LANES, F) flat: contribution of each feature to the unsmoothed score, before the mean over
    #: features; and the forecast made before the event, raw units.
    part: NDArray[Any]
    expected: NDArray[Any]
    #: (LANES, RESIDUALS, F) flat, squared residuals before scaling. Empty unless requested, because
    #: writing them takes time.
    residuals: NDArray[Any]

    @classmethod
    def of(
        cls, bounds: tuple[NDArray[Any], NDArray[Any]], hidden: int, keeps_residuals: bool = False
    ) -> Scratch:
        """Allocate memory for one group of a model with these bounds (F,) of raw values."""
        features = len(bounds[0])
        lower, upper = (np.ascontiguousarray(bound, np.float32) for bound in bounds)

        def per_event(count: int = 1) -> NDArray[Any]:
            return np.zeros(LANES * count, np.float32)

        def products(count: int) -> NDArray[Any]:
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
            residuals=per_event(RESIDUALS * features * keeps_residuals),
        )
