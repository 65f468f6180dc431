"""Standardises raw features per entity, in the same way for training and scoring.

The state of an entity holds a running mean and variance per feature. An entity of the
training data starts from its statistics in the artifact and learns slowly. A new entity starts
from a pooled prior and learns fast; its first event is its first mean. `standardise` comes
before the score and `learn` after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.errors import ConfigError

# Most entities with statistics in an artifact; the bound keeps its size independent of the fleet.
PRIOR_ENTITIES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class NormaliserSpec:
    """How raw values are standardised, and how fast the statistics of an entity change."""

    #: Standard values are clipped to [-clip, clip]; min-max scaled telemetry needs it.
    clip: float = 20.0
    #: Least learning rate per event; its inverse is the memory in events.
    rate_min: float = 1e-4
    #: Number of events that the pooled variance stands for in a new entity.
    prior_events: float = 4.0

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ConfigError(f"normaliser: clip must be positive; got {self.clip}")
        if not 0 < self.rate_min <= 1:
            raise ConfigError(f"normaliser: rate_min must be in (0, 1]; got {self.rate_min}")
        if not self.prior_events >= 1:
            raise ConfigError(f"normaliser: prior_events must be >= 1; got {self.prior_events}")


@dataclass(frozen=True, slots=True, eq=False)
class Priors:
    """The statistics that an entity starts from: pooled, or from its training data."""

    #: (F,) float32 mean and variance for unknown entities.
    mean: NDArray[Any]
    var: NDArray[Any]
    #: (1 + E, F) float32, lower bounds of standard deviations: for unknown entities, then for each
    #: known entity.
    std_floor: NDArray[Any]
    #: Known entities, in the order of the arrays below.
    entity_ids: tuple[str, ...]
    #: (E, F) float32 each.
    entity_mean: NDArray[Any]
    entity_var: NDArray[Any]


def fit_priors(entity_ids: Sequence[str], values: Sequence[NDArray[Any]]) -> Priors:
    """Return statistics of each entity's raw `values` (T, F), NaN where missing, and their pool.

    Sums are float64: with raw counters of 1e9, float32 has no digits left for a variance.
    """
    stats = [_moments(series) for series in values]
    mean = np.stack([m for m, _ in stats])  # (E, F)
    var = np.stack([v for _, v in stats])  # (E, F)
    pooled_mean, pooled_var = mean.mean(axis=0), var.mean(axis=0)
    first = slice(0, PRIOR_ENTITIES_MAX)
    mean, var = mean[first], var[first]
    floor = _std_floor(np.vstack([pooled_mean, mean]), np.vstack([pooled_var, var]))
    single = np.float32
    return Priors(
        mean=pooled_mean.astype(single),
        var=np.maximum(pooled_var, floor[0] ** 2).astype(single),
        std_floor=floor.astype(single),
        entity_ids=tuple(entity_ids)[first],
        entity_mean=mean.astype(single),
        entity_var=np.maximum(var, floor[1:] ** 2).astype(single),
    )


def _std_floor(mean: NDArray[Any], var: NDArray[Any]) -> NDArray[Any]:
    """Return lower bounds of standard deviations (1 + E, F) of the pool and of each entity.

    The bound of an entity follows from its deviation. One feature may stand for quantities of
    different scale (the benchmark NAB mixes shares and byte counts), and a bound from the largest
    would hide changes of all others. Only a feature that is constant in an entity takes the
    bound of the pool.
    """
    floor = np.maximum(1e-2 * np.sqrt(var), 1e-5 * np.abs(mean))
    # For a constant feature, any visible change must count, independent of its unit.
    constant = np.maximum(1e-3 * np.abs(mean[:1]), 1e-3)
    floor[:1] = np.where(var[:1] > 0, floor[:1], constant)
    return np.where(var > 0, floor, floor[:1])


def _moments(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return mean and variance (F,) of the finite values of each column; 0 without any."""
    observed = np.isfinite(values)
    count = np.maximum(observed.sum(axis=0), 1)  # (F,)
    exact = np.where(observed, values, 0.0).astype(np.float64)  # (T, F)
    mean = exact.sum(axis=0) / count
    deviation = np.where(observed, exact - mean, 0.0)
    return mean, (deviation**2).sum(axis=0) / count


class Normaliser:
    """Standardises (B, F) arrays of one fixed B, in place; never sums across rows."""

    def __init__(
        self,
        spec: NormaliserSpec,
        bounds: tuple[NDArray[Any], NDArray[Any]],
        rows: int,
    ) -> None:
        self.spec = spec
        self._lower, self._upper = bounds
        self._is_bounded = bool(np.isfinite(bounds).any())
        self._scratch = np.empty((rows, len(self._lower)), np.float32)

    def standardise(
        self,
        x: NDArray[Any],
        mean: NDArray[Any],
        var: NDArray[Any],
        *,
        weight: NDArray[Any],
        z: NDArray[Any],
        std: NDArray[Any],
    ) -> None:
        """Write standard values to `z` and the standard deviations used to `std`.

        Args:
            x: (B, F) raw, NaN = missing, which stays NaN in `z`.
            mean: (B, F); rows with a weight below 1 take their first event as mean, in place.
            var: (B, F), at or above the floor.
            weight: (B, 1) float32, number of events that the statistics stand for.
            z: (B, F) output.
            std: (B, F) output.
        """
        clip = np.float32(self.spec.clip)
        if self._is_bounded:
            x = np.minimum(np.maximum(x, self._lower), self._upper)
        first = weight < 1.0
        if first.any():
            np.copyto(mean, x, where=first & np.isfinite(x))
        np.sqrt(var, out=std)
        np.subtract(x, mean, out=z)
        np.divide(z, std, out=z)
        np.maximum(z, -clip, out=z)
        np.minimum(z, clip, out=z)

    def learn(
        self,
        z: NDArray[Any],
        std: NDArray[Any],
        gain: NDArray[Any],
        *,
        mean: NDArray[Any],
        var: NDArray[Any],
        weight: NDArray[Any],
        var_floor: NDArray[Any],
    ) -> None:
        """Learn from the events of `standardise`, in place.

        Clipped values are learned, so one outlier moves the mean by at most `clip` standard
        deviations times the learning rate. After a lasting change of unit the variance grows
        geometrically, so the statistics still reach the new level.

        Args:
            z: (B, F), finite; missing values may have any finite value.
            std: (B, F) from `standardise`.
            gain: (B, F) 1 where the value is observed and may be learned, else 0.
            mean: (B, F) updated.
            var: (B, F) updated.
            weight: (B, 1) number of events that the statistics stand for; the caller adds to it.
            var_floor: (B, F) lower bound of `var`.
        """
        scratch = self._scratch
        rate_min = np.float32(self.spec.rate_min)
        np.multiply(z, std, out=scratch)
        scratch *= gain
        scratch *= np.maximum(np.float32(1.0) / (weight + np.float32(1.0)), rate_min)
        mean += scratch
        np.multiply(z, z, out=scratch)
        scratch -= np.float32(1.0)
        scratch *= gain
        # Before the first event there is no mean to deviate from.
        scratch *= self.spread_rate(weight) * (weight >= np.float32(1.0))
        scratch += np.float32(1.0)
        var *= scratch
        np.maximum(var, var_floor, out=var)

    def spread_rate(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Return the learning rate of variances and residual scales, which start from a prior."""
        prior = np.float32(self.spec.prior_events)
        rate: NDArray[Any] = np.maximum(
            np.float32(1.0) / (weight + prior), np.float32(self.spec.rate_min)
        )
        return rate
