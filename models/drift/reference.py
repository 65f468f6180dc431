"""Counts per feature and score against fixed edges: drift sketches that merge by adding.

Edges are quantiles of the held-out training data, so a bin holds about the same share
of normal events. Merging is integer addition: exact, associative, in any order. KLL and
REQ sketches answer any quantile but draw random bits when they compact, so two replays
of one log would differ; these counts do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamgauge.models.errors import ArtifactError
from streamgauge.models.simd.compile_cache import cached_njit

BINS = 32  # of observed values, and one more, the last, for missing ones
QUANTILES = (0.05, 0.5, 0.95)  # live quantiles in a report

# Added to every bin before shares are compared, so that an empty bin has a logarithm.
PSEUDO_COUNT = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class DriftReference:
    """What the training data looked like: edges, counts and loss."""

    #: (F + 1, BINS) float32, ascending; row F is the score; the last edge is +inf.
    edges: np.ndarray
    #: (F + 1, BINS + 1) uint32.
    counts: np.ndarray
    #: Loss per event on held-out training data.
    loss_mean: float
    loss_std: float

    def count(self, x: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Count events into bins.

        Args:
            x: (N, F) float32 raw, NaN = missing.
            score: (N,) float32.

        Returns:
            (F + 1, BINS + 1) uint32; sketches of two windows add up.
        """
        counts = np.zeros((len(self.edges), BINS + 1), np.uint32)
        _count(np.ascontiguousarray(x, np.float32), score.astype(np.float32), self.edges, counts)
        return counts

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The reference as named arrays for the artifact."""
        return {
            "drift.edges": self.edges,
            "drift.counts": self.counts,
            "drift.loss": np.array([self.loss_mean, self.loss_std], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], features: int) -> DriftReference:
        """Read what `to_arrays` wrote; refuses shapes that do not fit `features`."""
        edges, counts, loss = (arrays[f"drift.{n}"] for n in ("edges", "counts", "loss"))
        shapes = (edges.shape, counts.shape, loss.shape)
        expected = ((features + 1, BINS), (features + 1, BINS + 1), (2,))
        if shapes != expected:
            raise ArtifactError(f"drift: edges, counts, loss must be {expected}; got {shapes}")
        return cls(edges, counts, float(loss[0]), float(loss[1]))


@cached_njit()
def _count(x: np.ndarray, score: np.ndarray, edges: np.ndarray, counts: np.ndarray) -> None:
    """Count each value into the bin of as many edges as lie below it; NaN into the last bin."""
    size = counts.shape[0]
    for event in range(len(x)):
        for i in range(size):
            value = x[event, i] if i < size - 1 else score[event]
            below, step = 0, BINS // 2
            while step:  # halves without a branch on the value, which nothing could predict
                below += step if value > edges[i, below + step - 1] else 0
                step //= 2
            counts[i, below if value == value else BINS] += np.uint32(1)


def fit(x: np.ndarray, score: np.ndarray, loss: np.ndarray) -> DriftReference:
    """Take edges and counts from held-out events `x` (N, F), `score` (N,), `loss` (N,)."""
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
    counts: np.ndarray,
    loss_sum: float,
    events: int,
) -> dict[str, Any]:
    """Compare a window with training, as plain JSON types.

    Args:
        reference: what training looked like.
        names: the features, in order; the score is reported as "score".
        counts: (F + 1, BINS + 1), the sum of the window's sketches.
        loss_sum: sum of the window's losses.
        events: how many events the window holds.

    Returns:
        Per feature and for the score: `psi` (population stability index; 0.1 is some,
        0.25 much), `ks` (largest difference of the distribution functions), `missing`
        (share) and live `quantiles`; and the mean loss beside that of training.
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


def _compare(edges: np.ndarray, expected: np.ndarray, live: np.ndarray) -> dict[str, Any]:
    """PSI, KS, share of missing values and quantiles of one feature."""
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


def _quantiles(edges: np.ndarray, live: np.ndarray) -> dict[str, float] | None:
    """Upper edge of the bin each quantile falls in; the outer bins answer their inner edge."""
    observed = int(live.sum())
    finite = edges[np.isfinite(edges)]
    if not observed or not finite.size:
        return None
    at = np.searchsorted(np.cumsum(live), np.array(QUANTILES) * observed)
    values = finite[np.minimum(at, finite.size - 1)]
    return {f"p{int(q * 100):02d}": float(v) for q, v in zip(QUANTILES, values, strict=True)}
