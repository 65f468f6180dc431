"""Helpers of tests with a live job: the job, its topics, and waiting.

Topics are read by kafka-python, which did not write them. Waiting polls under a deadline, and a
missed one reports the failures of the job.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from fixtures.deadlines import deadline
from streamgauge.infra.flink_rest import FINAL_STATES, FlinkRest
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.infra.narrate import silent
from streamgauge.infra.processes.process import wait_until
from streamgauge.pipeline import config as configs
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.jobs.run import run

DEADLINE_S = 150.0  # for steps that take seconds on a quiet machine
KEY = ("partition", "offset", "row")  # identifies an event within its topic
# Alerts open, are updated and close within the 200 events of an entity.
ALERTS = {
    "per_entity_day": 100,
    "cooldown_s": 600,
    "critical_rarity_1_in_n": 10_000,
}


def new_name(kind: str) -> str:
    """A name for a topic or a job that no other test has."""
    return f"{kind}-{uuid.uuid4().hex[:8]}"


def job_config(cluster: ClusterInfo, artifact: Path, topic: str, **sections: Any) -> Config:
    """Configure a job with a new name and output topics; `sections` override the defaults."""
    name = new_name("job")
    merged: dict[str, Any] = {
        "artifact": str(artifact),
        "name": name,
        "kafka": {"bootstrap_servers": cluster.bootstrap_servers},
        "input": {"topic": topic},
        "scoring": {"shards": 4, "warmup_events": 10},
        "alerts": {"topic": f"{name}.alerts", **ALERTS},
        "scores": {"topic": f"{name}.scores"},
        "dead_letters": {"topic": f"{name}.dlq"},
        "drift": {"topic": f"{name}.drift"},
        "health": {"topic": f"{name}.health"},
        "flink": {
            "job_endpoint": cluster.job_endpoint,
            "rest_url": cluster.flink_rest_url,
            "worker_endpoint": cluster.worker_endpoint,
            "parallelism": 2,
            "checkpoint_interval_s": 2.0,
        },
    }
    for section, settings in sections.items():
        merged[section] = {**merged.get(section, {}), **settings}
    return configs.from_dict(merged)


class Jobs:
    """Starts jobs on the shared cluster, and cancels those that still run at the end."""

    def __init__(self, cluster: ClusterInfo) -> None:
        self.rest = FlinkRest(cluster.flink_rest_url)
        self._started: list[str] = []
        self._at_end: list[Callable[[], None]] = []

    def start(
        self,
        config: Config,
        savepoint: str | None = None,
        state: str | None = None,
    ) -> str:
        """Submit a live job; returns Flink's id of it."""
        job_id = run(config, savepoint=savepoint, narrate=silent, state=state)
        assert job_id is not None
        self._started.append(job_id)
        return job_id

    def checkpoints(self, job_id: str) -> int:
        """How many checkpoints of a job have completed."""
        return self.rest.checkpoints(job_id)["counts"]["completed"]

    def failures(self) -> list[str]:
        """Return the exceptions of each job that was started here."""
        return [
            f"{job.name} {job.state}: {' | '.join(self.rest.job(job.job_id).exceptions)}"
            for job in self.rest.jobs()
            if job.job_id in self._started
        ]

    def at_end(self, end: Callable[[], None]) -> None:
        """Register a function to call before the jobs are cancelled."""
        self._at_end.append(end)

    def cancel_all(self) -> None:
        """Cancel the jobs that still run."""
        while self._at_end:
            self._at_end.pop()()
        for job in self.rest.jobs():
            if job.job_id in self._started and job.state not in FINAL_STATES:
                self.rest.cancel(job.job_id)


def wait_for(
    is_done: Callable[[], bool],
    what: str,
    jobs: Jobs | None = None,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Poll until `is_done`; at the deadline fail with the failures of the jobs."""
    limit_s = deadline(deadline_s)
    if not wait_until(is_done, limit_s):
        failures = "\n".join(jobs.failures()) if jobs else ""
        pytest.fail(f"{what}: not within {limit_s:.0f} s\n{failures}")


def wait_until_passed(seconds: float) -> None:
    """Wait for the duration of a fault."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, seconds + 1)


def create_topic(cluster: ClusterInfo, topic: str, partitions: int) -> None:
    """Create an input topic."""
    with admin(cluster) as client:
        client.create_topics({topic: {"num_partitions": partitions}}, wait_for_metadata=True)


def admin(cluster: ClusterInfo) -> Any:
    """An administration client, to be used in a `with` block."""
    return closing(KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers))


class Topic:
    """A topic, read by an independent client."""

    def __init__(self, cluster: ClusterInfo, topic: str, start: str = "earliest") -> None:
        self._consumer = KafkaConsumer(
            bootstrap_servers=cluster.bootstrap_servers,
            group_id=None,
            auto_offset_reset=start,
            max_poll_records=20_000,
            fetch_max_bytes=64 << 20,
            max_partition_fetch_bytes=16 << 20,
        )
        partitions = self._consumer.partitions_for_topic(topic)
        assert partitions, f"topic {topic!r} must exist"
        self._consumer.assign([TopicPartition(topic, p) for p in sorted(partitions)])
        self.messages: list[Any] = []

    def ends(self) -> dict[TopicPartition, int]:
        """Return the offset after the last message of each partition."""
        return self._consumer.end_offsets(list(self._consumer.assignment()))

    def poll(self, wait_ms: int = 100) -> list[Any]:
        """Return the messages since the last call."""
        new = [m for batch in self._consumer.poll(timeout_ms=wait_ms).values() for m in batch]
        self.messages += new
        return new

    def read_to_end(self) -> list[Any]:
        """Return every message that is on the topic now."""
        assigned = list(self._consumer.assignment())
        ends = self._consumer.end_offsets(assigned)
        wait_for(
            lambda: (
                self.poll() is not None
                and all(self._consumer.position(p) >= ends[p] for p in assigned)
            ),
            f"reading {assigned[0].topic} to its end",
        )
        return self.messages

    def __enter__(self) -> Topic:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


def read_all(cluster: ClusterInfo, topic: str) -> list[Any]:
    """Return every message that is on a topic now."""
    with Topic(cluster, topic) as reader:
        return reader.read_to_end()


class Scores:
    """The events that a job has scored, while its scores topic grows."""

    def __init__(self, cluster: ClusterInfo, config: Config) -> None:
        assert config.scores.topic is not None
        self._topic = Topic(cluster, config.scores.topic)
        self._events: set[tuple[int, int, int]] = set()

    def events(self) -> int:
        """Return how many different events have been scored by now."""
        for message in self._topic.poll():
            for batch in batches(message.value):
                self._events.update(zip(*(batch[name].tolist() for name in KEY), strict=True))
        return len(self._events)

    def await_events(self, count: int, jobs: Jobs) -> None:
        """Wait until `count` different events have been scored."""
        wait_for(lambda: self.events() >= count, f"{count:,} events scored", jobs)

    def __enter__(self) -> Scores:
        return self

    def __exit__(self, *_: object) -> None:
        self._topic.__exit__()


class Tail:
    """The messages on a job's scores topic from now on."""

    def __init__(self, cluster: ClusterInfo, config: Config) -> None:
        assert config.scores.topic is not None
        self._topic = Topic(cluster, config.scores.topic, start="latest")

    def newest(self) -> Iterator[tuple[int, int]]:
        """Yield (partition, offset) of the events whose scores arrived since the last call."""
        for message in self._topic.poll():
            for batch in batches(message.value):
                yield from zip(*(batch[name].tolist() for name in KEY[:2]), strict=True)

    def close(self) -> None:
        """Close the connection to the broker."""
        self._topic.__exit__()


def batches(value: bytes) -> list[pa.RecordBatch]:
    """The record batches of an Arrow message."""
    with pa.ipc.open_stream(value) as reader:
        return list(reader)
