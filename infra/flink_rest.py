"""A small client of Flink's REST API, with the standard library only.

Source: Flink 1.19, "REST API" (ops/rest_api).
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from streamgauge.infra.errors import FlinkRestError

_TIMEOUT_S = 10.0
_POLL_S = 0.1
# Frames are indented, by a tab in Java and by blanks in Python; the errors are not.
_CAUSE = re.compile(r"^(?:Caused by: )?([A-Za-z_][\w.$]*(?:Error|Exception|Exit)\b.*)", re.M)
#: A job that failed within the last minute may be about to fail again.
RECENT_FAILURE_MS = 60_000
#: States that a job does not leave by itself.
FINAL_STATES = frozenset({"FINISHED", "CANCELED", "FAILED", "SUSPENDED"})


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Flink sees it."""

    job_id: str
    name: str
    #: `RUNNING`, `RESTARTING`, `FAILED`, …
    state: str


@dataclass(frozen=True, slots=True)
class JobDetail:
    """A job, its steps' states, and what went wrong last."""

    job: Job
    #: Step name to the number of its tasks per state, e.g. `{"RUNNING": 2}`.
    tasks: Mapping[str, Mapping[str, int]]
    #: The newest failure first; of each stack trace the innermost cause.
    exceptions: tuple[str, ...]

    @property
    def is_running(self) -> bool:
        """Return whether the job and all its tasks run."""
        states = [state for counts in self.tasks.values() for state in counts]
        return self.job.state == "RUNNING" and set(states) == {"RUNNING"}


@dataclass(frozen=True, slots=True)
class JobHealth:
    """How a job is doing, as of `now_ms`; times are epoch milliseconds by Flink's clock."""

    job: Job
    now_ms: int
    started_ms: int
    #: Restarts after failures, since the job started.
    restarts: int
    checkpoints_failed: int
    #: When the newest checkpoint was complete; `None` before the first.
    last_checkpoint_ms: int | None
    #: The newest failure; `None` if there was none.
    last_failure_ms: int | None
    last_failure: str | None

    @property
    def is_healthy(self) -> bool:
        """Return whether the job runs, or has ended as asked, without a failure just now.

        Between two restarts a job is RUNNING for seconds, so a recent failure counts too.
        """
        if self.job.state in ("FINISHED", "CANCELED"):
            return True
        failed_ms = self.last_failure_ms
        is_recent = failed_ms is not None and self.now_ms - failed_ms < RECENT_FAILURE_MS
        return self.job.state == "RUNNING" and not is_recent


class FlinkRest:
    """Asks one Flink cluster; every call raises `FlinkRestError` when it gets no good answer."""

    def __init__(self, url: str, timeout_s: float = _TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s

    def overview(self) -> dict[str, Any]:
        """Return slots, TaskManagers and job counts of the cluster."""
        answer: dict[str, Any] = self._get("/overview")
        return answer

    def settings(self) -> dict[str, str]:
        """Return the settings of the JobManager."""
        return {each["key"]: each["value"] for each in self._get("/jobmanager/config")}

    def task_managers(self) -> list[dict[str, Any]]:
        """Return the registered TaskManagers."""
        answer: list[dict[str, Any]] = self._get("/taskmanagers")["taskmanagers"]
        return answer

    def jobs(self) -> list[Job]:
        """Return all jobs the cluster remembers, the newest first."""
        jobs = self._get("/jobs/overview")["jobs"]
        jobs.sort(key=lambda job: job["start-time"], reverse=True)
        return [Job(job["jid"], job["name"], job["state"]) for job in jobs]

    def job(self, job_id: str) -> JobDetail:
        """Return one job with the states of its tasks and its last failures."""
        detail = self._get(f"/jobs/{job_id}")
        failures = self._get(f"/jobs/{job_id}/exceptions").get("exceptionHistory", {})
        return JobDetail(
            job=Job(detail["jid"], detail["name"], detail["state"]),
            tasks={
                vertex["name"]: {state: n for state, n in vertex["tasks"].items() if n}
                for vertex in detail["vertices"]
            },
            exceptions=tuple(
                root_cause(entry["stacktrace"]) for entry in failures.get("entries", ())
            ),
        )

    def health(self) -> list[JobHealth]:
        """Return how each job is doing that lives; also the newest of a name, if it has ended."""
        newest: set[str] = set()
        answer = []
        for job in self.jobs():
            if job.state not in FINAL_STATES or job.name not in newest:
                answer.append(self._health_of(job))
            newest.add(job.name)
        return answer

    def _health_of(self, job: Job) -> JobHealth:
        path = f"/jobs/{job.job_id}"
        detail = self._get(path)
        history = self._get(f"{path}/exceptions").get("exceptionHistory", {})
        failure = next(iter(history.get("entries", ())), None)
        checkpoints = self.checkpoints(job.job_id)
        completed = (checkpoints.get("latest") or {}).get("completed")
        restarts = self._get(f"{path}/metrics?get=numRestarts")
        return JobHealth(
            job=Job(job.job_id, job.name, detail["state"]),
            now_ms=detail["now"],
            started_ms=detail["start-time"],
            restarts=int(float(restarts[0]["value"])) if restarts else 0,
            checkpoints_failed=checkpoints["counts"]["failed"],
            last_checkpoint_ms=completed["latest_ack_timestamp"] if completed else None,
            last_failure_ms=failure["timestamp"] if failure else None,
            last_failure=root_cause(failure["stacktrace"]) if failure else None,
        )

    def checkpoints(self, job_id: str) -> dict[str, Any]:
        """Return checkpoint counts, sizes and the latest checkpoints of a job."""
        answer: dict[str, Any] = self._get(f"/jobs/{job_id}/checkpoints")
        return answer

    def task_managers_of(self, job_id: str) -> set[str]:
        """Return the ids of the TaskManagers that run tasks of a job."""
        return {
            task["taskmanager-id"]
            for vertex in self._get(f"/jobs/{job_id}")["vertices"]
            for task in self._get(f"/jobs/{job_id}/vertices/{vertex['id']}")["subtasks"]
        }

    def counter(self, job_id: str, name: str) -> int:
        """Return a counter that the job defines, summed over its steps and their subtasks.

        Flink refreshes metrics every ten seconds, and forgets them when the job restarts; an
        unknown metric counts as 0.
        """
        total = 0.0
        for vertex in self._get(f"/jobs/{job_id}")["vertices"]:
            path = f"/jobs/{job_id}/vertices/{vertex['id']}/subtasks/metrics"
            known = [metric["id"] for metric in self._get(path)]
            wanted = ",".join(quote(metric) for metric in known if metric.endswith(f"_{name}"))
            if wanted:
                sums = self._get(f"{path}?get={wanted}&agg=sum")
                total += sum(metric["sum"] for metric in sums)
        return int(total)

    def cancel(self, job_id: str, deadline_s: float = 60.0) -> None:
        """Cancel a job and wait until it has ended."""
        self._call("PATCH", f"/jobs/{job_id}?mode=cancel", None)
        self._await_end(job_id, deadline_s)

    def stop_with_savepoint(
        self, job_id: str, target_dir: str | None = None, deadline_s: float = 120.0
    ) -> str:
        """Stop a job after a last savepoint and return the path of the savepoint.

        Args:
            job_id: the job.
            target_dir: URI of the folder in which Flink creates the savepoint's folder; None
                is the folder that the cluster's settings name.
            deadline_s: limit for savepoint and stop together, seconds.
        """
        end = time.monotonic() + deadline_s
        request = {"targetDirectory": target_dir, "drain": False}
        trigger = self._call("POST", f"/jobs/{job_id}/stop", request)["request-id"]
        operation = self._await_operation(job_id, "savepoint", trigger, deadline_s)
        if "location" not in operation:
            raise FlinkRestError(f"savepoint of job {job_id} failed: {_failure(operation)}")
        self._await_end(job_id, max(1.0, end - time.monotonic()))
        return str(operation["location"])

    def trigger_checkpoint(self, job_id: str, deadline_s: float = 60.0) -> int:
        """Trigger a checkpoint of a running job; return its number once it is complete."""
        request = {"checkpointType": "CONFIGURED"}
        trigger = self._call("POST", f"/jobs/{job_id}/checkpoints", request)["request-id"]
        operation = self._await_operation(job_id, "checkpoint", trigger, deadline_s)
        if operation.get("checkpointId") is None:
            raise FlinkRestError(f"checkpoint of job {job_id} failed: {_failure(operation)}")
        return int(operation["checkpointId"])

    def _await_operation(
        self, job_id: str, kind: str, trigger: str, deadline_s: float
    ) -> dict[str, Any]:
        """Wait until Flink has completed a savepoint or checkpoint, or has failed to."""
        end = time.monotonic() + deadline_s
        while True:
            answer = self._get(f"/jobs/{job_id}/{kind}s/{trigger}")
            if answer["status"]["id"] == "COMPLETED":
                operation: dict[str, Any] = answer["operation"]
                return operation
            if time.monotonic() >= end:
                raise FlinkRestError(f"job {job_id} has no {kind} after {deadline_s:g} s")
            time.sleep(_POLL_S)

    def _await_end(self, job_id: str, deadline_s: float) -> None:
        end = time.monotonic() + deadline_s
        while (state := self._get(f"/jobs/{job_id}")["state"]) not in FINAL_STATES:
            if time.monotonic() >= end:
                raise FlinkRestError(f"job {job_id} is still {state} after {deadline_s:g} s")
            time.sleep(_POLL_S)

    def _get(self, path: str) -> Any:
        return self._call("GET", path, None)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._url + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                return json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                detail = _first_error(error.read())
            raise FlinkRestError(f"{method} {self._url}{path}: {error.code} {detail}") from error
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise FlinkRestError(
                f"Flink does not answer at {self._url} ({reason});"
                " `streamgauge status` shows whether it runs"
            ) from error


def root_cause(stacktrace: str) -> str:
    r"""Pick the line of a stack trace that names the cause; a Python error comes first.

    >>> root_cause("java.lang.RuntimeException: bundle\n\tat A\nCaused by: x.YError: why")
    'x.YError: why'
    """
    causes = [match.group(1) for match in _CAUSE.finditer(stacktrace)]
    return causes[-1] if causes else stacktrace.partition("\n")[0]


def _failure(operation: Mapping[str, Any]) -> str:
    """Read why a savepoint or a checkpoint failed; Flink spells the field in two ways."""
    cause = operation.get("failure-cause") or operation.get("failureCause") or {}
    return root_cause(cause.get("stack-trace", "no cause given"))


def _first_error(body: bytes) -> str:
    """Shorten Flink's error answer to its first line."""
    try:
        return str(json.loads(body)["errors"][0]).strip().partition("\n")[0]
    except (ValueError, KeyError, IndexError, TypeError):
        return body[:200].decode("utf-8", "replace")
