"""Renders the report: one HTML file with alerts and plots, which works offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from streamgauge.models.blocks.scored_block import NEW_NORMAL
from streamgauge.pipeline.console import formatting
from streamgauge.pipeline.report import plots
from streamgauge.pipeline.report.plots import Figure, TimeAxis
from streamgauge.pipeline.report.summary import (
    Alert,
    AlertRecord,
    LabelledAnomaly,
    ScoredSeries,
    alerts_of,
    labelled_anomalies_of,
)

TEMPLATE = Path(__file__).with_name("page.html")

ENTITIES_SHOWN = 12  # the worst first; 12 keep the file below 1.5 MB
ALERTS_SHOWN, ALERTS_SHOWN_FIRST = 200, 15  # those after the first 15 are folded away
FEATURES_SHOWN = 3
CLOSE_UP_EVENTS = 150  # on each side of the alert

# The tiles at the top, in this order: key of the summary, name, meaning.
HEADLINES = (
    ("events", "events", "scored"),
    ("entities", "entities", "each scored against its own history"),
    ("alerts", "alerts", "from opening to closing, however long"),
    ("messages", "messages", "openings and updates of alerts"),
    ("labelled_anomalies", "labelled anomalies", "runs of events that are labelled anomalous"),
    ("event_recall", "recall", "share of labelled anomalies that an alert overlaps"),
    ("false_alerts_per_entity_day", "false alerts", "per entity and day"),
    ("seconds", "seconds", "wall-clock time of the run"),
)


@dataclass(frozen=True, slots=True, eq=False)
class ReportData:
    """The content of a report."""

    title: str
    subtitle: str
    #: The result of `summary.summarise`.
    summary: Mapping[str, Any]
    feature_names: tuple[str, ...]
    series: Sequence[ScoredSeries]
    #: Records of the alert topic: opened, updated and closed.
    alert_records: Sequence[AlertRecord]
    #: Facts for the foot of the page: name and value.
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _EntityView:
    """One entity with its alerts and labelled anomalies."""

    series: ScoredSeries
    alerts: list[Alert]
    anomalies: list[LabelledAnomaly]


@dataclass(frozen=True, slots=True)
class _Feature:
    name: str
    value: str
    expected: str
    share: str


@dataclass(frozen=True, slots=True)
class _AlertRow:
    entity_id: str
    anchor: str | None
    opened: str
    lasted: str
    severity: str
    rarity: str
    #: "hit", "false", or "" for an entity without labels.
    judgement: str
    features: tuple[_Feature, ...]


@dataclass(frozen=True, slots=True)
class _EntityCard:
    entity_id: str
    anchor: str
    facts: tuple[str, ...]
    figures: tuple[Figure, ...]


def render(report: ReportData) -> str:
    """The report as the text of an HTML page; all text from outside is escaped."""
    alerts = alerts_of(report.alert_records)
    views = {entity.entity_id: _view(entity, alerts) for entity in report.series}
    shown = worst_first(report.series, alerts)[:ENTITIES_SHOWN]
    anchors = {entity.entity_id: f"entity-{number}" for number, entity in enumerate(shown)}
    rarest = sorted(alerts, key=lambda alert: -alert.rarity_1_in_n)[:ALERTS_SHOWN]
    return _template().render(
        title=formatting.plain(report.title),
        subtitle=formatting.plain(report.subtitle, formatting.SENTENCE_CHARACTERS_MAX),
        headlines=_headlines(report.summary),
        chance=report.summary.get("event_recall_by_chance"),
        rows=[_alert_row(alert, anchors, views) for alert in rarest],
        first=ALERTS_SHOWN_FIRST,
        alerts=len(alerts),
        cards=[_card(report, views[name], anchor) for name, anchor in anchors.items()],
        entities=len(report.series),
        facts={
            formatting.plain(name): formatting.plain(value, formatting.SENTENCE_CHARACTERS_MAX)
            for name, value in report.facts.items()
        },
        plot=plots,
    )


def _view(series: ScoredSeries, alerts: Sequence[Alert]) -> _EntityView:
    own = [alert for alert in alerts if alert.entity_id == series.entity_id]
    return _EntityView(series, own, labelled_anomalies_of(series))


def worst_first(series: Sequence[ScoredSeries], alerts: Sequence[Alert]) -> list[ScoredSeries]:
    """Entities ordered by their rarest alert, their number of alerts and their highest score."""
    count = Counter(alert.entity_id for alert in alerts)
    rarest: dict[str, float] = {}
    for alert in alerts:
        rarest[alert.entity_id] = max(alert.rarity_1_in_n, rarest.get(alert.entity_id, 0.0))

    def severity(entity: ScoredSeries) -> tuple[float, int, float]:
        top = float(np.nanmax(entity.score, initial=-np.inf))
        return rarest.get(entity.entity_id, 0.0), count[entity.entity_id], top

    return sorted(series, key=severity, reverse=True)


def _headlines(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    texts = []
    for key, name, meaning in HEADLINES:
        value = summary.get(key)
        if value is None:
            text = "–"
        elif key == "event_recall":
            text = f"{value:.0%}"
        else:
            text = f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
        texts.append((text, name, meaning))
    return texts


def _alert_row(
    alert: Alert, anchors: Mapping[str, str], views: Mapping[str, _EntityView]
) -> _AlertRow:
    view, judgement = views.get(alert.entity_id), ""
    if view is not None and view.series.labels is not None:
        hit = any(alert.overlaps(anomaly) for anomaly in view.anomalies)
        judgement = "hit" if hit else "false"
    if alert.closed_us is None:
        lasted = "still open"
    else:
        lasted = formatting.duration(alert.closed_us - alert.opened_us)
    if alert.reason == NEW_NORMAL:
        lasted += ", new normal"
    return _AlertRow(
        entity_id=formatting.plain(alert.entity_id),
        anchor=anchors.get(alert.entity_id),
        opened=formatting.moment(alert.opened_us),
        lasted=lasted,
        severity=alert.severity,
        rarity=formatting.rarity(alert.rarity_1_in_n),
        judgement=judgement,
        features=tuple(_feature(record) for record in alert.first["features"][:FEATURES_SHOWN]),
    )


def _feature(record: Mapping[str, Any]) -> _Feature:
    return _Feature(
        formatting.plain(record["name"]),
        formatting.number(record["value"]),
        formatting.number(record["expected"]),
        f"{record['contribution']:.0%}" if 0 <= record["contribution"] <= 1 else "",
    )


def _card(report: ReportData, view: _EntityView, anchor: str) -> _EntityCard:
    series, alerts = view.series, view.alerts
    whole = TimeAxis(int(series.event_time_us.min()), int(series.event_time_us.max()))
    features = _main_features(report, series, alerts)
    figures = [_figure("the whole time", report, view, features=features, axis=whole)]
    if alerts:
        worst = max(alerts, key=lambda alert: alert.rarity_1_in_n)
        caption = f"close-up of the rarest alert, opened {formatting.moment(worst.opened_us)}"
        features, axis = _main_features(report, series, [worst]), _close_up(series, worst)
        figures.append(_figure(caption, report, view, features=features, axis=axis))
    return _EntityCard(formatting.plain(series.entity_id), anchor, _facts(view), tuple(figures))


def _facts(view: _EntityView) -> tuple[str, ...]:
    series, alerts, anomalies = view.series, view.alerts, view.anomalies
    facts = [f"{len(series.score):,} events", _count(len(alerts), "alert", "alerts")]
    if series.labels is not None:
        detected = sum(any(alert.overlaps(anomaly) for alert in alerts) for anomaly in anomalies)
        total = _count(len(anomalies), "labelled anomaly", "labelled anomalies")
        facts.append(f"{detected} of {total} found")
    if alerts:
        facts.append(formatting.rarity(max(alert.rarity_1_in_n for alert in alerts)))
    return tuple(facts)


def _main_features(report: ReportData, series: ScoredSeries, alerts: Sequence[Alert]) -> list[int]:
    """Columns of the features that contributed most to the alerts, then those that vary most."""
    total: Counter[str] = Counter()
    for alert in alerts:
        for record in alert.first["features"]:
            total[record["name"]] += record["contribution"]
    names = [name for name, _ in total.most_common() if name in report.feature_names]
    chosen = [report.feature_names.index(name) for name in names[:FEATURES_SHOWN]]
    spread = np.nan_to_num(_relative_spread(series.values))
    others = [int(column) for column in np.argsort(-spread, kind="stable") if column not in chosen]
    return (chosen + others)[:FEATURES_SHOWN]


def _relative_spread(values: NDArray[Any]) -> NDArray[Any]:
    """Standard deviation divided by range, (F,): high for a feature that often changes."""
    finite = np.where(np.isfinite(values), values, 0.0).astype(np.float64)
    extent = finite.max(axis=0) - finite.min(axis=0)
    spread: NDArray[Any] = finite.std(axis=0) / np.where(extent > 0, extent, 1.0)
    return spread


def _close_up(series: ScoredSeries, alert: Alert) -> TimeAxis:
    """The time of the alert, with `CLOSE_UP_EVENTS` more events on each side."""
    times = np.sort(series.event_time_us)
    last = int(times[-1]) if alert.closed_us is None else alert.closed_us
    first_row = int(np.searchsorted(times, alert.opened_us)) - CLOSE_UP_EVENTS
    last_row = int(np.searchsorted(times, last)) + CLOSE_UP_EVENTS
    return TimeAxis(int(times[max(0, first_row)]), int(times[min(len(times) - 1, last_row)]))


def _figure(
    caption: str,
    report: ReportData,
    view: _EntityView,
    *,
    features: Sequence[int],
    axis: TimeAxis,
) -> Figure:
    """Panels of some features and of the score over one stretch of time."""
    series = view.series
    inside = (series.event_time_us >= axis.first_us) & (series.event_time_us <= axis.last_us)
    time_us, values = series.event_time_us[inside], series.values[inside]
    panels = [
        plots.value_panel(
            formatting.plain(report.feature_names[column]),
            index,
            axis,
            time_us=time_us,
            values=values[:, column],
        )
        for index, column in enumerate(features)
    ]
    messages = [_sent_message(record) for alert in view.alerts for record in alert.messages]
    panels.append(
        plots.score_panel(
            len(panels),
            axis,
            time_us=time_us,
            score=series.score[inside],
            unit=_unit(series, messages),
            messages=messages,
        )
    )
    return plots.figure(caption, axis, panels, _bands(view, axis))


def _bands(view: _EntityView, axis: TimeAxis) -> list[plots.Band | None]:
    bands = [
        axis.band(
            "anomaly",
            anomaly.first_us,
            anomaly.last_us,
            title=f"labelled anomaly, {formatting.moment(anomaly.first_us)} UTC, "
            f"{formatting.duration(anomaly.last_us - anomaly.first_us)}",
        )
        for anomaly in view.anomalies
    ]
    for alert in view.alerts:
        last = axis.last_us if alert.closed_us is None else alert.closed_us
        title = (
            f"{alert.severity} alert, {formatting.moment(alert.opened_us)} UTC, "
            f"{formatting.rarity(alert.rarity_1_in_n)}"
        )
        bands.append(axis.band("alert", alert.opened_us, last, title=title))
    return bands


def _sent_message(record: AlertRecord) -> plots.SentMessage:
    word = "opened" if record["status"] == "opened" else "updated"
    time_us, threshold = int(record["event"]["time_us"]), float(record["threshold"])
    title = f"{word}, {formatting.moment(time_us)} UTC, threshold {formatting.number(threshold)}"
    return plots.SentMessage(time_us, threshold, title)


def _unit(series: ScoredSeries, messages: Sequence[plots.SentMessage]) -> float:
    """The score up to which the axis is linear: the median threshold, else the highest score."""
    if messages:
        unit = float(np.median([message.threshold for message in messages]))
    else:
        unit = max(series.score[np.isfinite(series.score)].tolist(), default=0.0)
    return float(f"{unit:.2g}") if unit > 0 else 1.0


def _count(count: int, singular: str, plural: str) -> str:
    return f"{count:,} {singular if count == 1 else plural}"


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
