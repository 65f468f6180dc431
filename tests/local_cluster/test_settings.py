"""The settings that broker and Flink are started with, and the containers' manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fixtures.paths import ROOT
from streamgauge.infra.local import flink, kafka
from streamgauge.infra.local.jars import Jars
from streamgauge.infra.processes.ports import Ports

PORTS = Ports()
JARS = Jars("java", Path("/k"), Path("/f"), Path("/b"))
COMPOSE = ROOT / "infra" / "docker" / "compose.yaml"


def broker_settings(tmp_path: Path, ports: Ports = PORTS) -> dict[str, str]:
    lines = kafka.server_properties(tmp_path, ports).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_the_broker_listens_on_loopback_and_creates_no_topic_by_itself(tmp_path: Path) -> None:
    settings = broker_settings(tmp_path)

    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:9092"
    assert settings["auto.create.topics.enable"] == "false"


@pytest.mark.parametrize("kind", ["retention", "message.max", "timestamp", "fetch.max", "segment"])
def test_the_broker_has_the_limits_that_kafka_has_by_default(tmp_path: Path, kind: str) -> None:
    """A raised limit would hide what fails on other brokers."""
    assert [name for name in broker_settings(tmp_path) if kind in name] == []
    container = yaml.safe_load(COMPOSE.read_text())["services"]["kafka"]["environment"]
    variable = kind.replace(".", "_").upper()
    assert [name for name in container if variable in name] == []


def test_a_proxied_listener_names_the_proxy_to_its_clients(tmp_path: Path) -> None:
    settings = broker_settings(tmp_path, Ports(proxied=9192, proxy=9292))

    assert "PROXIED://127.0.0.1:9192" in settings["listeners"].split(",")
    assert "PROXIED://127.0.0.1:9292" in settings["advertised.listeners"].split(",")
    assert "PLAINTEXT://127.0.0.1:9092" in settings["advertised.listeners"].split(",")


def test_high_availability_is_set_up_only_with_a_zookeeper(tmp_path: Path) -> None:
    without = flink.cluster_settings(tmp_path, PORTS, slots=2)
    settings = flink.cluster_settings(tmp_path, Ports(zookeeper=2181), slots=2)

    assert not any(name.startswith("high-availability") for name in without)
    assert settings["high-availability.zookeeper.quorum"] == "127.0.0.1:2181"
    assert settings["high-availability.jobmanager.port"] == PORTS.rpc
    assert flink.zookeeper_settings(tmp_path, PORTS)["clientPortAddress"] == "127.0.0.1"


def test_flink_binds_loopback_and_takes_no_uploads(tmp_path: Path) -> None:
    settings = flink.cluster_settings(tmp_path, PORTS, slots=2)

    binds = {name: value for name, value in settings.items() if name.endswith(("host", "address"))}
    assert set(binds.values()) == {"127.0.0.1"}
    assert {"jobmanager.bind-host", "taskmanager.bind-host", "rest.bind-address"} <= set(binds)
    assert settings["web.submit.enable"] is False


def test_flink_keeps_state_in_rocksdb_and_forgives_pauses(tmp_path: Path) -> None:
    settings = flink.cluster_settings(tmp_path, PORTS, slots=2)

    assert settings["state.backend.type"] == "rocksdb"
    assert settings["state.backend.incremental"] is True
    assert settings["state.checkpoints.dir"] == (tmp_path / "checkpoints").as_uri()
    assert settings["heartbeat.timeout"] >= 30_000
    assert settings["execution.buffer-timeout.interval"] == "0 ms"


def test_the_submitting_side_names_no_state_backend() -> None:
    assert set(flink.client_settings()) == {"execution.buffer-timeout.interval"}


def test_written_settings_are_yaml_that_reads_back(tmp_path: Path) -> None:
    flink.write_config(tmp_path, PORTS, slots=3)

    read = yaml.safe_load((tmp_path / "conf" / "flink" / "config.yaml").read_text())

    assert read == flink.cluster_settings(tmp_path, PORTS, slots=3)


@pytest.mark.parametrize("slots", [1, 4, 8])
def test_the_jvm_is_given_the_memory_that_flink_counts_with(tmp_path: Path, slots: int) -> None:
    command = flink.taskmanager_part(tmp_path, PORTS, JARS, 0, slots).command
    settings = flink.cluster_settings(tmp_path, PORTS, slots)

    def megabytes(*names: str) -> int:
        return sum(int(settings[f"taskmanager.memory.{name}"].rstrip("m")) for name in names)

    heap = megabytes("framework.heap.size", "task.heap.size")
    direct = megabytes("framework.off-heap.size", "task.off-heap.size", "network.max")
    assert f"-Xmx{heap}m" in command
    assert f"-XX:MaxDirectMemorySize={direct}m" in command
    assert f"-XX:MaxMetaspaceSize={megabytes('jvm-metaspace.size')}m" in command


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())["services"]


def test_compose_has_the_whole_cluster_and_the_job(services: dict[str, Any]) -> None:
    assert set(services) >= {
        *("kafka", "jobmanager", "taskmanager", "workers", "job-server", "submit")
    }


def test_compose_publishes_on_loopback_only_and_no_port_of_beam(services: dict[str, Any]) -> None:
    published = {port for service in services.values() for port in service.get("ports", ())}

    assert published == {"127.0.0.1:9092:9092", "127.0.0.1:8081:8081"}


def test_compose_names_every_image_by_a_fixed_tag(services: dict[str, Any]) -> None:
    tags = {name: service["image"].partition(":")[2] for name, service in services.items()}

    assert all(tag and tag != "latest" for tag in tags.values()), tags


def test_compose_lets_no_container_gain_privileges(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


def test_compose_and_the_local_cluster_agree_on_flink(
    services: dict[str, Any], tmp_path: Path
) -> None:
    inside = yaml.safe_load(services["taskmanager"]["environment"]["FLINK_PROPERTIES"])
    local = flink.cluster_settings(tmp_path, PORTS, slots=4)

    shared = ("heartbeat.", "restart-strategy.", "execution.", "state.backend.", "web.")
    differing = {
        name: (value, inside.get(name))
        for name, value in local.items()
        if name.startswith(shared) and inside.get(name) != value
    }
    assert differing == {}
