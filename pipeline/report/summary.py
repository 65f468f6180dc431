"""Compares alerts with labels: how many labelled anomalies were found, how many alerts are false.

A labelled anomaly is a run of labelled events of one entity. It is found if an alert, from its
opening to its closing, overlaps it. An alert that overlaps no labelled anomaly is false.
Entities without labels do not count. A random detector finds long anomalies too, so the recall
of as many random alerts of the same lengths is reported next to the recall.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.alerts.budget import DAY_US
from streamgauge.pipeline.data.labels import label_runs, recall_by_chance

#: A record of the alert topic: an alert opened, was updated, or closed.
AlertRecord = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSeries:
    """Events of one entity with their scores, in log order."""

    entity_id: str
    #: (T,) int64, microseconds since 1970-01-01 UTC.
    event_time_us: NDArray[Any]
    #: (T,) float32, high is anomalous.
    score: NDArray[Any]
    #: (T,) float32, "once in N events of this entity".
    rarity_1_in_n: NDArray[Any]
    #: (T, F) float32 in raw units, NaN where missing.
    values: NDArray[Any]
    #: (T,) uint8, 1 = anomalous; None for an entity without labels.
    labels: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class LabelledAnomaly:
    """A run of labelled events, from the first to the last event time."""

    entity_id: str
    first_us: int
    last_us: int


@dataclass(frozen=True, slots=True, eq=False)
class Alert:
    """An alert from its opening to its closing, made of its records."""

    alert_id: str
    entity_id: str
    opened_us: int
    #: None while it is open.
    closed_us: int | None
    #: The reason of its closing, as in the record; None while it is open.
    reason: str | None
    #: Rarity of the rarest event in the records.
    rarity_1_in_n: float
    severity: str
    #: The record of its opening, or the first known record.
    first: AlertRecord
    #: The records of opening and updates in order of time; a closing is not a message.
    messages: tuple[AlertRecord, ...]

    def overlaps(self, anomaly: LabelledAnomaly) -> bool:
        """Whether alert and anomaly have a time in common."""
        is_open = self.closed_us is None or self.closed_us >= anomaly.first_us
        return is_open and self.opened_us <= anomaly.last_us


def summarise(
    series: Sequence[ScoredSeries], records: Iterable[AlertRecord], seconds: float, **extras: Any
) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
        series: every entity that was scored.
        records: alert records; repeats are allowed.
        seconds: wall-clock time of the run.
        extras: further entries, for instance `dead_letters`.

    Returns:
        Plain JSON types. `event_recall` is None without labelled anomalies,
        `false_alerts_per_entity_day` is None without labels.
    """
    alerts = alerts_of(records)
    labelled = [entity for entity in series if entity.labels is not None]
    judged = [(labelled_anomalies_of(entity), _alerts_on(entity, alerts)) for entity in labelled]
    anomalies = sum(len(of_entity) for of_entity, _ in judged)
    delays = _delays_us(judged)
    false_alerts = sum(
        not any(alert.overlaps(anomaly) for anomaly in of_entity)
        for of_entity, raised in judged
        for alert in raised
    )
    days = sum(_span_us(entity) for entity in labelled) / DAY_US
    return {
        "events": sum(len(entity.score) for entity in series),
        "entities": len(series),
        "alerts": len(alerts),
        "labelled_anomalies": anomalies,
        "event_recall": _ratio(len(delays), anomalies),
        "false_alerts_per_entity_day": _ratio(false_alerts, days),
        "seconds": round(seconds, 3),
        "labelled_anomalies_found": len(delays),
        "false_alerts": false_alerts,
        "entity_days": round(days, 3),
        "messages": sum(len(alert.messages) for alert in alerts),
        "event_recall_by_chance": random_recall(labelled, alerts),
        "detection_delay_s_median": float(np.median(delays)) / 1e6 if delays else None,
        **extras,
    }


def _delays_us(judged: Iterable[tuple[list[LabelledAnomaly], list[Alert]]]) -> list[int]:
    """For each labelled anomaly that was found, the time until its first alert."""
    delays = []
    for anomalies, alerts in judged:
        for anomaly in anomalies:
            hits = [alert.opened_us for alert in alerts if alert.overlaps(anomaly)]
            if hits:
                delays.append(min(max(0, opened_us - anomaly.first_us) for opened_us in hits))
    return delays


def alerts_of(records: Iterable[AlertRecord]) -> list[Alert]:
    """The alerts that `records` describe, in the order of opening."""
    by_alert: dict[str, dict[str, AlertRecord]] = {}
    for record in records:
        by_alert.setdefault(record["alert_id"], {})[record["id"]] = record
    alerts = [_alert(alert_id, distinct.values()) for alert_id, distinct in by_alert.items()]
    return sorted(alerts, key=lambda alert: (alert.opened_us, alert.entity_id, alert.alert_id))


def _alert(alert_id: str, records: Iterable[AlertRecord]) -> Alert:
    ordered = sorted(records, key=lambda record: int(record["event"]["time_us"]))
    closed = next((record for record in ordered if record["status"] == "closed"), None)
    first = next((record for record in ordered if record["status"] == "opened"), ordered[0])
    rarest = max(ordered, key=rarity_1_in_n)
    return Alert(
        alert_id=alert_id,
        entity_id=first["entity_id"],
        opened_us=int(first["window"]["opened_time_us"]),
        closed_us=None if closed is None else int(closed["event"]["time_us"]),
        reason=None if closed is None else closed.get("reason"),
        rarity_1_in_n=rarity_1_in_n(rarest),
        severity=rarest["severity"],
        first=first,
        messages=tuple(record for record in ordered if record["status"] != "closed"),
    )


def rarity_1_in_n(record: AlertRecord) -> float:
    """The rarity in an alert record; JSON has no infinity, so null stands for it."""
    value = record["rarity_1_in_n"]
    return math.inf if value is None else float(value)


def labelled_anomalies_of(series: ScoredSeries) -> list[LabelledAnomaly]:
    """Runs of labelled events in order of time; a gap in time does not end a run."""
    if series.labels is None:
        return []
    order = np.argsort(series.event_time_us, kind="stable")
    times = series.event_time_us[order]
    return [
        LabelledAnomaly(series.entity_id, int(times[first]), int(times[end - 1]))
        for first, end in label_runs(series.labels[order])
    ]


def random_recall(series: Iterable[ScoredSeries], alerts: Sequence[Alert]) -> float | None:
    """The expected recall if each alert were at a random time of its entity."""
    shares = []
    for entity in series:
        lengths = _lengths_us(entity, _alerts_on(entity, alerts))
        for anomaly in labelled_anomalies_of(entity):
            width = lengths + (anomaly.last_us - anomaly.first_us)
            shares.append(width / max(1, _span_us(entity)))
    recall = recall_by_chance(shares)
    return None if recall is None else round(recall, 4)


def _lengths_us(series: ScoredSeries, alerts: Sequence[Alert]) -> NDArray[Any]:
    """The duration (A,) of each alert; an open alert lasts to the end of the series."""
    end = int(series.event_time_us.max(initial=0))
    closed = [end if alert.closed_us is None else alert.closed_us for alert in alerts]
    return np.array(
        [c - alert.opened_us for c, alert in zip(closed, alerts, strict=True)], np.int64
    )


def _alerts_on(series: ScoredSeries, alerts: Sequence[Alert]) -> list[Alert]:
    return [alert for alert in alerts if alert.entity_id == series.entity_id]


def _span_us(series: ScoredSeries) -> int:
    """The time that the events cover: from the first to the last, plus one mean gap."""
    count = len(series.event_time_us)
    if count < 2:
        return 0
    length = int(series.event_time_us.max() - series.event_time_us.min())
    return length + length // (count - 1)


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
