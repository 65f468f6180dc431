from __future__ import annotations

import io
import json
import os
from typing import Any

import msgspec
import pytest

from streamgauge.models.blocks.scored_block import NEW_NORMAL, Transition
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.alerts import tail as tail_module
from streamgauge.pipeline.alerts.filters import AlertFilter, since_us
from streamgauge.pipeline.alerts.tail import (
    AlertMessage,
    as_json_line,
    decoded,
    line,
    tail,
    unrepeated,
    wants_colour,
)
from streamgauge.transforms.messages.alerts import alert_message

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
    "explanation": "once in 123,456 events of this entity: cpu is 0.75, expected 0.125; "
    "disk is missing, expected 3.4e+06",
}


def _message(event_id: str, offset: int = 0) -> AlertMessage:
    return AlertMessage("alerts", 0, offset, {"ce_id": event_id}, ALERT)


def test_a_line_has_time_severity_entity_and_the_explanation_of_the_record() -> None:
    assert line(ALERT) == (
        "2024-01-01 00:00:05  critical  web-1  once in 123,456 events of this entity: "
        "cpu is 0.75, expected 0.125; disk is missing, expected 3.4e+06"
    )


def test_a_closed_alert_is_marked_as_closed_whatever_its_severity() -> None:
    closed = {**ALERT, "status": "closed", "explanation": "back to normal after 3 events (0 min)"}
    assert line(closed) == (
        "2024-01-01 00:00:05  closed    web-1  back to normal after 3 events (0 min)"
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"status": "updated"}, "still anomalous after 3 events (0 min); once in 123,456 events"),
        ({"status": "closed", "reason": NEW_NORMAL}, "new normal: cpu was about 0.125, is now"),
        ({"status": "closed", "reason": None}, "back to normal after 3 events (0 min)"),
    ],
)
def test_the_explanation_is_the_one_that_the_job_writes(fields: dict[str, Any], text: str) -> None:
    features = [("cpu", 0.75, 0.125, 0.6), ("disk", None, 3_400_000.0, 0.2)]
    transition = Transition(
        **{
            "status": "opened",
            "reason": None,
            "severity": "critical",
            "entity_id": "web-1",
            "partition": 2,
            "offset": 7,
            "row": 0,
            "event_time_us": 1_704_067_205_000_000,
            "score": 9.5,
            "threshold": 4.0,
            "rarity_1_in_n": 123_456.0,
            "features": features,
            "opened_partition": 2,
            "opened_offset": 5,
            "opened_row": 0,
            "opened_time_us": 1_704_067_200_000_000,
            "events": 3,
            "peak": 9.5,
            **fields,
        }
    )
    record = msgspec.json.decode(alert_message("t", "ab", transition).value)
    assert f"  web-1  {text}" in line(record)


def test_text_from_outside_cannot_control_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\n\u202eweb"
    text = line({**ALERT, "entity_id": hostile, "severity": hostile, "explanation": hostile})
    assert not set(text) & set("\x1b\x07\n\u202e")


def test_repeats_are_shown_once_among_the_last_ids() -> None:
    ids = ["a", "b", "a", "c", "b", "d", "a"]
    shown = [message.event_id for message in unrepeated((_message(i) for i in ids), remembered=2)]
    assert shown == ["a", "b", "c", "b", "d", "a"]
    assert [m.event_id for m in unrepeated(_message(i) for i in ids)] == ["a", "b", "c", "d"]


def test_messages_without_an_id_are_never_repeats() -> None:
    messages = [AlertMessage("alerts", 0, offset, {}, ALERT) for offset in (1, 2)]
    assert len(list(unrepeated(messages))) == 2


def test_a_json_line_is_the_record_and_its_position() -> None:
    message = decoded("alerts", 3, 42, headers=[("ce_id", b"9f")], value=msgspec.json.encode(ALERT))
    record = json.loads(as_json_line(message))
    assert record.pop("kafka") == {
        "topic": "alerts",
        "partition": 3,
        "offset": 42,
        "headers": {"ce_id": "9f"},
    }
    assert record == ALERT


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b"null", b"{}", b'{"entity_id": 1}'])
def test_a_message_that_is_no_alert_has_no_record(value: bytes) -> None:
    assert decoded("alerts", 0, 0, headers=[], value=value).alert is None


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


def test_a_pipe_gets_no_colour_whatever_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    receiver, sender = os.pipe()
    with os.fdopen(receiver), os.fdopen(sender, "w") as pipe:
        assert not wants_colour(pipe)


@pytest.mark.parametrize(
    ("wanted", "is_taken"),
    [
        (AlertFilter(), True),
        (AlertFilter(entities=frozenset({"web-1", "db"})), True),
        (AlertFilter(entities=frozenset({"web"})), False),
        (AlertFilter(severity="critical"), True),
        (AlertFilter(severity="warning"), False),
        (AlertFilter(since_us=1_704_067_205_000_000), True),
        (AlertFilter(since_us=1_704_067_205_000_001), False),
        (AlertFilter(frozenset({"web-1"}), "critical", 1_704_067_205_000_001), False),
    ],
)
def test_a_filter_takes_alerts_that_pass_every_condition(
    wanted: AlertFilter, is_taken: bool
) -> None:
    assert wanted.takes(ALERT) is is_taken


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-01T00:00:00Z", 1_704_067_200_000_000),
        ("2024-01-01T02:00:00+02:00", 1_704_067_200_000_000),
        ("2024-01-01", 1_704_067_200_000_000),
        ("30s", 1_704_067_170_000_000),
        ("2h", 1_704_060_000_000_000),
        ("1d", 1_703_980_800_000_000),
    ],
)
def test_since_is_a_time_or_a_duration_before_now(text: str, expected: int) -> None:
    assert since_us(text, now_s=1_704_067_200.0) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "24", "-2h", "2 weeks", "2024-13-01"])
def test_since_that_is_neither_is_refused_with_what_came(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--since: must be an ISO 8601 time.*got ") as refused:
        since_us(text, now_s=0.0)
    assert repr(text) in str(refused.value)


def test_only_wanted_alerts_are_written_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [{**ALERT, "entity_id": name} for name in ("db", "web-1", "web-2", "db", "web-1")]
    messages = [AlertMessage("a", 0, i, {}, alert) for i, alert in enumerate(others)]
    monkeypatch.setattr("streamgauge.pipeline.jobs.broker.require_topic", lambda *_, **__: 1)
    monkeypatch.setattr(tail_module, "new_python_consumer", lambda *_, **__: io.StringIO())
    monkeypatch.setattr(tail_module, "_messages", lambda *_: iter(messages))
    out = io.StringIO()

    wanted = AlertFilter(entities=frozenset({"db"}))
    count = tail("h:1", "a", wanted=wanted, out=out, narrate=lambda text: None)

    assert count == 2
    assert [text.split()[3] for text in out.getvalue().splitlines()] == ["db", "db"]


def test_an_unreachable_broker_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1: "):
        tail("127.0.0.1:1", "alerts", narrate=lambda text: None)
