from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.alerts.tail import (
    AlertMessage,
    as_json_line,
    decoded,
    line,
    tail,
    unrepeated,
    wants_colour,
)

ALERT: dict[str, Any] = {
    "id": "9f",
    "alert_id": "9e",
    "status": "opened",
    "severity": "critical",
    "entity_id": "web-1",
    "event": {
        "topic": "t",
        "partition": 2,
        "offset": 7,
        "row": 0,
        "time_us": 1_704_067_205_000_000,
    },
    "score": 9.5,
    "threshold": 4.0,
    "rarity_1_in_n": 123_456.0,
    "model": {"digest": "ab"},
    "features": [
        {"name": "cpu", "value": 0.75, "expected": 0.125, "contribution": 0.6},
        {"name": "disk", "value": None, "expected": 3_400_000.0, "contribution": 0.2},
    ],
    "window": {"opened_time_us": 1_704_067_200_000_000, "events": 3},
    "explanation": "",
}


def _message(event_id: str, offset: int = 0) -> AlertMessage:
    return AlertMessage("alerts", 0, offset, {"ce_id": event_id}, ALERT)


def test_an_opened_alert_says_when_how_bad_who_how_rare_and_why() -> None:
    assert line(ALERT) == (
        "2024-01-01 00:00:05  critical  web-1  once in 120,000: "
        "cpu 0.75 (expected 0.125), disk missing (expected 3.4M)"
    )


def test_a_closed_alert_says_how_long_it_lasted() -> None:
    assert line({**ALERT, "status": "closed"}) == (
        "2024-01-01 00:00:05  closed    web-1  back to normal after 5 s, 3 events"
    )


def test_a_closed_alert_says_what_the_new_normal_is() -> None:
    assert line({**ALERT, "status": "closed", "reason": "new_normal"}) == (
        "2024-01-01 00:00:05  closed    web-1  new normal after 5 s, 3 events: "
        "cpu 0.125 -> 0.75, disk 3.4M -> missing"
    )


def test_a_reminder_says_since_when() -> None:
    assert line({**ALERT, "status": "updated"}).startswith(
        "2024-01-01 00:00:05  critical  web-1  still, after 5 s, 3 events, once in 120,000: cpu"
    )


def test_a_rarity_beyond_json_is_told() -> None:
    assert "or rarer" in line({**ALERT, "rarity_1_in_n": None})


def test_names_from_outside_cannot_steer_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\n\u202eweb"
    features = [{"name": hostile, "value": 1, "expected": 2, "contribution": 1}]
    text = line({**ALERT, "entity_id": hostile, "severity": hostile, "features": features})
    assert not set(text) & set("\x1b\x07\n\u202e")


def test_repeats_are_shown_once_within_a_bounded_memory() -> None:
    ids = ["a", "b", "a", "c", "b", "d", "a"]
    shown = [message.event_id for message in unrepeated((_message(i) for i in ids), remembered=2)]
    assert shown == ["a", "b", "c", "b", "d", "a"]
    assert [m.event_id for m in unrepeated(_message(i) for i in ids)] == ["a", "b", "c", "d"]


def test_messages_without_an_id_are_never_taken_for_repeats() -> None:
    messages = [AlertMessage("alerts", 0, offset, {}, ALERT) for offset in (1, 2)]
    assert len(list(unrepeated(messages))) == 2


def test_a_json_line_is_the_record_and_its_place() -> None:
    message = decoded("alerts", 3, 42, [("ce_id", b"9f")], msgspec.json.encode(ALERT))
    record = json.loads(as_json_line(message))
    assert record.pop("kafka") == {
        "topic": "alerts",
        "partition": 3,
        "offset": 42,
        "headers": {"ce_id": "9f"},
    }
    assert record == ALERT


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b"null", b"{}", b'{"entity_id": 1}'])
def test_what_is_no_alert_is_told_apart(value: bytes) -> None:
    assert decoded("alerts", 0, 0, [], value).alert is None


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())
    assert "\x1b[1;31mcritical" in line(ALERT, colour=True)
    assert "\x1b" not in line(ALERT)


def test_an_unreachable_broker_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1: "):
        tail("127.0.0.1:1", "alerts", narrate=lambda text: None)
