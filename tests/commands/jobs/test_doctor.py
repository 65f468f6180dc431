"""What needs no broker; the real one is in tests/system."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fixtures.artifacts import make_artifact
from fixtures.deadlines import deadline
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.pipeline.cli.main import app
from streamgauge.pipeline.config import from_dict
from streamgauge.pipeline.jobs import doctor
from streamgauge.pipeline.jobs.doctor import (
    OK,
    SKIPPED,
    WARNING,
    WRONG,
    Finding,
    examine,
    exit_code,
    first_wrong,
)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "artifact", features=3)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers: not a broker."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def _examined(path: Path, *overrides: str) -> dict[str, Finding]:
    findings = examine(path, overrides, narrate=lambda line: None)
    return {finding.name: finding for finding in findings}


def test_an_unreadable_configuration_skips_everything_else(tmp_path: Path) -> None:
    findings = examine(tmp_path / "absent.yaml", narrate=lambda line: None)
    assert [f.state for f in findings] == [WRONG] + [SKIPPED] * (len(findings) - 1)
    assert exit_code(findings) == 2
    wrong = first_wrong(findings)
    assert wrong is not None
    assert "no file at" in wrong.detail


def test_a_missing_artifact_does_not_hide_a_broker_that_is_away(tmp_path: Path) -> None:
    path = _config(tmp_path, "artifact: nowhere\nkafka: {bootstrap_servers: '127.0.0.1:1'}\n")
    found = _examined(path)
    assert found["config"].state == OK
    assert found["artifact"].state == WRONG
    assert str(tmp_path / "nowhere") in found["artifact"].detail
    assert found["schema"].state == SKIPPED
    assert found["address"].state == WRONG
    assert "127.0.0.1:1: Connection refused" in found["address"].detail
    assert found["sample"] == Finding("sample", SKIPPED, "needs schema")


def test_an_altered_artifact_is_reported(tmp_path: Path, artifact: Path) -> None:
    weights = artifact / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    found = _examined(_config(tmp_path, "artifact: artifact\n"))
    assert found["artifact"].state == WRONG
    assert "weights.safetensors" in found["artifact"].detail


def test_a_good_artifact_is_described(tmp_path: Path, artifact: Path) -> None:
    found = _examined(_config(tmp_path, "artifact: artifact\n"))
    assert "self-test passed" in found["artifact"].detail
    assert found["schema"].detail.startswith("3 features (f00, f01, f02), ")


def test_features_in_another_order_are_wrong(tmp_path: Path, artifact: Path) -> None:
    path = _config(tmp_path, "artifact: artifact\ninput: {features: [f00, f02, f01]}\n")
    found = _examined(path)
    assert found["schema"].state == WRONG
    assert "at position 1 it has 'f01'; got 'f02'" in found["schema"].detail


def test_a_port_that_is_no_broker_is_reported_in_time(tmp_path: Path, silent_port: int) -> None:
    path = _config(tmp_path, "artifact: a\n")
    began = time.monotonic()
    found = _examined(path, f"kafka.bootstrap_servers=127.0.0.1:{silent_port}")
    assert time.monotonic() - began < deadline(10)
    assert found["address"].state == OK
    assert found["broker"].state == WRONG
    assert "not as a Kafka broker should" in found["broker"].detail


def test_an_absent_cluster_names_its_part_and_how_to_start_it(tmp_path: Path) -> None:
    text = (
        "artifact: a\nflink: {job_endpoint: '127.0.0.1:1', rest_url: 'http://127.0.0.1:1', "
        "worker_endpoint: '127.0.0.1:1'}\n"
    )
    found = _examined(_config(tmp_path, text))
    for name, part in (("jobs", "flink.job_endpoint"), ("workers", "flink.worker_endpoint")):
        assert found[name].state == WRONG
        assert part in found[name].detail
        assert "streamgauge up" in found[name].detail
    assert found["flink"].state == WRONG


def test_an_embedded_run_needs_no_cluster(tmp_path: Path) -> None:
    findings = examine(_config(tmp_path, "artifact: a\n"), (), True, narrate=lambda line: None)
    states = {finding.name: finding.state for finding in findings}
    assert [states[name] for name in ("jobs", "flink", "workers")] == [SKIPPED] * 3


def test_a_state_folder_that_cannot_be_opened_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert _examined(_config(tmp_path, "artifact: a\n"))["state"].state == OK
    wrong = _examined(_config(tmp_path, "artifact: a\nstate: {folder: file}\n"))["state"]
    assert wrong.state == WRONG
    assert "state.folder: must be a folder" in wrong.detail


@pytest.mark.parametrize(
    ("text", "is_wrong"),
    [
        ("artifact: nowhere\n", "artifact"),
        ("artifact: a\nkafka: {bootstrap_servers: 127.0.0.1:1}\n", "artifact"),
        ("flink: {}\n", "config"),
    ],
)
def test_the_findings_can_be_one_json_object(tmp_path: Path, text: str, is_wrong: str) -> None:
    path = _config(tmp_path, text)
    run = CliRunner().invoke(app, ["doctor", "--config", str(path), "--json", "--embedded"])
    assert run.exit_code == 2
    result = json.loads(run.stdout)
    assert result["ok"] is False
    examined = examine(path, is_embedded=True, narrate=lambda line: None)
    assert result["checks"] == [asdict(finding) for finding in examined]
    assert is_wrong in {c["name"] for c in result["checks"] if c["state"] == WRONG}
    assert run.stderr.startswith("streamgauge: fix this first: ")


def test_each_check_is_one_line(tmp_path: Path) -> None:
    lines: list[str] = []
    findings = examine(tmp_path / "absent.yaml", narrate=lines.append)
    assert len(lines) == len(findings)
    assert lines[0].startswith("WRONG    config ")
    assert all("\n" not in line for line in lines)


DRIFT_OF_200 = 90_000  # bytes: less than a drift report of 200 features may take


@pytest.mark.parametrize(
    ("limits", "features", "warned"),
    [
        ({}, 3, None),
        (
            {"scores": 10_000},
            3,
            "scores: max.message.bytes should be at least 65,536; it is 10,000",
        ),
        ({"drift": DRIFT_OF_200}, 3, None),
        ({"drift": DRIFT_OF_200}, 200, "drift: max.message.bytes should be at least 1"),
        ({None: 2_000}, 3, "absent: max.message.bytes should be at least 65,536; it is 2,000"),
        (dict.fromkeys(("scores", "drift", None, "alerts", "dlq"), None), 3, None),
    ],
)
def test_topics_that_take_less_than_the_job_writes_are_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str | None, int | None],
    features: int,
    warned: str | None,
) -> None:
    def answer(_access: object, topic: str | None = None) -> int | None:
        return limits.get(topic, 1_048_588)

    monkeypatch.setattr(doctor, "message_bytes_max", answer)
    folder = make_artifact(tmp_path / "wide", features=features)
    topics = {"alerts": "alerts", "scores": "scores", "dead_letters": "dlq", "drift": "drift"}
    sections = {kind: {"topic": topic} for kind, topic in {**topics, "health": "absent"}.items()}
    context = doctor._Context(
        tmp_path,
        config=from_dict({"artifact": str(folder), **sections}),
        artifact=artifacts.load(folder),
        partitions=dict.fromkeys(topics.values(), 1),
    )
    found = doctor._run(doctor._Check("limits", (), doctor._check_limits), context)
    assert found.state == (WARNING if warned else OK)
    assert (warned or "") in found.detail
    assert exit_code([found]) == 0
