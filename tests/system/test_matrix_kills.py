"""Rows of the fault matrix: processes that are killed, ended or stopped while telemetry flows."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from streamgauge.infra.local import cluster as local
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.infra.processes.process import ProcessRecord
from system.harness import live
from system.harness.results import Table
from system.harness.trial import Trial
from system.harness.worker_faults.sitecustomize import TRIGGER

pytestmark = [pytest.mark.system, pytest.mark.fault, pytest.mark.timeout(900)]

KILLS, SEED = 20, 4
RECOVERY_S = 30.0
WORKER_GAP_S = 15.0
CHECKPOINT_TIMEOUT_S, STUCK_S = 8, 40.0
FILE_BYTES_MAX = 16 * 1024


def kill_task_manager(cluster: ClusterInfo) -> None:
    """`kill -9` of the one TaskManager; its supervisor starts another."""
    local.kill_part(cluster, "taskmanager-0", signal.SIGKILL)


def kill_worker(cluster: ClusterInfo) -> None:
    """`kill -9` of every Python worker; the pool starts others when Flink asks for them.

    Of all, because one of a job that has just ended may still be on its way out.
    """
    for pid in local.worker_pids(cluster):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.matrix
def test_twenty_kills_of_the_task_manager_at_random_moments(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table
) -> None:
    rng = np.random.default_rng(SEED)
    trial = Trial(cluster, artifact, jobs, "TaskManager kill -9, random moments", RECOVERY_S)
    trial.begin()
    for _ in range(KILLS):
        trial.await_more(int(rng.integers(0, 6_000)))
        trial.strike(lambda: kill_task_manager(cluster))
    assert trial.finish(table).restarts >= KILLS


@pytest.mark.matrix
def test_five_kills_of_a_python_worker(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table
) -> None:
    rng = np.random.default_rng(SEED)
    trial = Trial(cluster, artifact, jobs, "Python worker kill -9, random moments", WORKER_GAP_S)
    trial.begin()
    for _ in range(5):
        trial.await_more(int(rng.integers(0, 6_000)))
        trial.strike(lambda: kill_worker(cluster))
    trial.finish(table)


def test_a_worker_that_ends_between_state_and_output(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table
) -> None:
    trial = Trial(cluster, artifact, jobs, "os._exit in the middle of a bundle", WORKER_GAP_S)
    trial.begin()
    trigger = cluster.directory / TRIGGER
    for _ in range(3):
        trial.strike(trigger.touch)
        assert not trigger.exists(), "a worker must have ended by it"
    trial.finish(table)


@pytest.mark.matrix
def test_a_worker_that_stands_still_is_noticed_and_harmless_when_it_wakes(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table
) -> None:
    fault = f"Python worker SIGSTOP, checkpoint timeout {CHECKPOINT_TIMEOUT_S} s, SIGCONT"
    timeout = {"checkpoint_timeout_s": CHECKPOINT_TIMEOUT_S}
    trial = Trial(cluster, artifact, jobs, fault, STUCK_S, flink=timeout)
    trial.begin()
    stuck = ProcessRecord.of(local.worker_pids(cluster)[-1])
    try:
        trial.strike(lambda: stuck.send(signal.SIGSTOP))
    finally:
        woke = stuck.send(signal.SIGCONT)
    trial.row.note = "" if woke else "the stopped worker had been ended already"
    trial.await_more(4_000)
    trial.finish(table)


@pytest.mark.matrix
def test_checkpoints_that_find_the_disk_full(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table
) -> None:
    trial = Trial(cluster, artifact, jobs, "no space for checkpoints", RECOVERY_S)
    trial.begin()
    pid, before = cluster.pids["taskmanager-0"], failed_checkpoints(trial)
    usual = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    # As on a full disk: what grows beyond the limit cannot be written.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, usual[1]))
    live.wait_for(lambda: failed_checkpoints(trial) > before + 1, "failed checkpoints", jobs)
    failures = " ".join(jobs.rest.job(trial.job_id).exceptions)
    if cluster.pids["taskmanager-0"] == pid:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, usual)
    trial.recover()
    assert "File too large" in failures, "the failure must name the cause"
    trial.finish(table)


def failed_checkpoints(trial: Trial) -> int:
    """How many checkpoints of the job have failed."""
    return trial.jobs.rest.checkpoints(trial.job_id)["counts"]["failed"]
