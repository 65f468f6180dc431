"""How well scores tell labelled events from others, and what messages at a budget find.

Threshold-free figures are those of `TSB_AD` (Liu and Paparrizos 2024, "The Elephant in the
Room: Towards A Reliable Time-Series Anomaly Detection Benchmark"). A segment is a run of
labelled events of one entity; it is found if a message lies in it. Beside the share found
stands the share that as many messages at random moments would be expected to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamgauge.models.errors import ConfigError

VUS_WINDOW = 100  # rows over which a label fades, half of them on each side
VUS_THRESHOLDS = 250  # the library's default
DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Ranking:
    """Of one entity; None where it has no labelled or no unlabelled event."""

    auc_pr: float | None
    vus_pr: float | None
    best_f1: float | None


@dataclass(frozen=True, slots=True)
class Messages:
    """What messages at one budget did for one entity."""

    #: Per day of its event time, warming included.
    messages: float
    #: Per day, outside labelled events.
    false: float
    #: Share of labelled segments with a message inside; None without any.
    recall: float | None
    #: The same expected of as many messages at random moments.
    recall_by_chance: float | None
    #: Seconds from the start of a found segment to its first message; median.
    delay_s: float | None


def ranking(score: np.ndarray, labels: np.ndarray) -> Ranking:
    """AUC-PR, VUS-PR and the best F1 over all thresholds.

    Args:
        score: (T,) finite, high is anomalous.
        labels: (T,) 1 = anomalous.
    """
    if not 0 < labels.sum() < len(labels):
        return Ranking(None, None, None)
    metricor = library()
    labels, score = labels.astype(int), np.asarray(score, np.float64)
    return Ranking(
        float(metricor.metric_PR(labels, score)),
        vus_pr(score, labels),
        float(metricor.metric_PointF1(labels, score)),
    )


def vus_pr(score: np.ndarray, labels: np.ndarray, window: int = VUS_WINDOW) -> float:
    """Volume under the precision-recall surface over thresholds and widths of labels.

    Paparrizos et al. 2022, "Volume Under the Surface". The library's own figure, whose parts
    are called here; but instead of walking all rows for each pair of threshold and
    width (seconds per series) rows are counted once, by the first threshold they reach.
    """
    metricor = library()
    labels = labels.astype(int)
    runs = metricor.range_convers_new(labels)
    levels = -np.sort(-score)[np.linspace(0, len(score) - 1, VUS_THRESHOLDS).astype(int)]
    first = np.searchsorted(-levels, -score)  # (T,) the first threshold each row reaches

    def reached(weights: np.ndarray) -> np.ndarray:
        return np.cumsum(np.bincount(first, weights, VUS_THRESHOLDS + 1))[:-1]

    predicted, labelled = reached(np.ones(len(score))), reached(labels)
    volume = 0.0
    for width in range(window + 1):
        extended = metricor.sequencing(labels, runs, width)
        areas = metricor.new_sequence(extended, runs, width)
        true = reached(extended)
        positives = (labels.sum() + labels.sum() + true - labelled) / 2
        earliest = np.sort([first[start : end + 1].min() for start, end in areas])
        found = np.searchsorted(earliest, np.arange(VUS_THRESHOLDS), side="right") / len(areas)
        recall = np.minimum(true / positives, 1.0) * found
        volume += float(np.dot(np.diff(recall, prepend=0.0), true / predicted))
    return volume / (window + 1)


def judged(
    told: np.ndarray, labels: np.ndarray, event_time_us: np.ndarray, from_row: int = 0
) -> Messages:
    """Set messages against labels.

    Args:
        told: (T,) bool, where a message was sent.
        labels: (T,) 1 = anomalous.
        event_time_us: (T,) ascending.
        from_row: where judging begins; a day before it is a day of the budget too.
    """
    days = max(float(event_time_us[-1] - event_time_us[0]) / DAY_US, 1e-9)
    told, labels, event_time_us = told[from_row:], labels[from_row:], event_time_us[from_row:]
    found = [(first, np.flatnonzero(told[first:end])) for first, end in segments(labels)]
    delays = [event_time_us[f + at[0]] - event_time_us[f] for f, at in found if len(at)]
    return Messages(
        float(told.sum()) / days,
        float((told & (labels == 0)).sum()) / days,
        len(delays) / len(found) if found else None,
        by_chance(labels, int(told.sum())),
        float(np.median(delays)) / 1e6 if delays else None,
    )


def segments(labels: np.ndarray) -> list[tuple[int, int]]:
    """First row and one past the last row of each run of labelled events.

    >>> segments(np.array([1, 1, 0, 1]))
    [(0, 2), (3, 4)]
    """
    edges = np.diff(np.concatenate(([0], labels != 0, [0])).astype(np.int8))
    firsts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return list(zip(firsts.tolist(), ends.tolist(), strict=True))


def by_chance(labels: np.ndarray, messages: int) -> float | None:
    """Expected share of segments found by `messages` at random rows."""
    missed = [(1 - (end - first) / len(labels)) ** messages for first, end in segments(labels)]
    return 1 - float(np.mean(missed)) if missed else None


def mean(values: Sequence[float | None]) -> float | None:
    """Over the entities that have a value."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def library() -> Any:
    """The library's metrics; part of the environment that trains."""
    try:
        from TSB_AD.evaluation.basic_metrics import basic_metricor
    except ImportError as error:
        raise ConfigError(
            f"evaluate: needs TSB_AD and scikit-learn ({error}); run `make train-env`"
        ) from error
    return basic_metricor()
