"""One HTML file that shows what was found: it opens offline and needs nothing beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from streamgauge.models.blocks.scored_block import NEW_NORMAL
from streamgauge.pipeline.console import formatting
from streamgauge.pipeline.report import plots
from streamgauge.pipeline.report.plots import Figure, TimeAxis
from streamgauge.pipeline.report.summary import (
    Alert,
    Episode,
    LabelledAnomaly,
    ScoredSeries,
    episodes_of,
    incidents_of,
)

TEMPLATE = Path(__file__).with_name("page.html")

ENTITIES_SHOWN = 12  # the worst ones; 12 keep the file below 1.5 MB
ALERTS_SHOWN, ALERTS_SHOWN_FIRST = 200, 15  # the rest of them is folded away
FEATURES_SHOWN = 3
CLOSE_UP_EVENTS = 150  # on each side of the alert

# The headline, in this order: key of the summary, what people call it, what it means.
HEADLINES = (
    ("events", "events", "scored"),
    ("entities", "entities", "each with a memory of its own"),
    ("alerts", "alerts", "from opening to closing, however long"),
    ("messages", "messages", "alerts that opened, and reminders"),
    ("labelled_anomalies", "incidents", "runs of events labelled anomalous"),
    ("event_recall", "recall", "share of labelled incidents that an alert overlaps"),
    ("false_alerts_per_entity_day", "false alerts", "per entity and day"),
    ("seconds", "seconds", "wall-clock time of the run"),
)


@dataclass(frozen=True, slots=True, eq=False)
class ReportData:
    """Everything a report shows."""

    title: str
    subtitle: str
    #: As `pipeline.summary.summarise` makes it.
    summary: Mapping[str, Any]
    feature_names: tuple[str, ...]
    series: Sequence[ScoredSeries]
    #: Alert records: opened, updated and closed.
    alerts: Sequence[Alert]
    #: Further facts for the foot of the page, name and value.
    facts: Mapping[str, str] = field(default_factory=dict)


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
    #: "hit", "false" or "" where nothing is known.
    judgement: str
    features: tuple[_Feature, ...]


@dataclass(frozen=True, slots=True)
class _EntityCard:
    entity_id: str
    anchor: str
    facts: tuple[str, ...]
    figures: tuple[Figure, ...]


def render(report: ReportData) -> str:
    """The page as text; every foreign string in it is escaped."""
    episodes = episodes_of(report.alerts)
    incidents = {one.entity_id: incidents_of(one) for one in report.series}
    known = {one.entity_id for one in report.series if one.labels is not None}
    shown = worst_first(report.series, episodes)[:ENTITIES_SHOWN]
    anchors = {one.entity_id: f"entity-{place}" for place, one in enumerate(shown)}
    rarest = sorted(episodes, key=lambda episode: -episode.rarity_1_in_n)[:ALERTS_SHOWN]
    rows = [_alert_row(episode, anchors, known, incidents) for episode in rarest]
    cards = [
        _card(
            report,
            one,
            anchors[one.entity_id],
            [episode for episode in episodes if episode.entity_id == one.entity_id],
            incidents[one.entity_id],
        )
        for one in shown
    ]
    return _template().render(
        title=formatting.plain(report.title),
        subtitle=formatting.plain(report.subtitle, formatting.SENTENCE_CHARACTERS_MAX),
        headlines=_headlines(report.summary),
        chance=report.summary.get("event_recall_by_chance"),
        rows=rows,
        first=ALERTS_SHOWN_FIRST,
        episodes=len(episodes),
        cards=cards,
        entities=len(report.series),
        facts={
            formatting.plain(name): formatting.plain(value, formatting.SENTENCE_CHARACTERS_MAX)
            for name, value in report.facts.items()
        },
        plot=plots,
    )


def worst_first(series: Sequence[ScoredSeries], episodes: Sequence[Episode]) -> list[ScoredSeries]:
    """Entities by their rarest alert, then by the number of alerts, then by their top score."""
    count = Counter(episode.entity_id for episode in episodes)
    rarest: dict[str, float] = {}
    for episode in episodes:
        rarest[episode.entity_id] = max(episode.rarity_1_in_n, rarest.get(episode.entity_id, 0.0))

    def badness(one: ScoredSeries) -> tuple[float, int, float]:
        top = float(np.nanmax(one.score, initial=-np.inf))
        return rarest.get(one.entity_id, 0.0), count[one.entity_id], top

    return sorted(series, key=badness, reverse=True)


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
    episode: Episode,
    anchors: Mapping[str, str],
    known: set[str],
    incidents: Mapping[str, Sequence[LabelledAnomaly]],
) -> _AlertRow:
    judgement = ""
    if episode.entity_id in known:
        hit = any(episode.overlaps(incident) for incident in incidents[episode.entity_id])
        judgement = "hit" if hit else "false"
    open_ = episode.closed_us is None
    lasted = "still open" if open_ else formatting.duration(episode.closed_us - episode.opened_us)  # type: ignore[operator]
    if episode.reason == NEW_NORMAL:
        lasted += ", new normal"
    return _AlertRow(
        formatting.plain(episode.entity_id),
        anchors.get(episode.entity_id),
        formatting.moment(episode.opened_us),
        lasted,
        episode.severity,
        formatting.rarity(episode.rarity_1_in_n),
        judgement,
        tuple(_feature(one) for one in episode.alert["features"][:FEATURES_SHOWN]),
    )


def _feature(record: Mapping[str, Any]) -> _Feature:
    return _Feature(
        formatting.plain(record["name"]),
        formatting.number(record["value"]),
        formatting.number(record["expected"]),
        f"{record['contribution']:.0%}" if 0 <= record["contribution"] <= 1 else "",
    )


def _card(
    report: ReportData,
    one: ScoredSeries,
    anchor: str,
    episodes: list[Episode],
    incidents: list[LabelledAnomaly],
) -> _EntityCard:
    features = _telling_features(report, one, episodes)
    axis = TimeAxis(int(one.event_time_us.min()), int(one.event_time_us.max()))
    figures = [_figure("the whole time", report, one, features, axis, episodes, incidents)]
    if episodes:
        worst = max(episodes, key=lambda episode: episode.rarity_1_in_n)
        near = _close_up(one, worst)
        caption = f"close-up of the rarest alert, opened {formatting.moment(worst.opened_us)}"
        nearby = _telling_features(report, one, [worst])
        figures.append(_figure(caption, report, one, nearby, near, episodes, incidents))
    found = sum(any(e.overlaps(incident) for e in episodes) for incident in incidents)
    facts = [f"{len(one.score):,} events", _count(len(episodes), "alert")]
    if one.labels is not None:
        facts.append(f"{found} of {_count(len(incidents), 'labelled incident')} found")
    if episodes:
        facts.append(formatting.rarity(max(episode.rarity_1_in_n for episode in episodes)))
    return _EntityCard(formatting.plain(one.entity_id), anchor, tuple(facts), tuple(figures))


def _telling_features(
    report: ReportData, one: ScoredSeries, episodes: Sequence[Episode]
) -> list[int]:
    """Columns that contributed most to this entity's alerts, else those that move most."""
    total: Counter[str] = Counter()
    for episode in episodes:
        for record in episode.alert["features"]:
            total[record["name"]] += record["contribution"]
    names = [name for name, _ in total.most_common() if name in report.feature_names]
    chosen = [report.feature_names.index(name) for name in names[:FEATURES_SHOWN]]
    spread = np.nan_to_num(_relative_spread(one.values))
    others = [int(place) for place in np.argsort(-spread, kind="stable") if place not in chosen]
    return (chosen + others)[:FEATURES_SHOWN]


def _relative_spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation over range, (F,): how much of its range a feature really uses."""
    finite = np.where(np.isfinite(values), values, 0.0).astype(np.float64)
    reach = finite.max(axis=0) - finite.min(axis=0)
    return finite.std(axis=0) / np.where(reach > 0, reach, 1.0)


def _close_up(one: ScoredSeries, episode: Episode) -> TimeAxis:
    times = np.sort(one.event_time_us)
    last = int(times[-1]) if episode.closed_us is None else episode.closed_us
    first_row = int(np.searchsorted(times, episode.opened_us)) - CLOSE_UP_EVENTS
    last_row = int(np.searchsorted(times, last)) + CLOSE_UP_EVENTS
    return TimeAxis(int(times[max(0, first_row)]), int(times[min(len(times) - 1, last_row)]))


def _figure(
    caption: str,
    report: ReportData,
    one: ScoredSeries,
    features: Sequence[int],
    axis: TimeAxis,
    episodes: Sequence[Episode],
    incidents: Sequence[LabelledAnomaly],
) -> Figure:
    inside = (one.event_time_us >= axis.first_us) & (one.event_time_us <= axis.last_us)
    time_us, values, score = one.event_time_us[inside], one.values[inside], one.score[inside]
    panels = [
        plots.value_panel(
            formatting.plain(report.feature_names[column]), place, axis, time_us, values[:, column]
        )
        for place, column in enumerate(features)
    ]
    told = [_message(record) for episode in episodes for record in episode.messages]
    unit = _unit(one, told)
    panels.append(plots.score_panel(len(panels), axis, time_us, score, unit, told))
    bands = [
        axis.band(
            "incident",
            incident.first_us,
            incident.last_us,
            f"labelled incident, {formatting.moment(incident.first_us)} UTC, "
            f"{formatting.duration(incident.last_us - incident.first_us)}",
        )
        for incident in incidents
    ]
    for episode in episodes:
        last = axis.last_us if episode.closed_us is None else episode.closed_us
        title = (
            f"{episode.severity} alert, {formatting.moment(episode.opened_us)} UTC, "
            f"{formatting.rarity(episode.rarity_1_in_n)}"
        )
        bands.append(axis.band("alert", episode.opened_us, last, title))
    return plots.figure(caption, axis, panels, bands)


def _message(record: Alert) -> plots.Message:
    word = "opened" if record["status"] == "opened" else "told again"
    time_us, threshold = int(record["event"]["time_us"]), float(record["threshold"])
    title = f"{word}, {formatting.moment(time_us)} UTC, threshold {formatting.number(threshold)}"
    return plots.Message(time_us, threshold, title)


def _unit(one: ScoredSeries, told: Sequence[plots.Message]) -> float:
    """The score up to which the axis is linear: a threshold, or the top score if none is known."""
    known = [message.threshold for message in told] or one.score[np.isfinite(one.score)].tolist()
    unit = float(np.median(known)) if told else max(known, default=0.0)
    return float(f"{unit:.2g}") if unit > 0 else 1.0


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
