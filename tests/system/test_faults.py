"""A job that loses its TaskManager or a Python worker loses nothing and changes no bit."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

import pytest

from streamgauge.infra.local import cluster as local
from streamgauge.infra.local.info import ClusterInfo
from system.harness import fleet, live, outcome
from system.harness.results import Row, Table
from system.harness.trial import reckon, settle

pytestmark = [pytest.mark.system, pytest.mark.fault]

# Turns of the fleet; while those in the middle are sent and scored, something is killed.
BEFORE, AROUND, AFTER = range(2), range(2, 5), range(5, fleet.TURNS)


def kill_task_manager(cluster: ClusterInfo) -> None:
    """`kill -9` of the one TaskManager; its supervisor starts another."""
    local.kill_part(cluster, "taskmanager-0", signal.SIGKILL)


def kill_worker(cluster: ClusterInfo) -> None:
    """`kill -9` of every Python worker: one of another job may still be on its way out."""
    for pid in local.worker_pids(cluster):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_task_manager, kill_worker])
def test_a_kill_in_the_middle_loses_nothing_and_changes_no_bit(
    cluster: ClusterInfo,
    artifact: Path,
    jobs: live.Jobs,
    table: Table,
    kill: Callable[[ClusterInfo], None],
) -> None:
    topic = live.new_name("fleet")
    live.create_topic(cluster, topic, outcome.PARTITIONS)
    # No checkpoint but the one below: whatever is scored after it will be scored again.
    config = live.job_config(cluster, artifact, topic, flink={"checkpoint_interval_s": 600.0})
    job_id = jobs.start(config)

    with ThreadPoolExecutor(1) as pool, live.Scores(cluster, config) as scores:
        sent = [fleet.produce_fleet(cluster, topic, BEFORE)]
        scores.await_events(sent[0].events - sent[0].malformed, jobs)
        jobs.rest.trigger_checkpoint(job_id)
        sending = pool.submit(fleet.produce_fleet, cluster, topic, AROUND)
        scores.await_events(scores.events() + 2_500, jobs)
        kill(cluster)
        sent.append(sending.result(live.DEADLINE_S))
        sent.append(fleet.produce_fleet(cluster, topic, AFTER))

    expected = outcome.score_offline(cluster, config)
    outcome.await_outputs(cluster, config, expected, jobs)
    assert jobs.rest.job(job_id).exceptions, "the job must have felt the kill"
    restarts = jobs.rest.checkpoints(job_id)["counts"]["restored"]
    jobs.cancel_all()
    actual = outcome.read_outputs(cluster, config)
    row = Row(f"{kill.__name__.replace('_', ' ')}, no checkpoint since")
    row.restarts = restarts
    reckon(row, actual, expected)
    settle(row, table)
    events, malformed = (sum(counts) for counts in zip(*map(astuple, sent), strict=True))
    assert len(expected.scores) + len(expected.letters) == events == fleet.EVENTS
    assert len(expected.letters) == malformed
    assert row.repeats > 0, "some scores must have been written twice"
