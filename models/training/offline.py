"""Whole series at once: standardise them for training, score them offline.

Both run the same code as live scoring, event by event; entities are the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from streamgauge.models.events.schema import Schema
from streamgauge.models.events.series import Series
from streamgauge.models.forecast.forecaster import Forecaster
from streamgauge.models.forecast.normaliser import Normaliser, NormaliserSpec, Priors

ROWS = 64  # series scored side by side

Watch = Callable[[int, np.ndarray, np.ndarray], None]


@dataclass(frozen=True, slots=True, eq=False)
class SeriesScores:
    """What the forecaster said about one series."""

    #: (T,) float32, smoothed.
    score: np.ndarray
    #: (T,) float32, negative log-likelihood per event.
    loss: np.ndarray


def score_series(
    forecaster: Forecaster,
    series: Sequence[Series],
    rows: np.ndarray | None = None,
    learn: bool = True,
    watch: Watch | None = None,
) -> list[SeriesScores]:
    """Score every series from its first event, as the live scorer would.

    Args:
        forecaster: scores; its tables of known entities decide how new rows start.
        series: any number of them, of any lengths.
        rows: (N,) entity states to start from and to advance; None for new ones.
        learn: whether statistics and scales move on the way.
        watch: called after each event of `ROWS` series with the place of the first in `series`,
            a mask (ROWS,) of those that held an event, and residuals as in `Scores`.
    """
    if rows is None:
        rows = new_rows(forecaster, [one.entity_id for one in series])
    results: list[SeriesScores] = []
    for first in range(0, len(series), ROWS):
        here = slice(first, first + ROWS)
        watch_here = None if watch is None else partial(watch, first)
        results += _score_side_by_side(forecaster, series[here], rows[here], learn, watch_here)
    return results


def new_rows(forecaster: Forecaster, entity_ids: Sequence[str]) -> np.ndarray:
    """Entity states before the first event, (N,) structured."""
    rows = np.zeros(len(entity_ids), forecaster.dtype)
    forecaster.fill_new(rows, entity_ids)
    return rows


def _score_side_by_side(
    forecaster: Forecaster,
    series: Sequence[Series],
    rows: np.ndarray,
    learn: bool,
    watch: Callable[[np.ndarray, np.ndarray], None] | None,
) -> list[SeriesScores]:
    """Score up to ROWS series side by side; a series that has ended stays as it is."""
    lengths = np.array([len(one.values) for one in series])
    length, features = int(lengths.max(initial=0)), forecaster.schema.size
    x = np.full((length, ROWS, features), np.nan, np.float32)
    event_time_us = np.zeros((length, ROWS), np.int64)
    for i, one in enumerate(series):
        x[: lengths[i], i] = one.values
        event_time_us[: lengths[i], i] = one.event_time_us
    live = np.zeros(ROWS, rows.dtype)
    live[: len(rows)] = rows
    learning = np.full(ROWS, learn, np.bool_)
    score, loss = np.empty((2, length, ROWS), np.float32)
    ends, ends_at = set(lengths.tolist()), np.zeros(ROWS, np.int64)
    ends_at[: len(lengths)] = lengths
    for t in range(length):
        told = forecaster.step(x[t], live, event_time_us[t], learning)
        score[t], loss[t] = told.score, told.loss
        if watch is not None:
            watch(t < ends_at, told.residuals)
        if t + 1 in ends:
            done = np.flatnonzero(lengths == t + 1)
            rows[done] = live[done]
    return [SeriesScores(score[:n, i], loss[:n, i]) for i, n in enumerate(lengths)]


def standardise_series(
    schema: Schema, spec: NormaliserSpec, priors: Priors, values: Sequence[np.ndarray], known: bool
) -> list[np.ndarray]:
    """Standard values of each series as the scorer would see them, (T, F), NaN where missing.

    Args:
        schema: bounds that values are clipped to.
        spec: settings of the normaliser.
        priors: where its statistics start.
        values: (T, F) raw per entity; with `known`, in the order of `priors.entity_ids`.
        known: start from the entities' own statistics, or as if they were new.
    """
    lengths = [len(one) for one in values]
    count, features, length = len(values), schema.size, max(lengths)
    x = np.full((length, count, features), np.nan, np.float32)
    for i, one in enumerate(values):
        x[: lengths[i], i] = one
    normaliser = Normaliser(spec, schema.bounds(), count)
    var_floor = np.square(priors.std_floor[1:] if known else priors.std_floor[:1])
    if known:
        mean, var = priors.entity_mean.copy(), priors.entity_var.copy()
    else:
        mean, var = np.tile(priors.mean, (count, 1)), np.tile(priors.var, (count, 1))
    weight = np.full((count, 1), 1.0 / spec.rate_min if known else 0.0, np.float32)
    std, standard = np.empty((count, features), np.float32), np.empty_like(x)
    for t in range(length):
        z = standard[t]
        normaliser.standardise(x[t], mean, var, weight, z, std)
        gain = np.isfinite(z)
        normaliser.learn(np.where(gain, z, np.float32(0)), std, gain, mean, var, weight, var_floor)
        weight += gain.any(axis=1, keepdims=True)
    return [standard[:n, i].copy() for i, n in enumerate(lengths)]
