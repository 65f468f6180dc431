"""Kafka clients: one factory, credentials, and what clients are configured with."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.paths import ROOT, SOURCE
from streamgauge.models.errors import ConfigError
from streamgauge.transforms.kafka import access
from streamgauge.transforms.kafka.access import KafkaAccess

CLIENTS = {"Consumer", "Producer", "AdminClient", "KafkaConsumer", "KafkaProducer"} | {
    "KafkaAdminClient"
}
FACTORY = Path("transforms/kafka/access.py")
#: Starts the local broker, without credentials; `infra` may not import `transforms`.
LOCAL_BROKER = Path("infra/local/kafka.py")


def constructions(path):
    """Names of Kafka clients that a module constructs."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.Call]
    names = {getattr(called, "id", getattr(called, "attr", "")) for called in calls}
    return names & CLIENTS


def test_clients_are_constructed_in_one_module():
    modules = [
        path
        for package in ("models", "transforms", "pipeline", "infra")
        for path in (ROOT / package).rglob("*.py")
    ]
    constructing = {path.relative_to(ROOT) for path in modules if constructions(path)}
    assert constructing == {FACTORY, LOCAL_BROKER}


def test_secrets_override_settings_and_settings_override_options(tmp_path, monkeypatch):
    secrets = tmp_path / "secrets.yaml"
    secrets.write_text("sasl.password: from-secrets\n")
    settings = {"sasl.password": "from-settings", "linger.ms": "7"}
    broker = KafkaAccess("broker:1", settings, str(secrets))
    monkeypatch.setattr(access, "Producer", dict)
    properties = access.new_producer(broker, {"linger.ms": 2, "acks": "all"})
    assert properties == {
        "acks": "all",
        "linger.ms": "7",
        "bootstrap.servers": "broker:1",
        "reconnect.backoff.ms": 500,
        "sasl.password": "from-secrets",
    }


@pytest.mark.parametrize("password", ["0123", "1:45", "no", "2024-01-17", "1e3", "'7'", "007"])
def test_a_secret_is_the_text_that_was_written(tmp_path, password):
    path = tmp_path / "secrets.yaml"
    path.write_text(f"sasl.password: {password}\n")
    access = KafkaAccess("localhost:9092", secrets_file=str(path))
    assert access.properties()["sasl.password"] == password.strip("'")


@pytest.mark.parametrize("text", ["hunter2", "- hunter2", "a: {b: hunter2}", "a: [hunter2]"])
def test_secrets_that_are_no_properties_are_refused_unseen(tmp_path, text):
    path = tmp_path / "secrets.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"every line must be `property: value`") as caught:
        KafkaAccess("localhost:9092", secrets_file=str(path)).properties()
    assert "hunter2" not in str(caught.value)


def test_a_missing_secrets_file_is_named_and_nothing_else(tmp_path):
    with pytest.raises(ConfigError, match=r"kafka.secrets_file: must be a readable YAML file") as e:
        KafkaAccess("broker:1", {}, str(tmp_path / "none.yaml")).properties()
    assert e.value.__cause__ is None


def test_access_is_translated_for_kafka_python():
    settings = {"security.protocol": "SASL_SSL", "sasl.mechanisms": "PLAIN", "linger.ms": "7"}
    assert access.kafka_python_options(KafkaAccess("broker:1", settings).properties()) == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
    }


def test_a_worker_does_not_load_kafka_python():
    """It costs a worker memory and start-up time, and only commands use it."""
    steps = "streamgauge.transforms.score, streamgauge.transforms.sinks.topic"
    code = (
        f"import sys, {steps}, streamgauge.transforms.sources.live; print('kafka' in sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert loaded.stdout.split() == ["False"]
