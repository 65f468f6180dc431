"""Commands on the real broker; kafka-python, which did not write them, reads the messages."""

from __future__ import annotations

import io
import json
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer
from kafka import KafkaConsumer

from fixtures.artifacts import make_artifact
from fixtures.deadlines import deadline
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.decoder import Decoder, Message
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.series import Series
from streamgauge.pipeline.alerts.tail import tail
from streamgauge.pipeline.data.datasets import START_US, Dataset
from streamgauge.pipeline.data.payloads import Format, Selection, partition_of
from streamgauge.pipeline.data.produce import ProduceRequest, produce
from streamgauge.pipeline.jobs.doctor import OK, WRONG, examine

pytestmark = pytest.mark.system

PARTITIONS = 3
ALERT = {
    "status": "opened",
    "severity": "critical",
    "entity_id": "web-1",
    "event": {"time_us": START_US},
    "rarity_1_in_n": 20_000.0,
    "features": [{"name": "cpu", "value": 0.9, "expected": 0.1, "contribution": 0.8}],
    "window": {"opened_time_us": START_US, "events": 3},
    "explanation": "once in 20,000 events of this entity: cpu is 0.9, expected 0.1",
}


def _topic(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:8]}"


def _dataset(rows: int = 100, features: int = 3) -> Dataset:
    rng = np.random.default_rng(5)
    times = START_US + 60_000_000 * np.arange(rows, dtype=np.int64)
    series = tuple(
        Series(f"host-{i}", times, rng.normal(size=(rows, features)).astype(np.float32))
        for i in range(5)
    )
    schema = Schema(tuple(Feature(f"f{i:02d}") for i in range(features)))
    return Dataset("made", "test", schema, series, 60_000_000, "0" * 64)


def _read(cluster: ClusterInfo, topic: str, messages: int) -> dict[int, list[Message]]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=cluster.bootstrap_servers,
        group_id=None,
        auto_offset_reset="earliest",
    )
    actual: dict[int, list[Message]] = {partition: [] for partition in range(PARTITIONS)}
    end = time.monotonic() + deadline(30)
    while sum(map(len, actual.values())) < messages and time.monotonic() < end:
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                value = record.value or b""
                actual[record.partition].append(
                    Message(record.offset, record.timestamp * 1000, value)
                )
    consumer.close()
    return actual


@pytest.mark.parametrize("fmt", ["json", "arrow"])
def test_produced_events_and_dead_letters_are_as_reported(
    cluster: ClusterInfo, fmt: Format
) -> None:
    dataset, topic = _dataset(), _topic("telemetry")
    report = produce(
        ProduceRequest(
            dataset,
            topic,
            cluster.bootstrap_servers,
            data_format=fmt,
            selection=Selection(replicas=3, malformed_share=0.1),
            create_topic_partitions=PARTITIONS,
        ),
        narrate=lambda line: None,
    )
    assert report.partitions == PARTITIONS
    assert report.events == 3 * dataset.events
    events = dead = 0
    for partition, messages in _read(cluster, topic, report.messages).items():
        block, letters = Decoder(dataset.schema).decode(partition, messages, 0, len(messages))
        assert {partition_of(name, PARTITIONS) for name in block.entities()[0]} <= {partition}
        events, dead = events + len(block), dead + len(letters)
    assert (events, dead) == (report.well_formed, report.dead_letters)


def test_a_missing_topic_is_not_created(cluster: ClusterInfo) -> None:
    topic = _topic("absent")
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"topic '{topic}' must exist"):
            produce(
                ProduceRequest(_dataset(1), topic, cluster.bootstrap_servers),
                narrate=lambda line: None,
            )


def test_alerts_are_followed_once_each(cluster: ClusterInfo) -> None:
    topic = _topic("alerts")
    produce(
        ProduceRequest(
            _dataset(1),
            topic,
            cluster.bootstrap_servers,
            selection=Selection(limit=1),
            create_topic_partitions=1,
        ),
        narrate=lambda line: None,
    )
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers})
    for event_id in ("a", "b", "a", "c"):
        value = json.dumps({**ALERT, "id": event_id})
        producer.produce(topic, value, "web-1", headers=[("ce_id", event_id.encode())])
    producer.flush(deadline(30))
    out, lines = io.StringIO(), []
    shown = tail(
        cluster.bootstrap_servers,
        topic,
        as_json=True,
        from_beginning=True,
        limit=3,
        idle_s=deadline(30),
        out=out,
        narrate=lines.append,
    )
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    assert shown == 3
    assert [record["id"] for record in records] == ["a", "b", "c"]
    assert [record["kafka"]["offset"] for record in records] == [1, 2, 4]
    assert lines[-1] == f"{topic}/0/0 is not an alert and is left out"


def test_the_doctor_finds_a_good_setup_good_and_a_wrong_input_wrong(
    cluster: ClusterInfo, tmp_path: Path
) -> None:
    right, wrong = _topic("telemetry"), _topic("telemetry")
    for topic, features in ((right, 3), (wrong, 4)):
        produce(
            ProduceRequest(
                _dataset(20, features),
                topic,
                cluster.bootstrap_servers,
                create_topic_partitions=PARTITIONS,
            ),
            narrate=lambda line: None,
        )
    make_artifact(tmp_path / "artifact", features=3)
    path = tmp_path / "job.yaml"
    path.write_text(
        f"artifact: artifact\nkafka: {{bootstrap_servers: '{cluster.bootstrap_servers}'}}\n"
        f"input: {{topic: {right}}}\nflink: {{job_endpoint: '{cluster.job_endpoint}', "
        f"rest_url: '{cluster.flink_rest_url}', worker_endpoint: '{cluster.worker_endpoint}'}}\n"
    )
    began = time.monotonic()
    findings = examine(path, narrate=lambda line: None)
    assert [finding.detail for finding in findings if finding.state != OK] == []
    assert time.monotonic() - began < deadline(10)
    actual = {
        f.name: f for f in examine(path, (f"input.topic={wrong}",), narrate=lambda line: None)
    }
    assert actual["sample"].state == WRONG
    assert "features must be 3 numbers; got 4" in actual["sample"].detail
