"""Against librdkafka's own in-memory broker; the real one is in tests/system."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer

from fixtures.deadlines import deadline
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.series import Series
from streamgauge.pipeline.data.datasets import START_US, Dataset
from streamgauge.pipeline.data.payloads import Selection, messages
from streamgauge.pipeline.data.produce import ProduceRequest, _client, _Sender, produce, send

TOPIC = "telemetry"
PARTITIONS = 4  # what the in-memory broker gives a new topic


@pytest.fixture
def bootstrap() -> Iterator[str]:
    holder = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(holder.list_topics(timeout=deadline(10)).brokers.values()))
    yield f"{broker.host}:{broker.port}"
    holder.flush(1)


def _dataset(rows: int) -> Dataset:
    times = START_US + 60_000_000 * np.arange(rows, dtype=np.int64)
    values = np.ones((rows, 2), np.float32)
    series = (Series("a", times, values), Series("b", times, values))
    schema = Schema((Feature("x"), Feature("y")))
    return Dataset("made", "test", schema, series, 60_000_000, "0" * 64)


def _consumed(bootstrap: str, count: int) -> list[tuple[int, bytes | None, bytes]]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "t", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([TOPIC])
    found: list[tuple[int, bytes | None, bytes]] = []
    end = time.monotonic() + deadline(20)
    while len(found) < count and time.monotonic() < end:
        for message in consumer.consume(count, 0.2):
            assert message.error() is None
            found.append((message.partition(), message.key(), message.value()))
    consumer.close()
    return found


def test_every_message_reaches_its_partition_with_key_and_value(bootstrap: str) -> None:
    payloads = list(
        messages(_dataset(50), "json", PARTITIONS, selection=Selection(malformed_share=0.1))
    )
    assert send(payloads, TOPIC, bootstrap) == 100
    expected = sorted((m.partition, m.key, m.value) for m in payloads)
    assert sorted(_consumed(bootstrap, 100)) == expected  # type: ignore[type-var]


def test_the_rate_is_kept(bootstrap: str) -> None:
    began = time.monotonic()
    sent = _Sender(_client(bootstrap), TOPIC, rate=400.0, began=began)
    for message in messages(_dataset(50), "json", PARTITIONS):
        sent.send(message)
    assert 0.24 < time.monotonic() - began < deadline(2.0)  # 100 events at 400/s
    sent.finish()
    assert (sent.events, sent.messages, sent.malformed) == (100, 100, 0)


@pytest.mark.parametrize("knows_partitions", [False, True])
def test_a_message_the_client_refuses_stops_production(
    bootstrap: str, knows_partitions: bool
) -> None:
    sent = _Sender(_client(bootstrap), TOPIC, rate=None, began=0.0)
    message = next(messages(_dataset(1), "json", PARTITIONS))

    if knows_partitions:
        sent.send(message)
        sent.finish()

    def send_to_missing_partition() -> None:
        # The client refuses it at once if it knows the partitions, else after an answer.
        sent.send(message._replace(partition=77))
        sent.finish()

    with pytest.raises(ConfigError, match="topic 'telemetry': the broker refused"):
        send_to_missing_partition()


def test_an_unreachable_broker_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1: .*streamgauge up"):
        produce(ProduceRequest(_dataset(1), TOPIC, "127.0.0.1:1"), narrate=lambda line: None)
    with pytest.raises(ConfigError, match="each must be host:port; got 'kafka:none'"):
        produce(ProduceRequest(_dataset(1), TOPIC, "kafka:none"), narrate=lambda line: None)


def test_an_impossible_rate_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ConfigError, match="rate must be above 0"):
        ProduceRequest(_dataset(1), TOPIC, "127.0.0.1:1", rate=0.0)
