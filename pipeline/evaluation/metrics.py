"""Metrics: how well scores separate labelled events, and what messages at a budget find.

Threshold-free figures are those of `TSB_AD` (Liu and Paparrizos 2024, "The Elephant in the
Room: Towards A Reliable Time-Series Anomaly Detection Benchmark"). A labelled run is a run of
labelled events of one entity. A message inside the run detects it. The expected recall of as
many messages at random times is reported too.
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
VUS_THRESHOLDS = 250  # the library's default


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
    metricor = library()
    labels, score = labels.astype(int), np.asarray(score, np.float64)
    return Ranking(
        float(metricor.metric_PR(labels, score)),
        vus_pr(score, labels),
        float(metricor.metric_PointF1(labels, score)),
    )


def vus_pr(score: NDArray[Any], labels: NDArray[Any], window: int = VUS_WINDOW) -> float:
    """Volume under the precision-recall surface over thresholds and widths of labels.

    Paparrizos et al. 2022, "Volume Under the Surface". The result is that of the
    library, whose functions are called here. The library walks all rows for each pair of
    threshold and width, which takes seconds per series. Here each row is counted once, at the
    first threshold that it reaches.
    """
    metricor = library()
    labels = labels.astype(int)
    runs = metricor.range_convers_new(labels)
    levels = -np.sort(-score)[np.linspace(0, len(score) - 1, VUS_THRESHOLDS).astype(int)]
    first = np.searchsorted(-levels, -score)  # (T,) the first threshold each row reaches

    def reached(weights: NDArray[Any]) -> NDArray[Any]:
        return np.cumsum(np.bincount(first, weights, VUS_THRESHOLDS + 1))[:-1]

    predicted, labelled = reached(np.ones(len(score))), reached(labels)
    volume = 0.0
    for width in range(window + 1):
        extended = metricor.sequencing(labels, runs, width)
        areas = metricor.new_sequence(extended, runs, width)
        true = reached(extended)
        positives = (labels.sum() + labels.sum() + true - labelled) / 2
        earliest = np.sort([first[start : end + 1].min() for start, end in areas])
        existence = np.searchsorted(earliest, np.arange(VUS_THRESHOLDS), side="right") / len(areas)
        recall = np.minimum(true / positives, 1.0) * existence
        volume += float(np.dot(np.diff(recall, prepend=0.0), true / predicted))
    return volume / (window + 1)


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


def library() -> Any:
    """The metrics of TSB_AD, which only the environment for training contains.

    Raises:
        ConfigError: the library is not installed.
    """
    try:
        from TSB_AD.evaluation.basic_metrics import basic_metricor
    except ImportError as error:
        raise ConfigError(
            f"evaluate: needs TSB_AD and scikit-learn ({error}); run `make train-env`"
        ) from error
    return basic_metricor()
