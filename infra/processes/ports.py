"""The ports of the local cluster: fixed and well known for people, free ones for tests."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Ports:
    """One loopback port per service; the defaults are the usual ones of each service."""

    #: Kafka clients.
    broker: int = 9092
    #: Kafka's own metadata quorum.
    controller: int = 9093
    #: Flink's REST API and dashboard.
    rest: int = 8081
    #: Flink's JobManager, for its TaskManagers.
    rpc: int = 6123
    #: Beam's job service.
    job: int = 8099
    #: Beam's artifact staging.
    artifact: int = 8098
    #: The pool of Python workers.
    workers: int = 50000
    #: Kafka clients that come through a proxy; 0: there is no such listener.
    proxied: int = 0
    #: The proxy itself, where those clients are told to find the broker; nothing of ours.
    proxy: int = 0
    #: ZooKeeper, in which the JobManager keeps what a successor needs; 0: there is none, and
    #: jobs end with their JobManager.
    zookeeper: int = 0

    @classmethod
    def free(cls, *optional: str) -> Ports:
        """Choose ports that are free now; all are held while choosing, so none comes twice.

        Args:
            optional: which of the services that are off by default get a port too.
        """
        with ExitStack() as held:
            chosen = {}
            for service in fields(cls):
                if service.default or service.name in optional:
                    probe = held.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", 0))
                    chosen[service.name] = probe.getsockname()[1]
        return cls(**chosen)
