"""A topic that grows, in events and in partitions, while its job is stopped and resumed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fixtures.artifacts import make_artifact
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.series import Series
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.data.datasets import START_US, Dataset
from streamgauge.pipeline.data.payloads import Payload, messages
from streamgauge.pipeline.data.produce import send
from streamgauge.pipeline.jobs.run import stop
from system.harness import live, outcome
from system.harness.results import Row, Table
from system.harness.trial import reckon, settle

pytestmark = [pytest.mark.system, pytest.mark.fault]

FEATURES, STEP_US = 38, 60_000_000
RESTART_S = 60.0
ENTITIES, ROWS = 9, 40  # per partition and phase
JUMP, JUMP_ROWS = 20.0, slice(20, 30)
RARE = {"per_entity_day": 1.0, "cooldown_s": 3_600}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact to which even an entity that has hardly warmed up is normal."""
    return make_artifact(tmp_path_factory.mktemp("artifact") / "a", FEATURES, 64, calmer=1.3)


class Senders:
    """Sends one phase of events after the other; in each one entity per partition jumps."""

    def __init__(self, cluster: ClusterInfo, topic: str) -> None:
        self._cluster, self._topic = cluster, topic
        self._phases = 0
        self.events = 0
        self.jumped: set[str] = set()

    def send(self, partitions: int) -> None:
        """Send a phase to the first `partitions` partitions."""
        for partition in range(partitions):
            payloads = self._payloads(partition)
            self.events += send(payloads, self._topic, self._cluster.bootstrap_servers)
            self.jumped.add(f"sensor-{partition}-{self._phases}")
        self._phases += 1

    def _payloads(self, partition: int) -> Iterator[Payload]:
        rng = np.random.default_rng([partition, self._phases])
        first = self._phases * ROWS
        times = START_US + STEP_US * np.arange(first, first + ROWS, dtype=np.int64)
        values = rng.normal(size=(ENTITIES, ROWS, FEATURES)).astype(np.float32)
        values[self._phases, JUMP_ROWS] += np.float32(JUMP)
        series = tuple(Series(f"sensor-{partition}-{i}", times, values[i]) for i in range(ENTITIES))
        schema = Schema(tuple(Feature(f"f{i:02d}") for i in range(FEATURES)))
        phase = Dataset("sensors", "test", schema, series, STEP_US, "0" * 64)
        for message in messages(phase, "json", 1):
            yield message._replace(partition=partition)


def test_a_growing_topic_is_followed_over_savepoints_and_parallelisms(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table
) -> None:
    row = Row("partition added; savepoint, stop, 2 to 2 to 4 to 1", limit_s=RESTART_S)
    topic = live.new_name("sensors")
    live.create_topic(cluster, topic, 2)
    config = live.job_config(
        cluster, artifact, topic, alerts=RARE, input={"discovery_interval_s": 1.0}
    )
    senders = Senders(cluster, topic)
    senders.send(2)
    jobs.start(config)
    with live.Scores(cluster, config) as scores:
        scores.await_events(senders.events, jobs)
        senders.send(2)
        scores.await_events(senders.events, jobs)

        with live.admin(cluster) as client:
            client.create_partitions({topic: 3})
        senders.send(3)
        scores.await_events(senders.events, jobs)

        for parallelism in (2, 4, 1):
            savepoint = stop(config, narrate=live.silent)
            senders.send(3)
            config = at(config, parallelism)
            began = time.monotonic()
            jobs.start(config, savepoint)
            senders.send(3)
            scores.await_events(senders.events, jobs)
            row.recovery_s.append(time.monotonic() - began)

    expected = outcome.score_offline(cluster, config)
    assert len(expected.scores) == senders.events
    outcome.await_outputs(cluster, config, expected, jobs)
    jobs.cancel_all()
    actual = outcome.read_outputs(cluster, config)
    reckon(row, actual, expected)
    settle(row, table)
    assert row.repeats == 0, "a planned stop must not make anything twice"
    opened = {a["entity_id"] for a in actual.alerts.values() if a["status"] == "opened"}
    assert opened == senders.jumped


def at(config: Config, parallelism: int) -> Config:
    """The same job at another parallelism."""
    return dataclasses.replace(
        config, flink=dataclasses.replace(config.flink, parallelism=parallelism)
    )
