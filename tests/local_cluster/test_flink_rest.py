"""The REST client against a server that answers as Flink 1.19 does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from streamgauge.infra.errors import FlinkRestError
from streamgauge.infra.flink_rest import FlinkRest, Job, root_cause


class Answers(BaseHTTPRequestHandler):
    """Answers from `scripts`: per "METHOD path" a list of (status, body); the last one stays."""

    scripts: dict[str, list[tuple[int, object]]]

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        script = self.scripts[f"{self.command} {self.path}"]
        status, body = script.pop(0) if len(script) > 1 else script[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    do_GET = do_POST = do_PATCH = answer

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def flink() -> Iterator[ThreadingHTTPServer]:
    Answers.scripts = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def client(server: ThreadingHTTPServer) -> FlinkRest:
    return FlinkRest(f"http://127.0.0.1:{server.server_port}")


def test_stop_with_savepoint_waits_for_the_savepoint_and_the_end(
    flink: ThreadingHTTPServer,
) -> None:
    running, done = {"status": {"id": "IN_PROGRESS"}}, {"status": {"id": "COMPLETED"}}
    Answers.scripts = {
        "POST /jobs/j/stop": [(202, {"request-id": "t"})],
        "GET /jobs/j/savepoints/t": [
            (200, running),
            (200, {**done, "operation": {"location": "file:/s/1"}}),
        ],
        "GET /jobs/j": [(200, {"state": "RUNNING"}), (200, {"state": "FINISHED"})],
    }

    assert client(flink).stop_with_savepoint("j", "file:///s", 5.0) == "file:/s/1"
    assert len(Answers.scripts["GET /jobs/j"]) == 1


def test_a_failed_savepoint_is_an_error_with_its_cause(flink: ThreadingHTTPServer) -> None:
    failed = {"failure-cause": {"stack-trace": "disk full"}}
    Answers.scripts = {
        "POST /jobs/j/stop": [(202, {"request-id": "t"})],
        "GET /jobs/j/savepoints/t": [
            (200, {"status": {"id": "COMPLETED"}, "operation": failed}),
        ],
    }

    with pytest.raises(FlinkRestError, match="savepoint of job j failed: disk full"):
        client(flink).stop_with_savepoint("j", "file:///s", 5.0)


def test_a_counter_is_summed_over_all_steps(flink: ThreadingHTTPServer) -> None:
    path = "/jobs/j/vertices/{}/subtasks/metrics"
    step = "[3]{Read__Letters}.streamgauge_jumped"
    asked = "%5B3%5D%7BRead__Letters%7D.streamgauge_jumped"
    Answers.scripts = {
        "GET /jobs/j": [(200, {"vertices": [{"id": "a"}, {"id": "b"}]})],
        f"GET {path.format('a')}": [(200, [{"id": step}, {"id": "numRecordsIn"}])],
        f"GET {path.format('a')}?get={asked}&agg=sum": [(200, [{"id": step, "sum": 3.0}])],
        f"GET {path.format('b')}": [(200, [{"id": "numRecordsIn"}])],
    }

    assert client(flink).counter("j", "jumped") == 3


def test_a_triggered_checkpoint_is_awaited_and_numbered(flink: ThreadingHTTPServer) -> None:
    Answers.scripts = {
        "POST /jobs/j/checkpoints": [(202, {"request-id": "t"})],
        "GET /jobs/j/checkpoints/t": [
            (200, {"status": {"id": "IN_PROGRESS"}}),
            (200, {"status": {"id": "COMPLETED"}, "operation": {"checkpointId": 7}}),
        ],
    }

    assert client(flink).trigger_checkpoint("j", 5.0) == 7


def test_a_failed_checkpoint_is_an_error_with_its_cause(flink: ThreadingHTTPServer) -> None:
    failed = {"checkpointId": None, "failureCause": {"stack-trace": "disk full"}}
    Answers.scripts = {
        "POST /jobs/j/checkpoints": [(202, {"request-id": "t"})],
        "GET /jobs/j/checkpoints/t": [
            (200, {"status": {"id": "COMPLETED"}, "operation": failed}),
        ],
    }

    with pytest.raises(FlinkRestError, match="checkpoint of job j failed: disk full"):
        client(flink).trigger_checkpoint("j", 5.0)


def test_a_savepoint_that_takes_too_long_is_an_error(flink: ThreadingHTTPServer) -> None:
    Answers.scripts = {
        "POST /jobs/j/stop": [(202, {"request-id": "t"})],
        "GET /jobs/j/savepoints/t": [(200, {"status": {"id": "IN_PROGRESS"}})],
    }

    with pytest.raises(FlinkRestError, match="no savepoint after"):
        client(flink).stop_with_savepoint("j", "file:///s", 0.05)


def test_a_job_reports_task_states_and_the_innermost_cause(flink: ThreadingHTTPServer) -> None:
    vertex = {"name": "[1]Score", "tasks": {"RUNNING": 2, "FAILED": 0}}
    trace = "java.lang.RuntimeException: bundle\n\tat A\nCaused by: x.YError: why\n\tat B"
    Answers.scripts = {
        "GET /jobs/j": [(200, {"jid": "j", "name": "n", "state": "RUNNING", "vertices": [vertex]})],
        "GET /jobs/j/exceptions": [
            (200, {"exceptionHistory": {"entries": [{"stacktrace": trace}]}})
        ],
    }

    detail = client(flink).job("j")

    assert detail.is_running
    assert detail.tasks == {"[1]Score": {"RUNNING": 2}}
    assert detail.exceptions == ("x.YError: why",)


def test_a_refusal_carries_flinks_own_words(flink: ThreadingHTTPServer) -> None:
    Answers.scripts = {"GET /overview": [(404, {"errors": ["Not found: x\n\tat A"]})]}

    with pytest.raises(FlinkRestError, match=r"404 Not found: x$"):
        client(flink).overview()


def test_an_unreachable_flink_is_one_clear_error() -> None:
    with pytest.raises(FlinkRestError, match=r"does not answer at http://127\.0\.0\.1:9 "):
        FlinkRest("http://127.0.0.1:9").overview()


def test_the_python_error_inside_a_java_trace_is_the_cause() -> None:
    trace = (
        "java.lang.RuntimeException: Error received from SDK harness: Traceback (most recent"
        " call last):\n  File \"a.py\", line 1\nModuleNotFoundError: No module named 'x'\n\n\tat A"
    )

    assert root_cause(trace) == "ModuleNotFoundError: No module named 'x'"


def health_answers(
    job: dict[str, object], failures: list[dict[str, object]], completed: object
) -> dict[str, list[tuple[int, object]]]:
    """The answers about one job, at the time 100,000 by Flink's clock."""
    state = {"jid": "j", "name": "telemetry", "start-time": 1_000, **job}
    return {
        "GET /jobs/overview": [(200, {"jobs": [state]})],
        "GET /jobs/j": [(200, {**state, "now": 100_000})],
        "GET /jobs/j/exceptions": [(200, {"exceptionHistory": {"entries": failures}})],
        "GET /jobs/j/checkpoints": [
            (200, {"counts": {"failed": 2}, "latest": {"completed": completed}})
        ],
        "GET /jobs/j/metrics?get=numRestarts": [(200, [{"id": "numRestarts", "value": "3"}])],
    }


OLD, RECENT = (
    {"timestamp": time_ms, "stacktrace": "java.lang.RuntimeException: x\nCaused by: a.BError: why"}
    for time_ms in (30_000, 99_000)
)


def test_the_health_of_a_job_has_its_checkpoints_restarts_and_last_failure(
    flink: ThreadingHTTPServer,
) -> None:
    completed = {"latest_ack_timestamp": 90_000}
    Answers.scripts = health_answers({"state": "RUNNING"}, [RECENT, OLD], completed)
    [health] = client(flink).health()
    assert health.job == Job("j", "telemetry", "RUNNING")
    assert (health.now_ms, health.started_ms, health.last_checkpoint_ms) == (100_000, 1_000, 90_000)
    assert (health.restarts, health.checkpoints_failed) == (3, 2)
    assert (health.last_failure_ms, health.last_failure) == (99_000, "a.BError: why")


@pytest.mark.parametrize(
    ("state", "failures", "is_healthy"),
    [
        ("RUNNING", [], True),
        ("RUNNING", [OLD], True),
        ("RUNNING", [RECENT], False),  # between two restarts
        ("RESTARTING", [RECENT], False),
        ("FAILED", [OLD], False),
        ("FAILING", [], False),
        ("CANCELED", [RECENT], True),
        ("FINISHED", [], True),
    ],
)
def test_a_job_that_restarts_or_has_failed_is_not_healthy(
    flink: ThreadingHTTPServer, state: str, failures: list[dict[str, object]], is_healthy: bool
) -> None:
    Answers.scripts = health_answers({"state": state}, failures, None)
    [health] = client(flink).health()
    assert health.is_healthy is is_healthy
    assert health.last_checkpoint_ms is None


def test_of_jobs_that_have_ended_only_the_newest_of_a_name_has_a_health(
    flink: ThreadingHTTPServer,
) -> None:
    Answers.scripts = health_answers({"state": "RUNNING", "start-time": 3}, [], None)
    [(_, overview)] = Answers.scripts["GET /jobs/overview"]
    assert isinstance(overview, dict)
    overview["jobs"] += [
        {"jid": "gone", "name": "telemetry", "state": "FAILED", "start-time": 2},
        {"jid": "gone-too", "name": "telemetry", "state": "FAILED", "start-time": 1},
    ]
    assert [health.job.job_id for health in client(flink).health()] == ["j"]


def test_the_settings_of_the_cluster_are_read(flink: ThreadingHTTPServer) -> None:
    answer = [{"key": "state.checkpoints.dir", "value": "file:///checkpoints"}]
    Answers.scripts = {"GET /jobmanager/config": [(200, answer)]}
    assert client(flink).settings() == {"state.checkpoints.dir": "file:///checkpoints"}
