"""Sets alerts against labels: how many incidents were found, and at what price.

An incident is a run of labelled events of one entity. It is found if an alert, from opening
to closing, overlaps it. One that overlaps no incident is a false alert. Entities without
labels count neither way. Because a random detector finds long incidents too, the
recall it would reach with as many and as long alerts is reported beside the real one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DAY_US = 86_400_000_000

Alert = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSeries:
    """Events of one entity with what the pipeline made of them, in log order."""

    entity_id: str
    #: (T,) int64, microseconds since 1970-01-01 UTC.
    event_time_us: np.ndarray
    #: (T,) float32, high is anomalous.
    score: np.ndarray
    #: (T,) float32, "once in N events of this entity".
    rarity_1_in_n: np.ndarray
    #: (T, F) float32 in raw units, NaN where missing.
    values: np.ndarray
    #: (T,) uint8, 1 = anomalous; None where nothing is known.
    labels: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class LabelledAnomaly:
    """A run of labelled events, first and last event time included."""

    entity_id: str
    first_us: int
    last_us: int


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """An alert from opening to closing."""

    alert_id: str
    entity_id: str
    opened_us: int
    #: None while it is open.
    closed_us: int | None
    #: Why it closed, as in the alert record; None while it is open.
    reason: str | None
    #: The rarest event reported.
    rarity_1_in_n: float
    severity: str
    #: The record of its opening, or the first known one.
    alert: Alert
    #: Records of what people were told: that it opened, and reminders. In order of time.
    messages: tuple[Alert, ...]

    def overlaps(self, incident: LabelledAnomaly) -> bool:
        """Whether the two share a moment."""
        ended = self.closed_us is None or self.closed_us >= incident.first_us
        return ended and self.opened_us <= incident.last_us


def summarise(
    series: Sequence[ScoredSeries], alerts: Iterable[Alert], seconds: float, **extras: Any
) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
        series: every entity that was scored.
        alerts: alert records, repeats allowed.
        seconds: wall-clock time of the run.
        extras: added as they are, for instance `dead_letters`.

    Returns:
        Plain JSON types. `event_recall` is None without incidents,
        `false_alerts_per_entity_day` is None without labels.
    """
    episodes = episodes_of(alerts)
    labelled = [one for one in series if one.labels is not None]
    judged = {one.entity_id: (incidents_of(one), _of(episodes, one)) for one in labelled}
    incidents = [i for found, _ in judged.values() for i in found]
    delays = [
        min(max(0, episode.opened_us - incident.first_us) for episode in hits)
        for ours, theirs in judged.values()
        for incident in ours
        if (hits := [episode for episode in theirs if episode.overlaps(incident)])
    ]
    false_alerts = sum(
        not any(episode.overlaps(incident) for incident in ours)
        for ours, theirs in judged.values()
        for episode in theirs
    )
    days = sum(_span_us(one) for one in labelled) / DAY_US
    return {
        "events": sum(len(one.score) for one in series),
        "entities": len(series),
        "alerts": len(episodes),
        "labelled_anomalies": len(incidents),
        "event_recall": _ratio(len(delays), len(incidents)),
        "false_alerts_per_entity_day": _ratio(false_alerts, days),
        "seconds": round(seconds, 3),
        "incidents_found": len(delays),
        "false_alerts": false_alerts,
        "entity_days": round(days, 3),
        "messages": sum(len(episode.messages) for episode in episodes),
        "event_recall_by_chance": recall_by_chance(labelled, episodes),
        "detection_delay_s_median": float(np.median(delays)) / 1e6 if delays else None,
        **extras,
    }


def episodes_of(alerts: Iterable[Alert]) -> list[Episode]:
    """Put the records of each alert together, in the order of opening."""
    records: dict[str, dict[str, Alert]] = {}
    for alert in alerts:
        records.setdefault(alert["alert_id"], {})[alert["id"]] = alert
    episodes = [_episode(alert_id, found.values()) for alert_id, found in records.items()]
    return sorted(episodes, key=lambda e: (e.opened_us, e.entity_id, e.alert_id))


def _episode(alert_id: str, records: Iterable[Alert]) -> Episode:
    ordered = sorted(records, key=lambda one: int(one["event"]["time_us"]))
    messages = tuple(one for one in ordered if one["status"] != "closed")
    closed = next((one for one in ordered if one["status"] == "closed"), None)
    first = next((one for one in ordered if one["status"] == "opened"), ordered[0])
    rarest = max(ordered, key=rarity_1_in_n)
    return Episode(
        alert_id,
        first["entity_id"],
        int(first["window"]["opened_time_us"]),
        None if closed is None else int(closed["event"]["time_us"]),
        None if closed is None else closed.get("reason"),
        rarity_1_in_n(rarest),
        rarest["severity"],
        first,
        messages,
    )


def rarity_1_in_n(alert: Alert) -> float:
    """An alert's rarity; JSON has no infinity, so "never seen before" is null there."""
    value = alert["rarity_1_in_n"]
    return math.inf if value is None else float(value)


def incidents_of(series: ScoredSeries) -> list[LabelledAnomaly]:
    """Runs of labelled events in time order; a gap in time does not end a run."""
    if series.labels is None:
        return []
    order = np.argsort(series.event_time_us, kind="stable")
    times = series.event_time_us[order]
    edges = np.diff(np.concatenate(([0], series.labels[order] != 0, [0])).astype(np.int8))
    firsts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [
        LabelledAnomaly(series.entity_id, int(times[first]), int(times[end - 1]))
        for first, end in zip(firsts, ends, strict=True)
    ]


def recall_by_chance(series: Iterable[ScoredSeries], episodes: Sequence[Episode]) -> float | None:
    """Expected recall if each episode lay anywhere in its entity's time with equal chance."""
    missed = []
    for one in series:
        lengths = _lengths_us(one, _of(episodes, one))
        for incident in incidents_of(one):
            width = lengths + (incident.last_us - incident.first_us)
            missed.append(float(np.prod(1 - np.minimum(1.0, width / max(1, _span_us(one))))))
    return round(1 - float(np.mean(missed)), 4) if missed else None


def _lengths_us(series: ScoredSeries, episodes: Sequence[Episode]) -> np.ndarray:
    end = int(series.event_time_us.max(initial=0))
    closed = [end if e.closed_us is None else e.closed_us for e in episodes]
    return np.array([c - e.opened_us for c, e in zip(closed, episodes, strict=True)], np.int64)


def _of(episodes: Sequence[Episode], series: ScoredSeries) -> list[Episode]:
    return [episode for episode in episodes if episode.entity_id == series.entity_id]


def _span_us(series: ScoredSeries) -> int:
    """Time the events stand for: one mean gap more than from the first to the last."""
    count = len(series.event_time_us)
    if count < 2:
        return 0
    length = int(series.event_time_us.max() - series.event_time_us.min())
    return length + length // (count - 1)


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
