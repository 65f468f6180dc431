"""Histograms of features and scores over fixed edges, and their comparison with training.

Edges are quantiles of the held-out training data, so that each bin holds about the same share
of normal events. Histograms merge by adding integers: exactly, and in any order. KLL and REQ
sketches answer any quantile, but draw random bits when they compact, so that two replays of one
log would differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.errors import ArtifactError
from streamgauge.models.simd.compile_cache import cached_njit

BINS = 32  # for observed values; one more, the last, counts missing ones
QUANTILES = (0.05, 0.5, 0.95)  # live quantiles in a report

# Added to every bin before shares are compared, so that an empty bin has a logarithm.
PSEUDO_COUNT = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class DriftReference:
    """The distribution of the held-out training data: edges, counts and loss."""

    #: (F + 1, BINS) float32, ascending; row F is the score; the last edge is +inf.
    edges: NDArray[Any]
    #: (F + 1, BINS + 1) uint32.
    counts: NDArray[Any]
    #: Loss per event.
    loss_mean: float
    loss_std: float

    def count(self, x: NDArray[Any], score: NDArray[Any]) -> NDArray[Any]:
        """Count events per bin.

        Args:
            x: (N, F) float32 in raw units, NaN where missing.
            score: (N,) float32.

        Returns:
            (F + 1, BINS + 1) uint32, the score last. Counts of two sets of events add up.
        """
        counts = np.zeros((len(self.edges), BINS + 1), np.uint32)
        _count(np.ascontiguousarray(x, np.float32), score.astype(np.float32), self.edges, counts)
        return counts

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the reference as named arrays for the artifact."""
        return {
            "drift.edges": self.edges,
            "drift.counts": self.counts,
            "drift.loss": np.array([self.loss_mean, self.loss_std], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], features: int) -> DriftReference:
        """Read what `to_arrays` wrote.

        Raises:
            ArtifactError: the shapes do not fit a model of this many features.
        """
        edges, counts, loss = (arrays[f"drift.{n}"] for n in ("edges", "counts", "loss"))
        shapes = (edges.shape, counts.shape, loss.shape)
        expected = ((features + 1, BINS), (features + 1, BINS + 1), (2,))
        if shapes != expected:
            raise ArtifactError(f"drift: edges, counts, loss must be {expected}; got {shapes}")
        return cls(edges, counts, float(loss[0]), float(loss[1]))


@cached_njit()
def _count(x: NDArray[Any], score: NDArray[Any], edges: NDArray[Any], counts: NDArray[Any]) -> None:
    """Add each value to bin i, where i edges are below it, and NaN to the last bin."""
    size = counts.shape[0]
    for event in range(len(x)):
        for i in range(size):
            value = x[event, i] if i < size - 1 else score[event]
            below, step = 0, BINS // 2
            while step:  # binary search without branches on the value, which cannot be predicted
                below += step if value > edges[i, below + step - 1] else 0
                step //= 2
            counts[i, below if value == value else BINS] += np.uint32(1)


def fit(x: NDArray[Any], score: NDArray[Any], loss: NDArray[Any]) -> DriftReference:
    """Measure held-out events: `x` (N, F), `score` (N,), `loss` (N,)."""
    levels = np.arange(1, BINS) / BINS
    edges = np.full((x.shape[1] + 1, BINS), np.inf, np.float32)
    for i, column in enumerate([*x.T, score]):
        observed = column[np.isfinite(column)]
        if observed.size:
            edges[i, :-1] = np.quantile(observed, levels)
    empty = np.zeros((len(edges), BINS + 1), np.uint32)
    counts = DriftReference(edges, empty, 0.0, 1.0).count(x, score)
    return DriftReference(edges, counts, float(loss.mean()), float(loss.std()))


def report(
    reference: DriftReference,
    names: Sequence[str],
    counts: NDArray[Any],
    *,
    loss_sum: float,
    events: int,
) -> dict[str, Any]:
    """Compare a window with the training data; returns plain JSON types.

    Args:
        reference: the distribution of the training data.
        names: the features, in order; the score is reported as "score".
        counts: (F + 1, BINS + 1), the counts of the window.
        loss_sum: the sum of the losses of the window.
        events: the number of events of the window.

    Returns:
        Per feature and for the score: `psi` (population stability index; above 0.1 is some
        drift, above 0.25 much), `ks` (largest difference of the distribution functions),
        `missing` (share) and `quantiles` of the window. Besides, the mean loss of the window and
        of the training data, and their difference in standard deviations.
    """
    live_loss = loss_sum / events if events else None
    spread = max(reference.loss_std, 1e-9)
    parts = {
        name: _compare(reference.edges[i], reference.counts[i], counts[i])
        for i, name in enumerate([*names, "score"])
    }
    return {
        "events": events,
        "features": {name: parts[name] for name in names},
        "score": parts["score"],
        "loss_mean": live_loss,
        "loss_mean_training": reference.loss_mean,
        "loss_shift": None if live_loss is None else (live_loss - reference.loss_mean) / spread,
    }


def _compare(edges: NDArray[Any], expected: NDArray[Any], live: NDArray[Any]) -> dict[str, Any]:
    """Return PSI, KS, share of missing values and quantiles of one feature."""
    total = int(live.sum())
    if not total:
        return {"psi": None, "ks": None, "missing": None, "quantiles": None}
    then = (expected + PSEUDO_COUNT) / (expected.sum() + PSEUDO_COUNT * expected.size)
    now = (live + PSEUDO_COUNT) / (total + PSEUDO_COUNT * live.size)
    distance = np.abs(np.cumsum(live / total) - np.cumsum(expected / max(expected.sum(), 1)))
    return {
        "psi": float(np.sum((now - then) * np.log(now / then))),
        "ks": float(distance.max()),
        "missing": float(live[-1] / total),
        "quantiles": _quantiles(edges, live[:-1]),
    }


def _quantiles(edges: NDArray[Any], live: NDArray[Any]) -> dict[str, float] | None:
    """Return the upper edge of the bin of each quantile; of the last bin, the lower edge."""
    observed = int(live.sum())
    finite = edges[np.isfinite(edges)]
    if not observed or not finite.size:
        return None
    at = np.searchsorted(np.cumsum(live), np.array(QUANTILES) * observed)
    values = finite[np.minimum(at, finite.size - 1)]
    return {f"p{int(q * 100):02d}": float(v) for q, v in zip(QUANTILES, values, strict=True)}
