"""Checks a Kafka cluster before a command starts to work with it.

A client that cannot reach its broker retries silently until a long timeout. Therefore address,
connection and protocol are checked one after the other, and the first failure is reported.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from streamgauge.models.errors import ConfigError
from streamgauge.transforms.kafka.access import KafkaAccess, new_python_admin

CONNECT_TIMEOUT_S = 3.0
ADMIN_TIMEOUT_MS = 5_000
DEFAULT_PORT = 9092

# Errors are raised. The warnings about a busy machine do not help an operator.
logging.getLogger("kafka").setLevel(logging.ERROR)

Settings = Mapping[str, Any]


def addresses(endpoint: str, name: str = "bootstrap_servers") -> list[tuple[str, int]]:
    """Host and port of each server in a comma-separated list.

    >>> addresses("kafka-1:9093, [::1]:9092")
    [('kafka-1', 9093), ('::1', 9092)]

    Raises:
        ConfigError: a part is not `host:port`.
    """
    pairs = []
    for part in (part.strip() for part in endpoint.split(",")):
        host, colon, port = part.rpartition(":")
        if not colon:
            host, port = part, str(DEFAULT_PORT)
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError(f"{name}: each must be host:port; got {part!r}")
        pairs.append((host.strip("[]"), int(port)))
    return pairs


def resolve(bootstrap_servers: str) -> None:
    """Check that at least one host of the list has an address.

    Raises:
        ConfigError: no host has an address.
    """
    problems = []
    for host, port in addresses(bootstrap_servers):
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            problems.append(f"{host}: {error.strerror or error}")
        else:
            return
    raise ConfigError(f"bootstrap_servers: no address for {'; '.join(problems)}")


def connect(bootstrap_servers: str, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """Check that the port of at least one broker accepts connections.

    Raises:
        ConfigError: none does.
    """
    connect_to(bootstrap_servers, "bootstrap_servers", "a Kafka broker", timeout_s=timeout_s)


def connect_to(
    endpoint: str, name: str, what: str, *, timeout_s: float = CONNECT_TIMEOUT_S
) -> None:
    """Open and close a TCP connection to the first server that answers.

    Args:
        endpoint: `host:port`, several separated by commas.
        name: the setting that holds the endpoint.
        what: the expected server, for the error message.
        timeout_s: time to wait for each server, seconds.

    Raises:
        ConfigError: none does.
    """
    problems = []
    for host, port in addresses(endpoint, name):
        try:
            socket.create_connection((host, port), timeout=timeout_s).close()
        except OSError as error:
            problems.append(f"{host}:{port}: {error.strerror or error}")
        else:
            return
    raise ConfigError(
        f"{name}: {what} must answer; {'; '.join(problems)}. "
        "`streamgauge up` starts one on this machine"
    )


@contextmanager
def admin(bootstrap_servers: str, settings: Settings) -> Iterator[KafkaAdminClient]:
    """An administration client; a Kafka error in the context becomes a `ConfigError`."""
    resolve(bootstrap_servers)
    connect(bootstrap_servers)
    client = None
    try:
        client = new_python_admin(
            KafkaAccess(bootstrap_servers, settings),
            client_id="streamgauge-admin",
            request_timeout_ms=ADMIN_TIMEOUT_MS,
            bootstrap_timeout_ms=ADMIN_TIMEOUT_MS,
        )
        yield client
    except kafka_errors.KafkaError as error:
        raise ConfigError(
            f"bootstrap_servers: {bootstrap_servers} answers, but not as a Kafka broker should: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        if client is not None:
            client.close()


def partition_counts(client: KafkaAdminClient) -> dict[str, int]:
    """The number of partitions of every topic."""
    topics = client.describe_topics()
    return {topic["name"]: len(topic["partitions"]) for topic in topics}


def require_topic(
    bootstrap_servers: str, topic: str, create_partitions: int | None, *, settings: Settings
) -> int:
    """The number of partitions of `topic`; a missing topic is created on request.

    Args:
        bootstrap_servers: `host:port`, several separated by commas.
        topic: its name.
        create_partitions: create a missing topic with this number of partitions; None requires
            the topic to exist.
        settings: librdkafka properties for access.

    Raises:
        ConfigError: the topic is missing, or has another number of partitions than requested.
    """
    with admin(bootstrap_servers, settings) as client:
        count = partition_counts(client).get(topic)
        if count is None and create_partitions is None:
            raise ConfigError(
                f"topic {topic!r} must exist on {bootstrap_servers}; it does not. `streamgauge "
                "run` creates the topics it writes, `streamgauge produce --partitions N` the input"
            )
        if count is None:
            assert create_partitions is not None
            options = {"num_partitions": create_partitions}
            client.create_topics({topic: options}, wait_for_metadata=True)
            return create_partitions
    if create_partitions not in (None, count):
        raise ConfigError(
            f"topic {topic!r} must have {create_partitions} partitions; it has {count}"
        )
    return count
