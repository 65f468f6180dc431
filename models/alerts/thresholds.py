"""Where the alert threshold of each entity starts, for any budget, from held-out scores.

The pool is a poor guide: thresholds of entities lie far apart (with one for all, messages
within a budget of 1 a day find .54 of the labelled events of the service data, with
one each .92). Kept are the first thresholds for a few budgets; others lie between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamgauge.models.alerts.budget import ETA_STD, BudgetSpec, Start, first_threshold
from streamgauge.models.errors import ArtifactError

#: Messages per day for which thresholds are kept.
PER_DAY = np.array([100.0, 30.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.03, 0.01])
TAIL_MIN = 40  # scores below which an entity's own say too little: it starts as the pool
SCORE_MIN = 1e-9  # a score of 0 has no logarithm


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds:
    """First thresholds on log scores; row 0 for an entity never seen, then one per entity."""

    #: (1 + E, B) float64, by the budgets of `PER_DAY`.
    log_threshold: np.ndarray
    #: (1 + E,) float64, standard deviation and median of the log score.
    deviation: np.ndarray
    median: np.ndarray

    def start(self, spec: BudgetSpec) -> Start:
        """Where the controller starts under a budget, arrays (1 + E,)."""
        at = np.log(PER_DAY[::-1])
        wanted = np.log(spec.per_day)
        log_threshold = np.array([np.interp(wanted, at, one[::-1]) for one in self.log_threshold])
        return Start(log_threshold, ETA_STD * self.deviation, self.median)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As named arrays for the artifact."""
        return {
            "thresholds.theta": self.log_threshold,
            "thresholds.deviation": self.deviation,
            "thresholds.median": self.median,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], entities: int) -> Thresholds:
        """Read what `to_arrays` wrote for as many `entities`."""
        shapes = {
            "thresholds.theta": (1 + entities, len(PER_DAY)),
            "thresholds.deviation": (1 + entities,),
            "thresholds.median": (1 + entities,),
        }
        for name, shape in shapes.items():
            found = arrays[name]
            if found.shape != shape or not np.isfinite(found).all():
                raise ArtifactError(
                    f"thresholds: {name!r} must be finite and of shape {shape}; got {found.shape}"
                )
        return cls(*(arrays[name] for name in shapes))


def log_score(score: np.ndarray) -> np.ndarray:
    """What thresholds work on; float64.

    >>> log_score(np.array([1.0, 0.0])).round(1).tolist()
    [0.0, -20.7]
    """
    return np.log(np.maximum(score, SCORE_MIN, dtype=np.float64))


def fit(scores: Sequence[np.ndarray], times_us: Sequence[np.ndarray]) -> Thresholds:
    """Fit on held-out scores (T,) of each entity and their ascending times (T,).

    An entity never seen starts from the medians over the others.
    """
    budgets = [BudgetSpec(per_day=float(one)) for one in PER_DAY]
    table = np.full((len(scores), len(PER_DAY) + 2), np.nan)
    for row, score, time_us in zip(table, scores, times_us, strict=True):
        if len(score) >= TAIL_MIN:
            row[:] = _of_one(log_score(score), time_us, budgets)
    known = table[np.isfinite(table[:, 0])]
    if len(known):
        pool = np.median(known, axis=0)
    else:  # all of them are short: as if one entity had sent everything
        steps = np.concatenate([np.diff(one, append=one[-1:]) for one in times_us])
        pool = _of_one(log_score(np.concatenate(scores)), np.cumsum(steps), budgets)
    whole = np.vstack([pool, np.where(np.isfinite(table), table, pool)])
    return Thresholds(whole[:, :-2], whole[:, -2], whole[:, -1])


def _of_one(level: np.ndarray, time_us: np.ndarray, budgets: Sequence[BudgetSpec]) -> np.ndarray:
    """First thresholds, deviation and median of one entity's log scores."""
    log_threshold = [first_threshold(level, time_us, spec) for spec in budgets]
    return np.array([*log_threshold, level.std(), np.median(level)])
