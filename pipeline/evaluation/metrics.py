"""Metrics: how well scores separate labelled events, and what messages at a budget find.

Threshold-free figures equal those of `TSB_AD` 1.5 (Liu and Paparrizos 2024, "The Elephant in the
Room: Towards A Reliable Time-Series Anomaly Detection Benchmark"). That library is not imported:
it requires a numpy below 2. A labelled run is a run of labelled events of one entity. A message
inside the run detects it. The expected recall of as many messages at random times is reported too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.alerts.budget import DAY_US
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.data.labels import label_runs, recall_by_chance

VUS_WINDOW = 100  # rows over which a label fades out, half of them on each side
VUS_THRESHOLDS = 250  # the default of TSB_AD
F1_FLOOR = 1e-5  # of TSB_AD, against a division by zero


@dataclass(frozen=True, slots=True)
class Ranking:
    """Metrics over all thresholds for one entity; None without both kinds of events."""

    auc_pr: float | None
    vus_pr: float | None
    best_f1: float | None


@dataclass(frozen=True, slots=True)
class MessageMetrics:
    """Metrics of the messages at one budget for one entity."""

    #: Messages per day of event time; the warm-up counts as time.
    messages: float
    #: Messages outside labelled events, per day.
    false: float
    #: Share of labelled runs with a message inside; None without a labelled run.
    recall: float | None
    #: The expected recall of as many messages at random times.
    recall_by_chance: float | None
    #: Median time from the start of a detected run to its first message, seconds.
    delay_s: float | None


def ranking(score: NDArray[Any], labels: NDArray[Any]) -> Ranking:
    """AUC-PR, VUS-PR and the best F1 over all thresholds.

    Args:
        score: (T,) finite, high is anomalous.
        labels: (T,) 1 = anomalous.
    """
    if not 0 < labels.sum() < len(labels):
        return Ranking(None, None, None)
    library = ranking_library()
    labels, score = labels.astype(int), np.asarray(score, np.float64)
    precision, recall, _ = library.precision_recall_curve(labels, score)
    f1 = 2 * (precision * recall) / (precision + recall + F1_FLOOR)
    return Ranking(
        float(library.average_precision_score(labels, score)),
        vus_pr(score, labels),
        float(np.max(f1)),
    )


def vus_pr(score: NDArray[Any], labels: NDArray[Any], window: int = VUS_WINDOW) -> float:
    """Volume under the precision-recall surface over thresholds and widths of labels.

    Paparrizos et al. 2022, "Volume Under the Surface". The published code walks all rows for each
    pair of threshold and width, which takes seconds per series. Here each row is counted once, at
    the first threshold that it reaches.
    """
    labels = labels.astype(int)
    runs = label_runs(labels)
    levels = -np.sort(-score)[np.linspace(0, len(score) - 1, VUS_THRESHOLDS).astype(int)]
    first = np.searchsorted(-levels, -score)  # (T,) the first threshold each row reaches

    def reached(weights: NDArray[Any]) -> NDArray[Any]:
        return np.cumsum(np.bincount(first, weights, VUS_THRESHOLDS + 1))[:-1]

    predicted, labelled = reached(np.ones(len(score))), reached(labels)
    volume = 0.0
    for width in range(window + 1):
        extended = fading(labels, runs, width)
        areas = widened(runs, width, len(labels))
        true = reached(extended)
        positives = (labels.sum() + labels.sum() + true - labelled) / 2
        earliest = np.sort([first[start:end].min() for start, end in areas])
        existence = np.searchsorted(earliest, np.arange(VUS_THRESHOLDS), side="right") / len(areas)
        recall = np.minimum(true / positives, 1.0) * existence
        volume += float(np.dot(np.diff(recall, prepend=0.0), true / predicted))
    return volume / (window + 1)


def fading(labels: NDArray[Any], runs: Sequence[tuple[int, int]], width: int) -> NDArray[Any]:
    """Labels that fade out beside each run over `width` rows, half of them on each side.

    >>> fading(np.array([0, 0, 1, 0]), [(2, 3)], 2).round(2).tolist()
    [0.0, 0.71, 1.0, 0.71]
    """
    extended = labels.astype(np.float64)
    for first, end in runs:
        after = np.arange(end, min(end + width // 2, len(labels)))
        extended[after] += np.sqrt(1 - (after - (end - 1)) / max(width, 1))
        before = np.arange(max(first - width // 2, 0), first)
        extended[before] += np.sqrt(1 - (first - before) / max(width, 1))
    return np.minimum(extended, 1.0)


def widened(runs: Sequence[tuple[int, int]], width: int, rows: int) -> list[tuple[int, int]]:
    """The runs with `width // 2` rows more on each side; those that share a row become one.

    >>> widened([(1, 3), (5, 6), (30, 31)], 4, 40)
    [(0, 8), (28, 33)]
    """
    half = width // 2
    areas: list[tuple[int, int]] = []
    for first, end in ((max(first - half, 0), min(end + half, rows)) for first, end in runs):
        if areas and first < areas[-1][1]:
            areas[-1] = (areas[-1][0], end)
        else:
            areas.append((first, end))
    return areas


def message_metrics(
    sent: NDArray[Any], labels: NDArray[Any], event_time_us: NDArray[Any], *, from_row: int = 0
) -> MessageMetrics:
    """Compare the messages of one entity with its labels.

    Args:
        sent: (T,) bool, True where a message was sent.
        labels: (T,) 1 = anomalous.
        event_time_us: (T,) ascending.
        from_row: the first row that counts. The days before it still count as days.
    """
    days = max(float(event_time_us[-1] - event_time_us[0]) / DAY_US, 1e-9)
    sent, labels, event_time_us = sent[from_row:], labels[from_row:], event_time_us[from_row:]
    runs = label_runs(labels)
    hits = [(first, np.flatnonzero(sent[first:end])) for first, end in runs]
    delays = [
        event_time_us[first + rows[0]] - event_time_us[first] for first, rows in hits if len(rows)
    ]
    return MessageMetrics(
        messages=float(sent.sum()) / days,
        false=float((sent & (labels == 0)).sum()) / days,
        recall=len(delays) / len(runs) if runs else None,
        recall_by_chance=random_recall(labels, int(sent.sum())),
        delay_s=float(np.median(delays)) / 1e6 if delays else None,
    )


def random_recall(labels: NDArray[Any], messages: int) -> float | None:
    """The expected share of labelled runs with one of `messages` at random rows inside."""
    shares = ((end - first) / len(labels) for first, end in label_runs(labels))
    return recall_by_chance(np.full(messages, share) for share in shares)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean over the entities that have a value; None if none has."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def ranking_library() -> Any:
    """The metrics of scikit-learn, which only the extra "train" installs.

    Raises:
        ConfigError: the library is not installed.
    """
    try:
        import sklearn.metrics
    except ImportError as error:
        raise ConfigError(
            f"evaluate: needs scikit-learn ({error}); `pip install 'streamgauge[train]'` installs "
            "it, as does `make train-env`"
        ) from error
    return sklearn.metrics
