"""The settings of a cluster, and the addresses of a started one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from streamgauge.infra.errors import PartError
from streamgauge.infra.local.flink import rest_url
from streamgauge.infra.local.jars import Jars
from streamgauge.infra.processes.lifecycle import working
from streamgauge.infra.processes.ports import Ports
from streamgauge.infra.processes.process import replace_text


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """What to start."""

    directory: Path
    task_managers: int = 1
    #: Per TaskManager; a job's parallelism is at most the product of both.
    slots: int = 2
    ports: Ports = field(default_factory=Ports)
    #: `None` is the user's cache folder.
    jar_cache: Path | None = None
    #: More folders in which Python workers find modules (this checkout is one by itself).
    worker_paths: tuple[Path, ...] = ()
    #: Longest wait for one part, seconds; `None` is the limit of each part, extended on a slow
    #: machine.
    start_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """The settings and addresses of a started cluster; constant while it runs."""

    directory: Path
    task_managers: int
    slots: int
    ports: Ports
    jars: Jars
    worker_paths: tuple[Path, ...]

    @property
    def bootstrap_servers(self) -> str:
        """The broker, for Kafka clients."""
        return f"127.0.0.1:{self.ports.broker}"

    @property
    def proxied_servers(self) -> str:
        """The broker, for Kafka clients that come through the proxy."""
        return f"127.0.0.1:{self.ports.proxy}"

    @property
    def flink_rest_url(self) -> str:
        """Flink's REST API and dashboard."""
        return rest_url(self.ports)

    @property
    def job_endpoint(self) -> str:
        """Beam's `--job_endpoint`."""
        return f"localhost:{self.ports.job}"

    @property
    def worker_endpoint(self) -> str:
        """Beam's `--environment_config` for `--environment_type=EXTERNAL`."""
        return f"localhost:{self.ports.workers}"

    @property
    def checkpoint_uri(self) -> str:
        """Folder of the checkpoints, which Flink uses by default."""
        return (self.directory / "checkpoints").as_uri()

    @property
    def savepoint_uri(self) -> str:
        """Folder for savepoints."""
        return (self.directory / "savepoints").as_uri()

    @property
    def part_names(self) -> tuple[str, ...]:
        """All parts, in the order in which they start."""
        managers = (f"taskmanager-{index}" for index in range(self.task_managers))
        zookeeper = ("zookeeper",) if self.ports.zookeeper else ()
        return ("broker", *zookeeper, "jobmanager", *managers, "job-server", "workers")

    @property
    def pids(self) -> dict[str, int]:
        """The live process of each part that does its work (not a supervisor), as of now."""
        records = ((name, working(self.directory, name)) for name in self.part_names)
        return {name: record.pid for name, record in records if record is not None}

    @classmethod
    def load(cls, directory: Path) -> ClusterInfo:
        """Read `cluster.json`.

        Raises:
            PartError: no cluster was ever started in this folder.
        """
        directory = directory.resolve()
        try:
            settings = json.loads((directory / "cluster.json").read_text())
        except FileNotFoundError:
            raise PartError(f"no cluster in {directory}; start one with `streamgauge up`") from None
        paths = {name: Path(path) for name, path in settings["jars"].items()}
        return cls(
            directory=directory,
            task_managers=settings["task_managers"],
            slots=settings["slots"],
            ports=Ports(**settings["ports"]),
            jars=Jars(**{**paths, "java": settings["jars"]["java"]}),
            worker_paths=tuple(map(Path, settings["worker_paths"])),
        )

    def save(self) -> None:
        """Write `cluster.json`: the settings, and the addresses for people and scripts."""
        addresses = ("bootstrap_servers", "flink_rest_url", "job_endpoint", "worker_endpoint")
        uris = ("checkpoint_uri", "savepoint_uri")
        derived = {name: getattr(self, name) for name in (*addresses, *uris)}
        text = json.dumps({**asdict(self), **derived}, default=str, indent=2)
        replace_text(self.directory / "cluster.json", text + "\n")
