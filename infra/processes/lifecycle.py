"""Starts, looks at and stops the parts of one cluster folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamgauge.infra.errors import PartError
from streamgauge.infra.processes.parts import MARK, Part, log_path, record_path, supervisor_path
from streamgauge.infra.processes.ports import Ports
from streamgauge.infra.processes.process import (
    ProcessRecord,
    is_free,
    marked,
    spawn,
    stop,
    wait_healthy,
    wait_until,
)

Narrate = Callable[[str], None]
_STRAY_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class PartStatus:
    """How one part is."""

    name: str
    #: `healthy`, `unhealthy` (runs but does not answer) or `stopped`.
    state: str
    #: Of the process that does the work; `None` when it does not run.
    pid: int | None
    log: Path


def start(todo: Sequence[Part], directory: Path, ports: Ports, narrate: Narrate) -> None:
    """Start parts and wait until all are healthy; if one is not, stop them all again.

    Raises:
        PartError: a port is taken, or a part died or did not become healthy in time.
    """
    check_ports(todo, ports)
    try:
        for part in todo:
            part.prepare()
            _spawn(part, directory)
        for part in todo:
            await_healthy(part, directory)
            narrate(f"{part.name} is healthy")
    except BaseException:
        stop_parts(directory, [part.name for part in todo])
        raise


def check_ports(todo: Iterable[Part], ports: Ports) -> None:
    """Refuse to start when a port is taken, before anything is started."""
    for part in todo:
        for name in part.ports:
            port = getattr(ports, name)
            if not is_free(port):
                raise PartError(
                    f"port {port} is taken and {part.name} needs it: stop the program that holds"
                    f" it, or choose another with --port-{name}"
                )


def await_healthy(part: Part, directory: Path) -> None:
    """Wait until a started part is of use."""
    wait_healthy(
        part.name,
        lambda: is_running(directory, part.name),
        lambda: is_healthy(part, directory),
        part.deadline_s,
        log_path(directory, part.name),
    )


def is_healthy(part: Part, directory: Path) -> bool:
    """Tell whether the part's working process lives and is of use."""
    record = working(directory, part.name)
    return record is not None and part.is_healthy(record)


def part_status(part: Part, directory: Path) -> PartStatus:
    """Look at one part."""
    record = working(directory, part.name)
    log = log_path(directory, part.name)
    if record is None:
        # A supervisor that is about to start its child again is not "stopped".
        state = "unhealthy" if is_running(directory, part.name) else "stopped"
        return PartStatus(part.name, state, None, log)
    state = "healthy" if part.is_healthy(record) else "unhealthy"
    return PartStatus(part.name, state, record.pid, log)


def is_running(directory: Path, name: str) -> bool:
    """Tell whether the part's supervisor lives or, if it has none, the part itself."""
    record = ProcessRecord.load(supervisor_path(directory, name))
    if record is None:
        record = ProcessRecord.load(record_path(directory, name))
    return record is not None and record.is_alive()


def working(directory: Path, name: str) -> ProcessRecord | None:
    """Return the live process that does a part's work: under a supervisor, its child."""
    record = ProcessRecord.load(record_path(directory, name))
    return record if record is not None and record.is_alive() else None


def stop_parts(directory: Path, names: Iterable[str]) -> None:
    """Stop parts by their records; those that do not run are fine."""
    names = list(names)
    # Supervisors come first: a child that ends before its supervisor would be started again.
    paths = [supervisor_path(directory, name) for name in names]
    paths += [record_path(directory, name) for name in names]
    records = [ProcessRecord.load(path) for path in paths]
    stop(record for record in records if record is not None)
    for path in paths:
        path.unlink(missing_ok=True)


def stop_strays(directory: Path) -> int:
    """Stop what belongs to the cluster and is in no record; return how many there were.

    Those are SDK workers whose pool was killed: they carry the cluster's mark.
    """
    mark = f"{MARK}={directory}"
    # What the pool leaves behind ends by itself as a rule, a moment after it.
    wait_until(lambda: not marked(mark), _STRAY_GRACE_S)
    strays = []
    for pid in marked(mark):
        try:
            strays.append(ProcessRecord.of(pid))
        except PartError:  # ended since
            continue
    stop(strays, grace_s=2.0)
    return len(strays)


def _spawn(part: Part, directory: Path) -> None:
    """Start a part's process, or its supervisor, and record it."""
    path, supervisor = record_path(directory, part.name), supervisor_path(directory, part.name)
    for old in (path, supervisor):
        old.unlink(missing_ok=True)
    command = part.command
    if part.supervision != "none":
        tied = ["--tied"] if part.supervision == "tied" else []
        own = [
            sys.executable,
            "-P",
            "-m",
            "streamgauge.infra.processes.supervise",
            *tied,
            str(path),
            "--",
        ]
        command, path = [*own, *command], supervisor
    spawn(command, part.environment, log_path(directory, part.name)).save(path)
