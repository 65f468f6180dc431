"""What a job writes, on a broker with Kafka's own limits: all of it arrives, nothing ends the job.

shared/cases 03 (scores larger than the broker takes), 04 (an event time ahead of the broker's
clock) and 06 (event times past retention).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from fixtures.artifacts import make_artifact
from fixtures.deadlines import deadline
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.kafka.admin import create_missing_topics, message_bytes_max
from streamgauge.transforms.messages.fitting import size_of
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing
from streamgauge.transforms.sinks.topic import Produce
from system.harness import live

pytestmark = pytest.mark.system

KAFKAS_DEFAULT = 1_048_588  # of max.message.bytes
OLD_US = 1_704_067_200_000_000  # 2024-01-01, years past Kafka's default retention of 7 days
LOG_APPEND_TIME, NO_TIME = 1, -1
HOT_EVENTS, HOUR_S = 60_000, 3_600
#: The default of Kafka before 4.0: an input topic that takes any record time.
ANY_TIME = {"message.timestamp.after.max.ms": str(2**63 - 1)}


def create(cluster: ClusterInfo, topic: str, **settings: str) -> None:
    """Create a topic of one partition."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    named = {name.replace("_", "."): value for name, value in settings.items()}
    [created] = admin.create_topics([NewTopic(topic, 1, config=named)]).values()
    created.result(deadline(30))


def hot_message() -> bytes:
    """60,000 events of one machine, 0.78 MB: below the limit, but their scores are above it."""
    entity = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(HOT_EVENTS, np.int8)), pa.array(["press-04/line-2/spindle"])
    )
    values = np.random.default_rng(0).random(HOT_EVENTS).astype(np.float32)
    times = OLD_US + np.arange(HOT_EVENTS) * 50_000
    batch = pa.record_batch(
        [entity, pa.array(times), pa.array(values)], names=["entity_id", "event_time_us", "f00"]
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def event(entity: str, time_us: int) -> bytes:
    return b'{"entity_id":"%s","event_time_us":%d,"features":[0.5]}' % (entity.encode(), time_us)


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_large_old_and_future_outputs_all_arrive(
    cluster: ClusterInfo, jobs: live.Jobs, tmp_path: Path, form: str
) -> None:
    topic = live.new_name("hostile")
    create(cluster, topic, **ANY_TIME)
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers})
    began_ms = int(time.time() * 1000)
    ahead_ms = began_ms + 2 * HOUR_S * 1000
    producer.produce(topic, hot_message())
    for i in range(200):
        producer.produce(topic, event("cam-1", OLD_US + i * 1_000_000))
    producer.produce(topic, event("cam-9", ahead_ms * 1000), timestamp=ahead_ms)
    for i in range(200, 300):
        producer.produce(topic, event("cam-1", OLD_US + i * 1_000_000))
    assert producer.flush(live.DEADLINE_S) == 0
    artifact = make_artifact(tmp_path / "a", features=1)
    config = live.job_config(cluster, artifact, topic, scores={"format": form})
    job = jobs.start(config)

    expected = HOT_EVENTS + 301
    scores = live.Topic(cluster, config.scores.topic or "")
    live.wait_for(lambda: count(scores, form) >= expected, f"{expected:,} scores", jobs)
    live.wait_for(lambda: jobs.checkpoints(job) > 0, "a checkpoint", jobs)

    assert count(scores, form) == expected
    assert list(jobs.rest.job(job).exceptions) == []
    assert max(len(message.value) for message in scores.messages) < KAFKAS_DEFAULT
    for output in config.output_topics():
        times = [message.timestamp for message in live.read_all(cluster, output)]
        now_ms = int(time.time() * 1000)
        assert all(began_ms <= each <= now_ms for each in times), output


def count(scores: live.Topic, form: str) -> int:
    scores.poll()
    if form == "json":
        return len(scores.messages)
    return sum(len(batch) for message in scores.messages for batch in live.batches(message.value))


def write(cluster: ClusterInfo, topic: str, *messages: Outgoing) -> Produce:
    """Write messages as one bundle of the sink."""
    step = Produce(KafkaAccess(cluster.bootstrap_servers), topic)
    step.setup()
    again(step, *messages)
    return step


def again(step: Produce, *messages: Outgoing) -> None:
    step.start_bundle()
    step.process(encode_outgoing(*messages))
    step.finish_bundle()


def text(key: str, size: int = 10) -> Outgoing:
    return Outgoing(key.encode(), b"x" * size, [("content-type", b"text")])


def keys(cluster: ClusterInfo, topic: str) -> list[str]:
    return [message.key.decode() for message in live.read_all(cluster, topic)]


def test_the_broker_says_what_a_topic_takes(cluster: ClusterInfo) -> None:
    access, topic = KafkaAccess(cluster.bootstrap_servers), live.new_name("small")
    create(cluster, topic, max_message_bytes="20000")
    assert message_bytes_max(access, topic) == 20_000
    assert message_bytes_max(access) == KAFKAS_DEFAULT
    assert message_bytes_max(access, "absent") is None


def test_batches_keep_to_the_limit_of_a_topic_as_well(cluster: ClusterInfo) -> None:
    topic = live.new_name("small")
    create(cluster, topic, max_message_bytes="20000")
    written = [text(f"{i}", 900) for i in range(500)]
    write(cluster, topic, *written)
    assert sorted(keys(cluster, topic)) == sorted(message.key.decode() for message in written)


def test_a_message_of_exactly_the_limit_is_taken(cluster: ClusterInfo) -> None:
    topic = live.new_name("small")
    create(cluster, topic, max_message_bytes="20000")
    whole = text("whole", 20_000 - size_of(text("whole", 0)))
    assert size_of(whole) == 20_000
    write(cluster, topic, whole)
    assert keys(cluster, topic) == ["whole"]


def test_a_message_that_is_too_large_leaves_its_neighbours(cluster: ClusterInfo) -> None:
    topic = live.new_name("small")
    create(cluster, topic, max_message_bytes="20000")
    step = write(cluster, topic, text("a"), text("large", 50_000), text("b"))
    again(step, text("c"), text("larger", 2_000_000), text("d"))
    assert sorted(keys(cluster, topic)) == ["a", "b", "c", "d"]


def test_the_broker_stamps_what_is_written_to_topics_that_the_job_creates(
    cluster: ClusterInfo,
) -> None:
    access, topic = KafkaAccess(cluster.bootstrap_servers), live.new_name("created")
    assert create_missing_topics(access, [topic], 1) == [topic]
    write(cluster, topic, text("a"))
    [message] = live.read_all(cluster, topic)
    assert message.timestamp_type == LOG_APPEND_TIME


def test_a_limit_that_is_lowered_under_a_job_loses_no_message(cluster: ClusterInfo) -> None:
    topic = live.new_name("lowered")
    create(cluster, topic)
    step = write(cluster, topic, text("before", 500_000))
    set_limit(cluster, topic, 10_000)
    again(step, *(text(f"{i}", 900) for i in range(100)))
    assert sorted(keys(cluster, topic)) == sorted(["before", *(f"{i}" for i in range(100))])


def test_what_a_worker_with_a_wrong_clock_writes_is_taken(cluster: ClusterInfo) -> None:
    topic = live.new_name("strict")
    # Of an hour, as by default, a message of a worker with a wrong clock is as far off.
    create(cluster, topic, message_timestamp_before_max_ms="0")
    write(cluster, topic, *(text(f"{i}") for i in range(50)))
    messages = live.read_all(cluster, topic)
    assert sorted(m.key.decode() for m in messages) == sorted(f"{i}" for i in range(50))
    assert NO_TIME in {message.timestamp for message in messages}


def set_limit(cluster: ClusterInfo, topic: str, limit: int) -> None:
    """Set `max.message.bytes` and wait until the broker says so."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    entry = ConfigEntry(
        "max.message.bytes", str(limit), incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    [done] = admin.incremental_alter_configs([resource]).values()
    done.result(deadline(30))
    access = KafkaAccess(cluster.bootstrap_servers)
    live.wait_for(lambda: message_bytes_max(access, topic) == limit, "the lower limit")
