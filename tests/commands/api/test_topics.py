"""Alerts and scores are read from a broker up to the current end, each once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

import streamgauge as sg
from fixtures.blocks import START_US, STEP_US
from fixtures.broker import mock_broker
from fixtures.outputs import MODEL, alert, score_messages, send
from streamgauge.pipeline.api.topics import SCORE_SCHEMA


@pytest.fixture
def broker():
    return mock_broker()


def test_alerts_are_read_once_up_to_the_end(broker):
    send(broker, "alerts", [alert("1"), alert("2", "db"), alert("1")])
    address = send(broker, "alerts", [alert("3")], partition=2)
    alerts = list(sg.read_alerts(address, "alerts"))
    assert sorted(each["id"] for each in alerts) == ["1", "2", "3"]
    assert {each["entity_id"] for each in alerts} == {"web-1", "db"}


@pytest.mark.parametrize(
    "start",
    [
        datetime.fromtimestamp((START_US + STEP_US) / 1e6, UTC),
        datetime.fromtimestamp((START_US + STEP_US) / 1e6, UTC).isoformat(),
        datetime.fromtimestamp((START_US + STEP_US) / 1e6, UTC).replace(tzinfo=None),
    ],
)
def test_a_start_is_an_event_time(broker, start):
    address = send(broker, "alerts", [alert("2", minute=2), alert("0"), alert("1", minute=1)])
    assert [each["id"] for each in sg.read_alerts(address, "alerts", start=start)] == ["2", "1"]
    send(broker, "scores", score_messages(["a", "b", "a"], "arrow"))
    assert sg.read_scores(address, "scores", start=start)["offset"].to_pylist() == [1, 2]


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_scores_of_both_formats_are_one_table(broker, form):
    address = send(broker, "scores", score_messages(["a", "b", "a", "c"], form))
    table = sg.read_scores(address, "scores")
    assert table.schema.equals(SCORE_SCHEMA)
    assert table.drop_columns(["event_time_us", "row", "partition"]).to_pylist() == [
        {"entity_id": name, "offset": i, "score": float(i), "rarity_1_in_n": 1.5,
         "verdict": ("warming", "normal", "anomalous")[i % 3], "confidence": 0.25, "topic": "t",
         "model": MODEL}
        for i, name in enumerate("abac")
    ]  # fmt: skip


def test_repeated_scores_count_once_and_those_of_another_model_or_topic_stay(broker):
    send(broker, "scores", score_messages(["a", "b"], "arrow"))
    send(broker, "scores", score_messages(["b", "c"], "arrow", first=1))
    send(broker, "scores", score_messages(["a"], "json"))
    send(broker, "scores", score_messages(["a"], "json", model="cd" * 32))
    address = send(broker, "scores", score_messages(["a"], "arrow", topic="other"))
    table = sg.read_scores(address, "scores")
    assert sorted(table["offset"].to_pylist()) == [0, 0, 0, 1, 2]


def test_an_empty_topic_has_no_alerts_and_no_scores(broker):
    address = send(broker, "empty", [])
    broker[0].list_topics("empty", timeout=30)  # the mock broker creates what is asked for
    assert list(sg.read_alerts(address, "empty")) == []
    assert sg.read_scores(address, "empty").equals(SCORE_SCHEMA.empty_table())


@pytest.mark.parametrize("value", [b"", b"{}", b"[1]", b"\xff\xff\xff\xff", b"\xff", b"null"])
@pytest.mark.parametrize("read", [lambda *a: list(sg.read_alerts(*a)), sg.read_scores])
def test_a_message_that_is_none_of_ours_is_named(broker, read, value):
    address = send(broker, "strange", [(value, [])])
    with pytest.raises(sg.ConfigError, match=r"topic: strange/0/0 must be ") as refused:
        read(address, "strange")
    assert len(str(refused.value).splitlines()) == 1


def test_an_arrow_message_with_other_columns_is_named(broker):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("score", pa.string())])) as writer:
        writer.write_table(pa.table({"score": ["x"]}))
    address = send(broker, "strange", [(sink.getvalue().to_pybytes(), [])])
    with pytest.raises(sg.ConfigError, match=r"strange/0/0 must be scores as the job writes them"):
        sg.read_scores(address, "strange")


@pytest.mark.parametrize("read", [sg.read_alerts, sg.read_scores])
def test_a_broker_or_a_start_that_is_none_is_refused_at_once(read):
    for servers in ("127.0.0.1:1", "nobody.invalid:9092", "h:p"):
        with pytest.raises(sg.ConfigError, match="bootstrap_servers: "):
            read(servers, "t")
    for start in ("yesterday", 5, timedelta(1)):
        with pytest.raises(sg.ConfigError, match="start: must be a datetime or an ISO 8601 time"):
            read("127.0.0.1:1", "t", start=start)
