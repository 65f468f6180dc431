"""The broker: Kafka in combined KRaft mode, one node, loopback only."""

from __future__ import annotations

import base64
import logging
import subprocess
import uuid
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamgauge.infra.errors import PartError
from streamgauge.infra.local.jars import Jars, classpath
from streamgauge.infra.processes import parts
from streamgauge.infra.processes.ports import Ports
from streamgauge.infra.processes.process import is_listening, replace_text

_HEAP = "-Xmx512m"
_SILENT = logging.Logger("infra.kafka.probe", level=logging.CRITICAL + 1)


def broker_part(directory: Path, ports: Ports, jars: Jars) -> parts.Part:
    """Describe the broker of a cluster folder."""
    settings = directory / "conf" / "kafka.properties"
    logging_settings = f"-Dlog4j2.configurationFile={parts.log_settings_path(directory)}"
    java = [jars.java, _HEAP, logging_settings, "-cp", classpath(jars.kafka)]

    def prepare() -> None:
        parts.write_log_settings(directory)
        replace_text(settings, server_properties(directory, ports))
        _format(java, settings, directory / "kafka")

    return parts.Part(
        name="broker",
        command=[*java, "kafka.Kafka", str(settings)],
        environment=parts.environment(directory),
        ports=("broker", "controller", *(("proxied",) if ports.proxied else ())),
        is_healthy=lambda _: answers_metadata(ports.broker),
        deadline_s=60.0,
        prepare=prepare,
    )


def server_properties(directory: Path, ports: Ports) -> str:
    """Write the broker's settings: one node, topics only on request.

    Limits of size, retention and record times are Kafka's own defaults, as on most brokers.
    """
    # Clients connect to the address that the broker advertises, so clients of the proxy need a
    # listener that advertises the proxy.
    listeners = {"PLAINTEXT": (ports.broker, ports.broker)}
    if ports.proxied:
        listeners["PROXIED"] = (ports.proxied, ports.proxy)
    bound = [f"{name}://127.0.0.1:{port}" for name, (port, _) in listeners.items()]
    advertised = [f"{name}://127.0.0.1:{port}" for name, (_, port) in listeners.items()]
    protocols = [f"{name}:PLAINTEXT" for name in (*listeners, "CONTROLLER")]
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{ports.controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join([*bound, f"CONTROLLER://127.0.0.1:{ports.controller}"]),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": ",".join(protocols),
        "log.dirs": directory / "kafka",
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": 1,
        # Kafka's default of 50 costs seconds and file handles on a laptop.
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def answers_metadata(port: int) -> bool:
    """Return whether the broker answers a metadata request; an open port is not enough."""
    if not is_listening(port):
        return False
    # The client logs connection errors to stderr, and while the broker starts they are normal.
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"}, logger=_SILENT)
    try:
        return bool(client.list_topics(timeout=5.0).brokers)
    except KafkaException:
        return False


def _format(java: list[str], settings: Path, data: Path) -> None:
    if (data / "meta.properties").exists():
        return
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # StorageTool would read a leading dash as an option.
    command = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}"]
    ran = subprocess.run(
        [*command, f"--config={settings}"], capture_output=True, text=True, timeout=120
    )
    if ran.returncode != 0:
        raise PartError(f"broker: formatting its folder failed:\n{ran.stdout}{ran.stderr}")
