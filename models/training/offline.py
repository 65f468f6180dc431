"""Standardises whole series for training, and scores them offline.

Both step through the events as the live scorer does; each row is an entity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.events.schema import Schema
from streamgauge.models.events.series import Series
from streamgauge.models.forecast.forecaster import Forecaster
from streamgauge.models.forecast.normaliser import Normaliser, NormaliserSpec, Priors

ROWS = 64  # series scored side by side

Watch = Callable[[int, NDArray[Any], NDArray[Any]], None]


@dataclass(frozen=True, slots=True, eq=False)
class SeriesScores:
    """The scores of one series."""

    #: (T,) float32, smoothed.
    score: NDArray[Any]
    #: (T,) float32, negative log-likelihood per event.
    loss: NDArray[Any]


def score_series(
    forecaster: Forecaster,
    series: Sequence[Series],
    rows: NDArray[Any] | None = None,
    *,
    learn: bool = True,
    watch: Watch | None = None,
) -> list[SeriesScores]:
    """Score every series from its first event, as the live scorer does.

    Args:
        forecaster: the model; the state of a known entity starts from its priors.
        series: any number of series, of any lengths.
        rows: (N,) entity states to start from, advanced in place; None for new ones.
        learn: whether statistics and scales learn.
        watch: called after each step of `ROWS` series with the index of the first in `series`,
            a mask (ROWS,) of the series that had an event, and residuals as in `Scores`.
    """
    if rows is None:
        rows = new_rows(forecaster, [each.entity_id for each in series])
    results: list[SeriesScores] = []
    for first in range(0, len(series), ROWS):
        here = slice(first, first + ROWS)
        watch_here = None if watch is None else partial(watch, first)
        results += _score_side_by_side(forecaster, series[here], rows[here], learn, watch_here)
    return results


def new_rows(forecaster: Forecaster, entity_ids: Sequence[str]) -> NDArray[Any]:
    """Return entity states before the first event, (N,) structured."""
    rows = np.zeros(len(entity_ids), forecaster.dtype)
    forecaster.fill_new(rows, entity_ids)
    return rows


def _score_side_by_side(
    forecaster: Forecaster,
    series: Sequence[Series],
    rows: NDArray[Any],
    learn: bool,
    watch: Callable[[NDArray[Any], NDArray[Any]], None] | None,
) -> list[SeriesScores]:
    """Score up to `ROWS` series side by side; a row does not change after its series ends."""
    lengths = np.array([len(each.values) for each in series])
    length, features = int(lengths.max(initial=0)), forecaster.schema.size
    x = np.full((length, ROWS, features), np.nan, np.float32)
    event_time_us = np.zeros((length, ROWS), np.int64)
    for i, each in enumerate(series):
        x[: lengths[i], i] = each.values
        event_time_us[: lengths[i], i] = each.event_time_us
    live = np.zeros(ROWS, rows.dtype)
    live[: len(rows)] = rows
    learning = np.full(ROWS, learn, np.bool_)
    score, loss = np.empty((2, length, ROWS), np.float32)
    ends, ends_at = set(lengths.tolist()), np.zeros(ROWS, np.int64)
    ends_at[: len(lengths)] = lengths
    for t in range(length):
        scores = forecaster.step(x[t], live, event_time_us[t], learning)
        score[t], loss[t] = scores.score, scores.loss
        if watch is not None:
            watch(t < ends_at, scores.residuals)
        if t + 1 in ends:
            done = np.flatnonzero(lengths == t + 1)
            rows[done] = live[done]
    return [SeriesScores(score[:n, i], loss[:n, i]) for i, n in enumerate(lengths)]


def standardise_series(
    schema: Schema,
    spec: NormaliserSpec,
    priors: Priors,
    *,
    values: Sequence[NDArray[Any]],
    known: bool,
) -> list[NDArray[Any]]:
    """Return the standard values of each series as in scoring, (T, F), NaN where missing.

    Args:
        schema: bounds that values are clipped to.
        spec: settings of the normaliser.
        priors: where the statistics start.
        values: (T, F) raw per entity; with `known`, in the order of `priors.entity_ids`.
        known: whether to start from the statistics of the entities, or as for new entities.
    """
    lengths = [len(each) for each in values]
    count, features, length = len(values), schema.size, max(lengths)
    x = np.full((length, count, features), np.nan, np.float32)
    for i, each in enumerate(values):
        x[: lengths[i], i] = each
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
        normaliser.standardise(x[t], mean, var, weight=weight, z=z, std=std)
        gain = np.isfinite(z)
        finite = np.where(gain, z, np.float32(0))
        normaliser.learn(finite, std, gain, mean=mean, var=var, weight=weight, var_floor=var_floor)
        weight += gain.any(axis=1, keepdims=True)
    return [standard[:n, i].copy() for i, n in enumerate(lengths)]
