"""A job that cannot run ends with one line and exit code 2, before anything is consumed."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fixtures.artifacts import make_artifact
from fixtures.deadlines import deadline
from fixtures.paths import ROOT
from streamgauge.infra.local.info import ClusterInfo
from system.harness import fleet, live

pytestmark = pytest.mark.system


@dataclass(frozen=True, slots=True)
class Setup:
    """A valid configuration file, its artifact and its topic."""

    folder: Path
    topic: str
    settings: dict[str, Any]

    def submit(self) -> subprocess.CompletedProcess[str]:
        """Run `streamgauge run` on the settings."""
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(self.settings))
        return subprocess.run(
            [sys.executable, "-m", "streamgauge.pipeline.cli.main", "run", "--config", str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=deadline(120),
            check=False,
        )


@pytest.fixture(scope="module")
def topic(cluster: ClusterInfo) -> str:
    """A topic with events of 38 features."""
    topic = live.new_name("machines")
    live.create_topic(cluster, topic, 1)
    fleet.produce_fleet(cluster, topic, [0])
    return topic


@pytest.fixture
def setup(cluster: ClusterInfo, topic: str, tmp_path: Path) -> Setup:
    """Settings of a job that would run."""
    make_artifact(tmp_path / "artifact", features=38)
    name = live.new_name("job")
    settings = {
        "artifact": "artifact",
        "name": name,
        "kafka": {"bootstrap_servers": cluster.bootstrap_servers},
        "input": {"topic": topic},
        "flink": {
            "job_endpoint": cluster.job_endpoint,
            "rest_url": cluster.flink_rest_url,
            "worker_endpoint": cluster.worker_endpoint,
        },
        **{kind: {"topic": f"{name}.{kind}"} for kind in OUTPUTS},
    }
    return Setup(tmp_path, topic, settings)


OUTPUTS = ("alerts", "scores", "dead_letters", "drift")


def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wrong_key(setup: Setup) -> str:
    setup.settings["alerts"]["per_entity_days"] = 1
    return r"job\.yaml: alerts\.per_entity_days: unknown key; did you mean 'per_entity_day'\?"


def wrong_type(setup: Setup) -> str:
    setup.settings["scoring"] = {"shards": "many"}
    return r"job\.yaml: scoring\.shards: expected `int`, got `str`"


def missing_artifact(setup: Setup) -> str:
    setup.settings["artifact"] = "elsewhere"
    return r"artifact: must be a directory with an artifact; nothing at .*/elsewhere"


def altered_artifact(setup: Setup) -> str:
    path = setup.folder / "artifact" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return r"artifact .*: weights\.safetensors must be .*sha256.*; found .*sha256"


def features_of_another_model(setup: Setup) -> str:
    make_artifact(setup.folder / "narrow", features=3)
    setup.settings["artifact"] = "narrow"
    return (
        rf"input\.topic: events of '{setup.topic}' must have the artifact's 3 features; "
        r"none of the newest does: features must be 3 numbers; got 38"
    )


def features_listed_otherwise(setup: Setup) -> str:
    setup.settings["input"]["features"] = ["cpu", "memory"]
    return r"input\.features: must be the artifact's 38 features .*; got 2: cpu, memory"


def unreachable_broker(setup: Setup) -> str:
    address = f"127.0.0.1:{closed_port()}"
    setup.settings["kafka"]["bootstrap_servers"] = address
    return rf"bootstrap_servers: a Kafka broker must answer; {address}: Connection refused"


def missing_topic(setup: Setup) -> str:
    setup.settings["input"]["topic"] = absent = live.new_name("absent")
    return rf"topic '{absent}': must exist on "


def no_job_server(setup: Setup) -> str:
    setup.settings["flink"]["job_endpoint"] = address = f"127.0.0.1:{closed_port()}"
    return rf"flink\.job_endpoint: Beam's job server must answer; {address}: .*Connection refused"


def no_flink(setup: Setup) -> str:
    setup.settings["flink"]["rest_url"] = url = f"http://127.0.0.1:{closed_port()}"
    return rf"Flink does not answer at {url} "


@pytest.mark.parametrize(
    "corrupt",
    [
        wrong_key,
        wrong_type,
        missing_artifact,
        altered_artifact,
        features_of_another_model,
        features_listed_otherwise,
        unreachable_broker,
        missing_topic,
        no_job_server,
        no_flink,
    ],
)
def test_a_job_that_cannot_run_says_why_in_one_line_and_touches_nothing(
    cluster: ClusterInfo, setup: Setup, corrupt: Callable[[Setup], str]
) -> None:
    reason = corrupt(setup)
    topics, groups = on_the_broker(cluster)

    ended = setup.submit()

    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert ended.stderr.startswith("streamgauge: ")
    assert re.search(reason, ended.stderr), ended.stderr
    assert on_the_broker(cluster) == (topics, groups), "neither topics nor groups may appear"


def on_the_broker(cluster: ClusterInfo) -> tuple[set[str], set[str]]:
    """Names of all topics, except those of the broker, and of all consumer groups."""
    with live.admin(cluster) as client:
        groups = {group["group_id"] for group in client.list_groups()}
        topics = {topic["name"] for topic in client.describe_topics()}
        return {name for name in topics if not name.startswith("__")}, groups
