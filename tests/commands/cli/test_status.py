"""`streamgauge status`: parts and jobs, and an exit code for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from streamgauge.infra.errors import FlinkRestError
from streamgauge.infra.flink_rest import FlinkRest, Job, JobHealth
from streamgauge.infra.local import cluster
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.infra.processes.lifecycle import PartStatus
from streamgauge.pipeline.cli.main import app

NOW_MS = 1_000_000
HEALTHY = JobHealth(
    job=Job("a" * 32, "telemetry", "RUNNING"),
    now_ms=NOW_MS,
    started_ms=NOW_MS - 61_000,
    restarts=0,
    checkpoints_failed=0,
    last_checkpoint_ms=NOW_MS - 4_000,
    last_failure_ms=None,
    last_failure=None,
)
RESTARTING = JobHealth(
    job=Job("b" * 32, "metrics", "RESTARTING"),
    now_ms=NOW_MS,
    started_ms=NOW_MS - 61_000,
    restarts=70,
    checkpoints_failed=1,
    last_checkpoint_ms=None,
    last_failure_ms=NOW_MS - 1_000,
    last_failure="ArtifactError: state was written by another model",
)


class Status:
    """The command, with the parts and jobs that it is to find."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.part = "healthy"
        self.jobs: list[JobHealth] | None = []
        info = SimpleNamespace(flink_rest_url="http://127.0.0.1:1")
        monkeypatch.setattr(ClusterInfo, "load", lambda _: info)
        monkeypatch.setattr(cluster, "status", lambda _: [self._part()])
        monkeypatch.setattr(FlinkRest, "health", lambda _: self._health())

    def __call__(self, *options: str) -> tuple[int, list[str]]:
        result = CliRunner().invoke(app, ["status", *options])
        return result.exit_code, result.stdout.splitlines()

    def _part(self) -> PartStatus:
        return PartStatus("broker", self.part, 7, Path("/logs/broker.log"))

    def _health(self) -> list[JobHealth]:
        if self.jobs is None:
            raise FlinkRestError("Flink does not answer")
        return self.jobs


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch) -> Status:
    return Status(monkeypatch)


def test_a_healthy_job_has_a_line_with_age_restarts_and_checkpoint(status: Status) -> None:
    status.jobs = [HEALTHY]
    code, lines = status()
    assert code == 0
    assert lines[1:] == [
        "telemetry        RUNNING    for 61 s, restarts: 0, last checkpoint: 4 s ago, "
        "failed checkpoints: 0"
    ]


def test_that_no_job_runs_is_reported(status: Status) -> None:
    assert status()[0] == 0
    assert status()[1][1:] == ["no job"]


def test_a_job_that_restarts_is_reported_with_its_cause_and_exit_code_1(status: Status) -> None:
    status.jobs = [HEALTHY, RESTARTING]
    code, lines = status()
    assert code == 1
    assert "restarts: 70, last checkpoint: none" in lines[2]
    assert lines[3] == "  failed 1 s ago: ArtifactError: state was written by another model"


@pytest.mark.parametrize("state", ["unhealthy", "stopped"])
def test_a_part_that_is_not_healthy_has_exit_code_1(status: Status, state: str) -> None:
    status.part = state
    assert status()[0] == 1


def test_a_flink_that_does_not_answer_has_exit_code_1(status: Status) -> None:
    status.jobs = None
    assert status()[0] == 1


def test_jobs_are_objects_in_json(status: Status) -> None:
    status.jobs = [RESTARTING]
    code, lines = status("--json")
    assert code == 1
    part, job = map(json.loads, lines)
    assert part["name"] == "broker"
    assert job == {
        "job": "metrics",
        "job_id": "b" * 32,
        "state": "RESTARTING",
        "healthy": False,
        "age_s": 61.0,
        "restarts": 70,
        "checkpoint_age_s": None,
        "checkpoints_failed": 1,
        "failure_age_s": 1.0,
        "failure": "ArtifactError: state was written by another model",
    }
