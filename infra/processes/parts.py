"""Describes a part of the cluster: its command, its ports and its health check."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import streamgauge
from streamgauge.infra.processes.process import ProcessRecord, replace_text

#: In the environment of every process of a cluster, with the cluster's folder as value.
MARK = "STREAMGAUGE_CLUSTER"


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the cluster (with a supervisor in front of it: two)."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    #: Names of the ports in `Ports` that it listens on.
    ports: tuple[str, ...]
    #: The health check, called with the record of the process that does the work.
    is_healthy: Callable[[ProcessRecord], bool]
    deadline_s: float
    #: `restart`: started again whenever it ends. `tied`: ends when the caller ends.
    supervision: Literal["none", "restart", "tied"] = "none"
    #: Run before each start.
    prepare: Callable[[], None] = field(default=lambda: None)


def environment(directory: Path, python_paths: Iterable[Path] = (), **more: str) -> dict[str, str]:
    """Build the environment of a part: the caller's, the mark, and the import path.

    The root of this package is among the paths, so that a checkout needs no installation.
    """
    paths = [str(Path(streamgauge.__file__).parent.parent), *map(str, python_paths)]
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*paths, inherited] if inherited else paths)
    return {**os.environ, "PYTHONPATH": path, MARK: str(directory), **more}


def record_path(directory: Path, name: str) -> Path:
    """Return the path of the record of the process that does a part's work."""
    return directory / "run" / f"{name}.json"


def supervisor_path(directory: Path, name: str) -> Path:
    """Return the path of the record of a part's supervisor, if it has one."""
    return directory / "run" / f"{name}.supervisor.json"


def log_path(directory: Path, name: str) -> Path:
    """Return the log of a part; its supervisor and its children write there too."""
    return directory / "logs" / f"{name}.log"


def log_settings_path(directory: Path) -> Path:
    """Return the log4j settings that broker and Flink share."""
    return directory / "conf" / "log4j2.properties"


def write_log_settings(directory: Path) -> None:
    """Write the log4j settings: everything to stdout, at INFO."""
    text = (
        "rootLogger.level = INFO\n"
        "rootLogger.appenderRef.out.ref = out\n"
        "appender.out.name = out\n"
        "appender.out.type = CONSOLE\n"
        "appender.out.layout.type = PatternLayout\n"
        "appender.out.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %c{1} - %m%n\n"
    )
    replace_text(log_settings_path(directory), text)
