from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

from streamgauge.pipeline.report import plots
from streamgauge.pipeline.report.page import ENTITIES_SHOWN, ReportData, render, worst_first
from streamgauge.pipeline.report.summary import ScoredSeries, alerts_of, summarise

MINUTE_US = 60_000_000
VOID = {"meta", "rect", "path"}


def _series(entity_id: str, rows: int = 400, features: int = 4, seed: int = 0) -> ScoredSeries:
    rng = np.random.default_rng(seed)
    times = 1_704_067_200_000_000 + MINUTE_US * np.arange(rows, dtype=np.int64)
    score = rng.random(rows).astype(np.float32)
    labels = np.zeros(rows, np.uint8)
    labels[100:110] = 1
    values = rng.random((rows, features)).astype(np.float32)
    return ScoredSeries(entity_id, times, score, score * 10, values, labels)


def _alert(series: ScoredSeries, row: int, status: str = "opened", **more: Any) -> dict[str, Any]:
    opened = int(series.event_time_us[row])
    at = opened + (5 * MINUTE_US if status == "closed" else 0)
    return {
        "id": f"{series.entity_id}-{row}-{status}",
        "alert_id": f"{series.entity_id}-{row}",
        "status": status,
        "entity_id": series.entity_id,
        "event": {"time_us": at},
        "window": {"opened_time_us": opened, "events": 5},
        "rarity_1_in_n": 12_345.0,
        "threshold": 0.25,
        "severity": "warning",
        "features": [{"name": "f1", "value": 0.75, "expected": 0.125, "contribution": 0.6}],
        **more,
    }


def _report(series: list[ScoredSeries], alerts: list[dict[str, Any]], **more: Any) -> ReportData:
    width = series[0].values.shape[1] if series else 1
    defaults = {
        "title": "Servers",
        "subtitle": "a day",
        "summary": summarise(series, alerts, 1.5),
        "feature_names": tuple(f"f{i}" for i in range(width)),
        "series": series,
        "alert_records": alerts,
    }
    return ReportData(**(defaults | more))


class _Elements(HTMLParser):
    """Collects elements, and fails on one that is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag


def test_an_alert_row_has_value_expected_value_rarity_and_judgement() -> None:
    series = _series("web-1")
    page = render(_report([series], [_alert(series, 105), _alert(series, 105, "closed")]))
    row = page[page.index("<tbody>") : page.index("</tbody>")]
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", row))
    assert "2024-01-01 01:45:00" in text
    assert "web-1" in text
    assert "5 min" in text
    assert "once in 12,000" in text
    assert "f1 0.75 expected 0.125 · 60%" in text
    assert " anomaly " in text
    assert "no anomaly" not in text
    missed = render(_report([series], [_alert(series, 300)]))
    assert "no anomaly" in missed


def test_a_page_is_well_formed_and_loads_nothing() -> None:
    series = _series("web-1")
    page = render(_report([series], [_alert(series, 105)]))
    elements = _Elements(page).found
    assert {tag for tag, _ in elements} & {"script", "link", "img", "iframe", "object"} == set()
    for _, attributes in elements:
        assert not {"src", "srcset", "data", "onclick", "onload"} & attributes.keys()
        assert attributes.get("href", "#")[:1] == "#"  # type: ignore[index]
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_names_from_outside_cannot_become_markup() -> None:
    name = "<script>alert(1)</script>\x1b[31m\u202e"
    series = _series(name)
    hostile = _alert(series, 105, features=[])
    hostile["features"] = [{"name": name, "value": 1, "expected": None, "contribution": 2.0}]
    page = render(_report([series], [hostile], title=name, subtitle=name, facts={name: name}))
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    _Elements(page)


def test_bands_show_the_alert_and_the_labelled_anomaly() -> None:
    series = _series("web-1")
    page = render(_report([series], [_alert(series, 105), _alert(series, 105, "closed")]))
    titles = re.findall(r'<title>([^<]*)</title><rect class="band (\w+)"', page)
    assert ("labelled anomaly, 2024-01-01 01:40:00 UTC, 9 min", "anomaly") in titles
    assert ("warning alert, 2024-01-01 01:45:00 UTC, once in 12,000", "alert") in titles


def test_worst_entities_come_first_and_their_number_is_bounded() -> None:
    series = [_series(f"host-{i:02d}", rows=50, seed=i) for i in range(30)]
    alerts = [_alert(series[7], 9), _alert(series[3], 9, rarity_1_in_n=1e9, severity="critical")]
    order = worst_first(series, alerts_of(alerts))
    assert [one.entity_id for one in order[:2]] == ["host-03", "host-07"]
    page = render(_report(series, alerts))
    assert page.count("<section") == ENTITIES_SHOWN
    assert "12 of 30 entities are shown" in page


def test_a_large_run_stays_below_one_and_a_half_megabytes() -> None:
    series = [_series(f"host-{i}", rows=25_000, seed=i) for i in range(14)]
    alerts = [_alert(one, row) for one in series for row in range(0, 25_000, 500)]
    page = render(_report(series, alerts))
    assert len(page.encode()) < 1_500_000
    assert "The 200 rarest of 700 alerts" in page


def test_a_spike_survives_downsampling() -> None:
    x = np.linspace(0, 900, 50_000)
    y = np.full(50_000, 50.0)
    y[31_234], y[31_236] = 1.0, 99.0
    drawn = plots.path(x, y)
    assert " 1L" in drawn
    assert " 99L" in drawn
    assert len(drawn) < 10_000


def test_missing_values_break_the_line() -> None:
    y = np.array([1.0, 2.0, np.nan, np.nan, 3.0, 4.0, np.nan])
    assert plots.path(np.arange(7.0), y) == "M0 1L1 2M4 3L5 4"
    assert plots.path(np.arange(2.0), np.full(2, np.nan)) == ""


def test_unordered_event_times_are_drawn_in_order() -> None:
    assert plots.path(np.array([2.0, 0.0, 1.0]), np.array([7.0, 5.0, 6.0])) == "M0 5L1 6L2 7"


def test_reports_without_alerts_labels_or_variation_are_rendered() -> None:
    flat = np.zeros(3, np.float32)
    times = np.arange(3, dtype=np.int64)
    blank = ScoredSeries("a", times, flat, flat, np.full((3, 2), np.nan, np.float32))
    one = ScoredSeries("b", times[:1], flat[:1], flat[:1], np.zeros((1, 2), np.float32))
    page = render(_report([blank, one], []))
    assert "No alert was raised" in page
    assert "nan" not in page.lower().replace("none", "")
    _Elements(page)
    _Elements(render(_report([], [])))


def test_messages_are_marked_at_the_threshold_that_they_exceeded() -> None:
    axis = plots.TimeAxis(0, 100)
    times = np.arange(100, dtype=np.int64)
    sent = [plots.SentMessage(50, 2.0, "opened"), plots.SentMessage(70, 200.0, "updated")]
    sent.append(plots.SentMessage(101, 2.0, "outside"))
    panel = plots.score_panel(
        0, axis, time_us=times, score=np.linspace(0, 5000, 100), unit=2.0, messages=sent
    )
    assert [tick.text for tick in panel.ticks] == ["0", "2", "200", "2k"]
    assert [(mark.x, mark.title) for mark in panel.marks] == [(450, "opened"), (630, "updated")]
    assert [mark.y for mark in panel.marks] == [panel.ticks[1].at, panel.ticks[2].at]


def test_an_update_is_marked_and_a_new_normal_is_named() -> None:
    one = _series("a")
    update = _alert(one, 9, "updated", event={"time_us": int(one.event_time_us[20])})
    closed = _alert(one, 9, "closed", reason="new_normal")
    page = render(_report([one], [_alert(one, 9), update, closed]))
    assert page.count('<path class="message"') == 1 + 2 * 2  # the legend, two marks, two figures
    assert "updated" in page
    assert "5 min, new normal" in page


def test_time_marks_are_round_and_few() -> None:
    day_us = 86_400_000_000
    ticks = plots.TimeAxis(1_704_067_200_000_000, 1_704_067_200_000_000 + day_us).ticks()
    assert [tick.text for tick in ticks][:3] == ["Jan 01 00:00", "Jan 01 03:00", "Jan 01 06:00"]
    for length in (10, 10**6, 10**9, day_us * 40, day_us * 4000):
        assert len(plots.TimeAxis(0, length).ticks()) <= 11
