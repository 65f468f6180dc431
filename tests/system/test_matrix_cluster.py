"""Rows of the fault matrix that need a cluster of their own: two TaskManagers and ZooKeeper."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamgauge.infra.local import cluster as local
from streamgauge.infra.local.info import ClusterInfo, ClusterSpec
from streamgauge.infra.processes.ports import Ports
from streamgauge.infra.processes.process import ProcessRecord
from system.harness import live
from system.harness.results import Table
from system.harness.trial import Trial

pytestmark = [
    pytest.mark.system,
    pytest.mark.fault,
    pytest.mark.matrix,
    pytest.mark.timeout(600),
]

SUCCESSOR_S = 60.0
# Flink's heartbeat timeout is 40 s here; the rest is the start of the replacement.
ZOMBIE_S = 75.0


@pytest.fixture(scope="module")
def available(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterInfo]:
    """A cluster in which another JobManager, or another TaskManager, can take over."""
    directory = tmp_path_factory.mktemp("available")
    spec = ClusterSpec(directory, task_managers=2, slots=2, ports=Ports.free("zookeeper"))
    yield local.up(spec)
    local.down(directory)


@pytest.fixture
def jobs(available: ClusterInfo) -> Iterator[live.Jobs]:
    """Starts live jobs on that cluster."""
    started = live.Jobs(available)
    yield started
    started.cancel_all()


def test_a_killed_job_manager_is_followed_by_one_that_knows_its_jobs(
    available: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table
) -> None:
    trial = Trial(available, artifact, jobs, "JobManager kill -9, HA data on disk", SUCCESSOR_S)
    trial.begin()

    trial.strike(lambda: local.kill_part(available, "jobmanager", signal.SIGKILL))

    trial.finish(table)


def test_a_task_manager_that_wakes_after_its_replacement_changes_nothing(
    available: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table
) -> None:
    fault = "TaskManager and workers SIGSTOP, replaced, SIGCONT"
    trial = Trial(available, artifact, jobs, fault, ZOMBIE_S)
    trial.begin()
    (manager, *others) = sorted(jobs.rest.task_managers_of(trial.job_id))
    assert not others, "the job must fit into one TaskManager, so that the other can take over"
    asleep = [available.pids[manager], *local.worker_pids(available)]
    records = [ProcessRecord.of(pid) for pid in asleep]

    def sleep() -> None:
        for record in records:
            record.send(signal.SIGSTOP)

    try:
        trial.strike(sleep)
    finally:
        woke = [record.send(signal.SIGCONT) for record in records]
    assert all(woke), "the sleepers must have been left alone, or nothing is shown"
    trial.await_more(8_000)

    trial.finish(table)
