"""Standardises raw features per entity, the same way in training and in scoring.

Every entity carries a running mean and variance per feature in its state. An entity
seen in training starts from the artifact's statistics of it and learns slowly; a new
one starts from a pooled prior and learns fast: its first event is its first mean.
Compare first, learn after: `standardise` before the score, `learn` behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamgauge.models.errors import ConfigError

# Entities whose own statistics an artifact carries; more would make it grow with the fleet.
PRIOR_ENTITIES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class NormaliserSpec:
    """How raw values become standard ones, and how fast an entity's statistics move."""

    #: Standard values are clipped to [-clip, clip]; min-max scaled telemetry needs it.
    clip: float = 20.0
    #: Slowest learning rate, per event; its inverse is the memory in events.
    rate_min: float = 1e-4
    #: How many events the pooled variance counts for in a new entity.
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
    """What statistics an entity starts from: pooled ones, or its own from training."""

    #: (F,) float32 mean and variance for an entity never seen.
    mean: np.ndarray
    var: np.ndarray
    #: (1 + E, F) float32, standard deviations are never taken smaller: for an entity never
    #: seen, then per entity below.
    std_floor: np.ndarray
    #: Entities seen in training, in the order of the arrays below.
    entity_ids: tuple[str, ...]
    #: (E, F) float32 each.
    entity_mean: np.ndarray
    entity_var: np.ndarray


def fit_priors(entity_ids: Sequence[str], values: Sequence[np.ndarray]) -> Priors:
    """Statistics of each entity's raw `values` (T, F), NaN where missing, and their pool.

    Sums run in float64: raw counters of 1e9 leave no digits for a variance in float32.
    """
    stats = [_moments(one) for one in values]
    mean = np.stack([m for m, _ in stats])  # (E, F)
    var = np.stack([v for _, v in stats])  # (E, F)
    pooled_mean, pooled_var = mean.mean(axis=0), var.mean(axis=0)
    keep = slice(0, PRIOR_ENTITIES_MAX)
    mean, var = mean[keep], var[keep]
    floor = _std_floor(np.vstack([pooled_mean, mean]), np.vstack([pooled_var, var]))
    single = np.float32
    return Priors(
        pooled_mean.astype(single),
        np.maximum(pooled_var, floor[0] ** 2).astype(single),
        floor.astype(single),
        tuple(entity_ids)[keep],
        mean.astype(single),
        np.maximum(var, floor[1:] ** 2).astype(single),
    )


def _std_floor(mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Smallest standard deviations (1 + E, F) from moments of the pool and each entity.

    An entity's floor follows from its own deviation: one feature may stand for quantities
    of different size (the benchmark NAB mixes shares and byte counts), and a floor taken from
    the largest would drown all others. A feature that was constant in an entity, and only that,
    takes the pool's.
    """
    floor = np.maximum(1e-2 * np.sqrt(var), 1e-5 * np.abs(mean))
    # A feature that never moved: any visible jump must count, whatever its unit.
    never = np.maximum(1e-3 * np.abs(mean[:1]), 1e-3)
    floor[:1] = np.where(var[:1] > 0, floor[:1], never)
    return np.where(var > 0, floor, floor[:1])


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (F,) of the finite values of each column; 0 where there is none."""
    observed = np.isfinite(values)
    count = np.maximum(observed.sum(axis=0), 1)  # (F,)
    exact = np.where(observed, values, 0.0).astype(np.float64)  # (T, F)
    mean = exact.sum(axis=0) / count
    deviation = np.where(observed, exact - mean, 0.0)
    return mean, (deviation**2).sum(axis=0) / count


class Normaliser:
    """Works on (B, F) arrays of one fixed B, in place; never sums across rows."""

    def __init__(
        self,
        spec: NormaliserSpec,
        bounds: tuple[np.ndarray, np.ndarray],
        rows: int,
    ) -> None:
        self.spec = spec
        self._lower, self._upper = bounds
        self._is_bounded = bool(np.isfinite(bounds).any())
        self._scratch = np.empty((rows, len(self._lower)), np.float32)

    def standardise(
        self,
        x: np.ndarray,
        mean: np.ndarray,
        var: np.ndarray,
        weight: np.ndarray,
        z: np.ndarray,
        std: np.ndarray,
    ) -> None:
        """Write standard values to `z` and the standard deviations used to `std`.

        Args:
            x: (B, F) raw, NaN = missing, which stays NaN in `z`.
            mean: (B, F); rows of `weight` below 1 take their first event as mean, in place.
            var: (B, F), at or above the floor.
            weight: (B, 1) float32, events the statistics stand for.
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
        z: np.ndarray,
        std: np.ndarray,
        gain: np.ndarray,
        mean: np.ndarray,
        var: np.ndarray,
        weight: np.ndarray,
        var_floor: np.ndarray,
    ) -> None:
        """Fold what `standardise` saw into `mean` and `var`, in place.

        The clipped value is learned, so one wild event moves the mean by at most
        `clip` standard deviations times the rate, and a lasting change of unit is
        still caught up with, since the variance then grows geometrically.

        Args:
            z: (B, F), finite (missing ones filled with anything).
            std: (B, F) from `standardise`.
            gain: (B, F) 1 where the value is observed and may be learned, else 0.
            mean: (B, F) updated.
            var: (B, F) updated.
            weight: (B, 1) events the statistics stood for so far; the caller counts it up.
            var_floor: (B, F) that `var` stays at or above.
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
        # The first event has no mean to deviate from.
        scratch *= self.spread_rate(weight) * (weight >= np.float32(1.0))
        scratch += np.float32(1.0)
        var *= scratch
        np.maximum(var, var_floor, out=var)

    def spread_rate(self, weight: np.ndarray) -> np.ndarray:
        """Learning rate of variances and residual scales, which start from a prior."""
        prior = np.float32(self.spec.prior_events)
        return np.maximum(np.float32(1.0) / (weight + prior), np.float32(self.spec.rate_min))
