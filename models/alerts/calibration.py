"""Turns a score into its rarity, 1 in N events; fitted on held-out, time-ordered scores.

In the bulk the rarity is the empirical tail frequency, on a grid. Beyond the tail level it
follows a generalised Pareto tail (peaks over threshold; Hosking and Wallis 1987,
"Parameter and Quantile Estimation for the Generalized Pareto Distribution"), fitted by
probability-weighted moments. N is comparable across model versions; a score is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.errors import ArtifactError, TrainingError

TAIL_LEVEL = 0.98  # quality.md section 6: peaks over the .98 quantile
GRID_POINTS = 512
RARITY_MAX = 1e9  # the tail has no information beyond it; also makes N finite in JSON
SCORES_MIN = 500  # below this the tail holds fewer than ten peaks

# A shape below 0 ends the tail at a largest score, above which N would be infinite. Above 0.5
# the variance is infinite and single peaks dominate the fit.
SHAPE_RANGE = (0.0, 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Monotone map between scores and rarities."""

    #: (G,) float64, ascending scores of the bulk.
    grid: NDArray[Any]
    #: (G,) float64, log of the rarity N at each score of the grid, ascending from 0.
    log_rarity: NDArray[Any]
    #: Score at which the Pareto tail begins; share of events in the tail; its shape and scale.
    tail_start: float
    tail_share: float
    tail_shape: float
    tail_scale: float

    def rarity_1_in_n(self, score: NDArray[Any]) -> NDArray[Any]:
        """Return N such that 1 event in N scores at least this high; float32, 1 to 1e9.

        NaN gets the largest N: a score that cannot be compared must not pass as normal.
        """
        exact = np.asarray(score, np.float64)
        bulk = np.interp(exact, self.grid, self.log_rarity)
        excess = np.maximum(exact - self.tail_start, 0.0) / self.tail_scale
        tail = -np.log(self.tail_share) + self._log_inverse_survival(excess)
        log_n = np.where(exact > self.tail_start, tail, bulk)
        log_n = np.where(np.isnan(exact), np.log(RARITY_MAX), log_n)
        rarity: NDArray[Any] = np.exp(np.clip(log_n, 0.0, np.log(RARITY_MAX)))
        return rarity.astype(np.float32)

    def threshold(self, rarity_1_in_n: float) -> float:
        """Return the score that 1 in `rarity_1_in_n` events exceeds on normal data."""
        log_n = np.log(np.clip(rarity_1_in_n, 1.0, RARITY_MAX))
        beyond = log_n + np.log(self.tail_share)
        if beyond <= 0:
            return float(np.interp(log_n, self.log_rarity, self.grid))
        if self.tail_shape < 1e-9:
            return float(self.tail_start + self.tail_scale * beyond)
        excess = self.tail_scale * np.expm1(self.tail_shape * beyond) / self.tail_shape
        return float(self.tail_start + excess)

    def _log_inverse_survival(self, excess: NDArray[Any]) -> NDArray[Any]:
        """Return -log P(X > excess) of the standard generalised Pareto distribution."""
        if self.tail_shape < 1e-9:
            return excess
        return np.log1p(self.tail_shape * excess) / self.tail_shape

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the calibration as named arrays for the artifact."""
        tail = [self.tail_start, self.tail_share, self.tail_shape, self.tail_scale]
        return {
            "calibration.grid": self.grid,
            "calibration.log_once_in": self.log_rarity,
            "calibration.tail": np.array(tail, np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Calibration:
        """Read what `to_arrays` wrote.

        Raises:
            ArtifactError: the map is not monotone and finite.
        """
        grid, log_rarity = arrays["calibration.grid"], arrays["calibration.log_once_in"]
        tail = arrays["calibration.tail"]
        usable = (
            grid.shape == log_rarity.shape
            and grid.ndim == 1
            and grid.size > 0
            and tail.shape == (4,)
            and all(np.isfinite(a).all() for a in (grid, log_rarity, tail))
            and (np.diff(grid) >= 0).all()
            and (np.diff(log_rarity) >= 0).all()
            and 0 < tail[1] <= 1
            and tail[2] >= 0
            and tail[3] > 0
        )
        if not usable:
            raise ArtifactError(
                "calibration: needs a finite, ascending grid and a tail with share in (0, 1], "
                f"shape >= 0 and scale > 0; got grid {grid.shape} and tail {tail.tolist()}"
            )
        return cls(grid, log_rarity, *(float(value) for value in tail))

    def summary(self) -> dict[str, float]:
        """Return the entry of the calibration in the manifest."""
        return {
            "tail_start": self.tail_start,
            "tail_share": self.tail_share,
            "tail_shape": self.tail_shape,
            "tail_scale": self.tail_scale,
        }


def fit(scores: NDArray[Any]) -> Calibration:
    """Fit on held-out scores, pooled over entities; never on scores of training events.

    Raises:
        TrainingError: there are too few finite scores for a tail.
    """
    ordered = np.sort(np.asarray(scores, np.float64)[np.isfinite(scores)])
    if ordered.size < SCORES_MIN:
        raise TrainingError(
            f"calibration: needs at least {SCORES_MIN} held-out scores; got {ordered.size}"
        )
    # Even steps in log N resolve the rare side of the bulk as finely as the common side.
    log_n = np.linspace(0.0, -np.log(1 - TAIL_LEVEL), GRID_POINTS)
    grid = np.quantile(ordered, 1 - np.exp(-log_n))
    start = float(grid[-1])
    peaks = ordered[ordered > start] - start
    shape, scale = _fit_pareto(peaks) if peaks.size else (0.0, max(abs(start), 1.0) * 1e-3)
    return Calibration(grid, log_n, start, 1 - TAIL_LEVEL, shape, scale)


def _fit_pareto(peaks: NDArray[Any]) -> tuple[float, float]:
    """Return shape and scale of ascending `peaks` by probability-weighted moments."""
    n = peaks.size
    mean = peaks.mean()
    plotting = (np.arange(1, n + 1) - 0.35) / n
    weighted = np.mean((1 - plotting) * peaks)
    excess = mean - 2 * weighted
    shape = 2 - mean / excess if excess > 0 else 0.0  # Hosking's k = -shape
    shape = float(np.clip(shape, *SHAPE_RANGE))
    # This scale preserves the mean of the peaks if the shape was clipped.
    return shape, float(max(mean * (1 - shape), 1e-9))
