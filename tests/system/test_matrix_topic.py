"""Rows of the fault matrix: the log changes under a job that was stopped with a savepoint."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition

from streamgauge.infra.local.info import ClusterInfo
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.jobs.run import stop
from system.harness import live, outcome
from system.harness.results import Table
from system.harness.trial import Trial, reckon, settle

pytestmark = [
    pytest.mark.system,
    pytest.mark.fault,
    pytest.mark.matrix,
    pytest.mark.timeout(600),
]

RESTART_S = 60.0
CUT = 0  # the partition that loses messages
WHERE = re.compile(
    r"topic (?P<topic>\S+), partition (?P<partition>\d+): .{0,50}\boffset (?P<offset>\d+)"
    r".{0,200}input\.on_missing_offset: earliest or latest"
)


@pytest.mark.parametrize("policy", ["earliest", "latest"])
def test_a_truncated_topic_stops_the_job_until_the_operator_has_decided(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table, policy: str
) -> None:
    fault = f"topic truncated past the savepoint, {policy}"
    trial = Trial(cluster, artifact, jobs, fault, RESTART_S)
    savepoint = stopped_before_the_end_of_its_log(trial)
    whole = live.read_all(cluster, trial.config.input.topic)
    low, high = truncate(cluster, trial.config.input.topic)

    stored = offset_it_fails_at(trial, savepoint)  # only partition CUT lost any
    decide(trial, savepoint, policy)
    since = high if policy == "latest" else low
    kept = [*whole, *sent_since(trial, whole)]
    before = [m for m in kept if m.partition != CUT or m.offset < stored]
    remaining = [m for m in kept if m.partition == CUT and m.offset >= since]

    finish(trial, table, outcome.joined(*outcome.score_logs([before, remaining], trial.config)))


@pytest.mark.parametrize("size", ["shorter", "longer"])
def test_a_topic_that_was_created_again_stops_the_job_until_the_operator_has_decided(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table, size: str
) -> None:
    trial = Trial(cluster, artifact, jobs, f"topic made anew, {size}, earliest", RESTART_S)
    topic = trial.config.input.topic
    trial.begin()
    trial.await_more(5_000)
    trial.traffic.pause()
    sent = trial.traffic.events
    before = live.read_all(cluster, topic)
    scored = outcome.score_offline(cluster, trial.config)
    outcome.await_outputs(cluster, trial.config, scored, jobs)
    savepoint = stop(trial.config, narrate=live.silent)
    assert savepoint is not None
    make_anew(cluster, topic)
    if size == "longer":  # than the stored offsets, which would then be found in it
        trial.traffic.resume()
        trial.await_more(sent + 10_000)
        trial.traffic.pause()

    offset_it_fails_at(trial, savepoint)
    trial.config = with_new_outputs(trial.config)  # the ids of its events are used already
    decide(trial, savepoint, "earliest")
    trial.traffic.end()

    logs = [before, live.read_all(cluster, topic)]
    finish(trial, table, outcome.score_logs(logs, trial.config)[1])


def make_anew(cluster: ClusterInfo, topic: str) -> None:
    """Delete a topic and create it again, empty."""
    with live.admin(cluster) as client:
        client.delete_topics([topic])
        live.wait_for(lambda: topic not in client.list_topics(), "the topic to be deleted")
    live.create_topic(cluster, topic, outcome.PARTITIONS)


def with_new_outputs(config: Config) -> Config:
    """The same job, writing to topics that nobody has written to."""
    sections = ("alerts", "scores", "dead_letters", "drift", "health")
    renamed = {
        name: dataclasses.replace(
            getattr(config, name), topic=f"{getattr(config, name).topic}.anew"
        )
        for name in sections
    }
    return dataclasses.replace(config, **renamed)


def stopped_before_the_end_of_its_log(trial: Trial) -> str:
    """Stop the job with a savepoint while the traffic continues for a while."""
    trial.begin()
    trial.await_more(5_000)
    savepoint = stop(trial.config, narrate=live.silent)
    assert savepoint is not None
    trial.await_more(10_000)
    trial.traffic.pause()
    return savepoint


def truncate(cluster: ClusterInfo, topic: str) -> tuple[int, int]:
    """Delete all but the last hundred messages of a partition; returns what is left."""
    partition = TopicPartition(topic, CUT)
    with live.Topic(cluster, topic) as reader:
        high = reader.ends()[partition]
    with live.admin(cluster) as client:
        client.delete_records({partition: high - 100})
    return high - 100, high


def offset_it_fails_at(trial: Trial, savepoint: str) -> int:
    """Start as configured, which is to fail; returns the offset that the failure names."""
    assert trial.config.input.on_missing_offset == "fail"
    job_id = trial.jobs.start(trial.config, savepoint)
    actual: list[re.Match[str]] = []

    def is_reported() -> bool:
        failures = " ".join(trial.jobs.rest.job(job_id).exceptions)
        actual.extend(WHERE.finditer(failures))
        return bool(actual)

    live.wait_for(
        is_reported, "a failure that names topic, partition, offset and choices", trial.jobs
    )
    trial.jobs.rest.cancel(job_id)
    assert {one["topic"] for one in actual} == {trial.config.input.topic}
    return int(actual[0]["offset"])


def decide(trial: Trial, savepoint: str, policy: str) -> None:
    """Start with the operator's decision, and measure until new events are scored."""
    arguments = dataclasses.replace(trial.config.input, on_missing_offset=policy)
    trial.config = dataclasses.replace(trial.config, input=arguments)
    began = time.monotonic()
    trial.job_id = trial.jobs.start(trial.config, savepoint)
    trial.watch()
    # Before more is sent: "latest" is the end of the log at the moment of the jump.
    live.wait_for(lambda: offset_resets(trial) >= 1, "a jump that is counted", trial.jobs)
    trial.traffic.resume()
    trial.await_more(3_000)
    trial.await_new_score()
    trial.row.recovery_s.append(time.monotonic() - began)


def offset_resets(trial: Trial) -> int:
    """How often the job has jumped over offsets that were missing."""
    return trial.jobs.rest.counter(trial.job_id, "offset_resets")


def sent_since(trial: Trial, before: Sequence[Any]) -> list[Any]:
    """Messages of the topic that were not there before."""
    trial.traffic.end()
    known = {(m.partition, m.offset) for m in before}
    now = live.read_all(trial.cluster, trial.config.input.topic)
    return [m for m in now if (m.partition, m.offset) not in known]


def finish(trial: Trial, table: Table, expected: outcome.Expected) -> None:
    """Hold the job to what its log was, as far as it could still be read."""
    outcome.await_outputs(trial.cluster, trial.config, expected, trial.jobs)
    trial.jobs.cancel_all()
    reckon(trial.row, outcome.read_outputs(trial.cluster, trial.config), expected)
    settle(trial.row, table)
