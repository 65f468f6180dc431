from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamgauge.pipeline.report.summary import (
    ScoredSeries,
    alerts_of,
    labelled_anomalies_of,
    summarise,
)

DAY_US = 86_400_000_000
MINUTE_US = 60_000_000
ISSUE_KEYS = (
    "events",
    "entities",
    "alerts",
    "labelled_anomalies",
    "event_recall",
    "false_alerts_per_entity_day",
    "seconds",
)


def _series(entity_id: str, labels: list[int] | None, rows: int = 1440) -> ScoredSeries:
    """One day, an event a minute; `labels` are the labelled rows."""
    times = np.arange(rows, dtype=np.int64) * MINUTE_US
    marked = None
    if labels is not None:
        marked = np.zeros(rows, np.uint8)
        marked[labels] = 1
    scores = np.zeros(rows, np.float32)
    return ScoredSeries(entity_id, times, scores, scores, scores[:, None], marked)


def _alert(entity_id: str, opened: int, at: int | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"{entity_id}-{opened}-{at}",
        "alert_id": f"{entity_id}-{opened}",
        "status": "opened" if at is None else "closed",
        "entity_id": entity_id,
        "event": {"time_us": (opened if at is None else at) * MINUTE_US},
        "window": {"opened_time_us": opened * MINUTE_US},
        "rarity_1_in_n": 1e4,
        "severity": "warning",
        **fields,
    }


def _opened_and_closed(entity_id: str, opened: int, closed: int) -> list[dict[str, Any]]:
    return [_alert(entity_id, opened), _alert(entity_id, opened, closed)]


def test_labelled_anomalies_are_runs_of_labels() -> None:
    runs = labelled_anomalies_of(_series("a", [0, 1, 2, 10, 1439]))
    assert [(r.first_us // MINUTE_US, r.last_us // MINUTE_US) for r in runs] == [
        (0, 2),
        (10, 10),
        (1439, 1439),
    ]


def test_labelled_anomalies_follow_time_even_if_the_log_does_not() -> None:
    times = np.array([3, 1, 2, 0], np.int64)
    flat = np.zeros(4, np.float32)
    series = ScoredSeries("a", times, flat, flat, flat[:, None], np.array([0, 1, 1, 0], np.uint8))
    assert [(r.first_us, r.last_us) for r in labelled_anomalies_of(series)] == [(1, 2)]


def test_recall_and_false_alerts_by_hand() -> None:
    series = [_series("a", [*range(100, 110), *range(500, 510)]), _series("b", [])]
    alerts = [
        *_opened_and_closed("a", 105, 120),  # finds the first anomaly
        *_opened_and_closed("a", 300, 310),  # false
        *_opened_and_closed("b", 505, 506),  # false: the anomaly is of another entity
    ]
    summary = summarise(series, alerts, 12.3456)
    assert summary["event_recall"] == 0.5
    assert summary["false_alerts_per_entity_day"] == 1.0  # two in two entity-days
    assert (summary["events"], summary["entities"], summary["alerts"]) == (2880, 2, 3)
    assert summary["labelled_anomalies"] == 2
    assert summary["seconds"] == 12.346
    assert summary["detection_delay_s_median"] == 300.0
    assert list(summary)[:7] == list(ISSUE_KEYS)


def test_an_alert_that_is_open_when_an_anomaly_begins_finds_it_and_is_not_false() -> None:
    summary = summarise([_series("a", [100])], _opened_and_closed("a", 90, 100), 1)
    assert summary["event_recall"] == 1.0
    assert summary["false_alerts"] == 0


def test_an_alert_that_closes_before_an_anomaly_is_false() -> None:
    summary = summarise([_series("a", [100])], _opened_and_closed("a", 90, 99), 1)
    assert summary["event_recall"] == 0.0
    assert summary["false_alerts"] == 1


def test_an_open_alert_lasts_to_the_end() -> None:
    summary = summarise([_series("a", [1400])], [_alert("a", 90)], 1)
    assert summary["event_recall"] == 1.0


def test_repeated_records_count_once() -> None:
    alerts = _opened_and_closed("a", 100, 110)
    assert summarise([_series("a", [105])], alerts + alerts, 1)["alerts"] == 1


def test_entities_without_labels_count_neither_way() -> None:
    series = [_series("a", None), _series("b", [])]
    summary = summarise(series, _opened_and_closed("a", 10, 20), 1)
    assert summary["false_alerts_per_entity_day"] == 0.0
    assert summary["event_recall"] is None
    assert summary["alerts"] == 1
    assert summarise(series[:1], [], 1)["false_alerts_per_entity_day"] is None


def test_recall_by_chance_is_high_for_an_alert_that_never_closes() -> None:
    series = [_series("a", list(range(700, 720)))]
    always = summarise(series, _opened_and_closed("a", 0, 1439), 1)
    once = summarise(series, _opened_and_closed("a", 0, 53), 1)
    assert always["event_recall_by_chance"] == 1.0
    assert once["event_recall_by_chance"] == pytest.approx((53 + 19) / 1440, abs=1e-3)


def test_an_alert_has_the_rarity_of_its_rarest_record() -> None:
    alerts = [
        _alert("a", 5, rarity_1_in_n=10.0),
        _alert("a", 5, 9, rarity_1_in_n=1e7, severity="critical"),
        _alert("b", 3, 4),
    ]
    joined = alerts_of(alerts)
    assert [(e.entity_id, e.rarity_1_in_n, e.severity) for e in joined] == [
        ("b", 1e4, "warning"),
        ("a", 1e7, "critical"),
    ]
    assert joined[1].closed_us == 9 * MINUTE_US


def test_updates_count_as_messages_and_closings_do_not() -> None:
    alerts = _opened_and_closed("a", 5, 90)
    alerts += [_alert("a", 5, at, status="updated") for at in (30, 60, 60)]  # one came twice
    alerts += [_alert("b", 7, 8, status="updated")]  # its opening was before the range
    one, other = alerts_of(alerts)
    assert [(a["status"], a["event"]["time_us"] // MINUTE_US) for a in one.messages] == [
        ("opened", 5),
        ("updated", 30),
        ("updated", 60),
    ]
    assert (other.opened_us, other.closed_us) == (7 * MINUTE_US, None)
    summary = summarise([_series("a", None), _series("b", None)], alerts, 1)
    assert (summary["alerts"], summary["messages"]) == (2, 4)


def test_extras_are_added_as_they_are() -> None:
    assert summarise([], [], 0, dead_letters=3)["dead_letters"] == 3
