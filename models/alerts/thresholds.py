"""The first alert threshold of each entity, for any budget, from held-out scores.

Thresholds of different entities are far apart. On the service data, with a budget of 1 message
a day, one threshold for all entities detects .54 of the labelled events, one per entity .92.
The artifact holds first thresholds for a few budgets; others are interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.alerts.budget import ETA_STD, Start, first_threshold
from streamgauge.models.alerts.policy import BudgetSpec
from streamgauge.models.errors import ArtifactError

#: Budgets for which the artifact holds thresholds, messages per day.
PER_DAY = np.array([100.0, 30.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.03, 0.01])
TAIL_MIN = 40  # with fewer held-out scores an entity starts from the pool
SCORE_MIN = 1e-9  # a score of 0 has no logarithm


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds:
    """First thresholds on log scores; row 0 for unknown entities, then one row per entity."""

    #: (1 + E, B) float64, one column per budget of `PER_DAY`.
    log_threshold: NDArray[Any]
    #: (1 + E,) float64, standard deviation and median of the log score.
    deviation: NDArray[Any]
    median: NDArray[Any]

    def start(self, spec: BudgetSpec) -> Start:
        """Return the start of each entity under a budget, arrays (1 + E,)."""
        log_per_day = np.log(PER_DAY[::-1])
        wanted = np.log(spec.per_day)
        log_threshold = np.array(
            [np.interp(wanted, log_per_day, row[::-1]) for row in self.log_threshold]
        )
        return Start(log_threshold, ETA_STD * self.deviation, self.median)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the thresholds as named arrays for the artifact."""
        return {
            "thresholds.theta": self.log_threshold,
            "thresholds.deviation": self.deviation,
            "thresholds.median": self.median,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], entities: int) -> Thresholds:
        """Read what `to_arrays` wrote for that many `entities`.

        Raises:
            ArtifactError: an array is not finite or has another shape.
        """
        shapes = {
            "thresholds.theta": (1 + entities, len(PER_DAY)),
            "thresholds.deviation": (1 + entities,),
            "thresholds.median": (1 + entities,),
        }
        for name, shape in shapes.items():
            array = arrays[name]
            if array.shape != shape or not np.isfinite(array).all():
                raise ArtifactError(
                    f"thresholds: {name!r} must be finite and of shape {shape}; got {array.shape}"
                )
        return cls(*(arrays[name] for name in shapes))


def log_score(score: NDArray[Any]) -> NDArray[Any]:
    """Return the logarithm of scores, which thresholds apply to; float64.

    >>> log_score(np.array([1.0, 0.0])).round(1).tolist()
    [0.0, -20.7]
    """
    logarithm: NDArray[Any] = np.log(np.maximum(score, SCORE_MIN, dtype=np.float64))
    return logarithm


def fit(scores: Sequence[NDArray[Any]], times_us: Sequence[NDArray[Any]]) -> Thresholds:
    """Fit on held-out scores (T,) of each entity and their ascending times (T,).

    An unknown entity starts from the medians over the known ones.
    """
    budgets = [BudgetSpec(per_day=float(per_day)) for per_day in PER_DAY]
    table = np.full((len(scores), len(PER_DAY) + 2), np.nan)
    for row, score, time_us in zip(table, scores, times_us, strict=True):
        if len(score) >= TAIL_MIN:
            row[:] = _of_entity(log_score(score), time_us, budgets)
    known = table[np.isfinite(table[:, 0])]
    if len(known):
        pool = np.median(known, axis=0)
    else:  # all series are short: treat them as the series of a single entity
        steps = np.concatenate([np.diff(times, append=times[-1:]) for times in times_us])
        pool = _of_entity(log_score(np.concatenate(scores)), np.cumsum(steps), budgets)
    whole = np.vstack([pool, np.where(np.isfinite(table), table, pool)])
    return Thresholds(whole[:, :-2], whole[:, -2], whole[:, -1])


def _of_entity(
    log_scores: NDArray[Any], time_us: NDArray[Any], budgets: Sequence[BudgetSpec]
) -> NDArray[Any]:
    """Return first thresholds, deviation and median of the log scores of one entity."""
    log_threshold = [first_threshold(log_scores, time_us, spec) for spec in budgets]
    return np.array([*log_threshold, log_scores.std(), np.median(log_scores)])
