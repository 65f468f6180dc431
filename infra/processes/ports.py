"""The ports of the local cluster: well-known ones for users, free ones for tests."""

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
    #: The proxy, whose address the broker advertises to those clients; no part listens here.
    proxy: int = 0
    #: ZooKeeper, which holds what the successor of a JobManager needs; 0: there is none, and
    #: jobs end with their JobManager.
    zookeeper: int = 0

    @classmethod
    def free(cls, *optional: str) -> Ports:
        """Choose different ports that are free now.

        Args:
            optional: names of services, off by default, that get a port too.
        """
        with ExitStack() as probes:  # all are open until the last is chosen
            chosen = {}
            for service in fields(cls):
                if service.default or service.name in optional:
                    probe = probes.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", 0))
                    chosen[service.name] = probe.getsockname()[1]
        return cls(**chosen)
