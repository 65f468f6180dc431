"""Starts, inspects and stops the parts of one cluster folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamgauge.infra.errors import PartError
from streamgauge.infra.narrate import Narrate
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
from streamgauge.infra.processes.slowness import slowness

_STRAY_GRACE_S = 2.0
#: Services whose port `streamgauge up` takes as an option, `--NAME-port`.
CHOSEN = ("broker", "rest", "job", "workers")


@dataclass(frozen=True, slots=True)
class PartStatus:
    """The state of one part."""

    name: str
    #: `healthy`, `unhealthy` (runs but does not answer) or `stopped`.
    state: str
    #: Of the process that does the work; `None` when it does not run.
    pid: int | None
    log: Path


def start(
    todo: Sequence[Part],
    directory: Path,
    ports: Ports,
    *,
    narrate: Narrate,
    timeout_s: float | None = None,
) -> None:
    """Start parts and wait until all are healthy; if one is not, stop them all again.

    Args:
        todo: the parts, in the order in which they start.
        directory: the cluster's folder.
        ports: the cluster's ports.
        narrate: receives a line per healthy part.
        timeout_s: longest wait for one part; `None` is the limit of the part, extended by
            how slow this machine is.

    Raises:
        PartError: a port is taken, or a part died or did not become healthy in time.
    """
    check_ports(todo, ports)
    try:
        for part in todo:
            part.prepare()
            _spawn(part, directory)
        started_s = time.monotonic()
        for part in todo:
            await_healthy(part, directory, timeout_s)
            narrate(f"{part.name} is healthy after {time.monotonic() - started_s:.0f} s")
    except BaseException:
        stop_parts(directory, [part.name for part in todo])
        raise


def check_ports(todo: Iterable[Part], ports: Ports) -> None:
    """Refuse to start when a port is taken, before anything is started."""
    for part in todo:
        for name in part.ports:
            port = getattr(ports, name)
            if not is_free(port):
                choice = f", or choose another with --{name}-port" if name in CHOSEN else ""
                raise PartError(
                    f"port {port} is taken and {part.name} needs it: stop the program that holds"
                    f" it{choice}"
                )


def await_healthy(part: Part, directory: Path, timeout_s: float | None = None) -> None:
    """Wait until a started part is healthy.

    Raises:
        PartError: it died or did not become healthy in time.
    """
    wait_healthy(
        part.name,
        lambda: is_running(directory, part.name),
        lambda: is_healthy(part, directory),
        part.deadline_s * slowness() if timeout_s is None else timeout_s,
        log_path(directory, part.name),
    )


def is_healthy(part: Part, directory: Path) -> bool:
    """Return whether the part's working process runs and passes its health check."""
    record = working(directory, part.name)
    return record is not None and part.is_healthy(record)


def part_status(part: Part, directory: Path) -> PartStatus:
    """Return the state of one part."""
    record = working(directory, part.name)
    log = log_path(directory, part.name)
    if record is None:
        # A supervisor that will start its child again is not "stopped".
        state = "unhealthy" if is_running(directory, part.name) else "stopped"
        return PartStatus(part.name, state, None, log)
    state = "healthy" if part.is_healthy(record) else "unhealthy"
    return PartStatus(part.name, state, record.pid, log)


def is_running(directory: Path, name: str) -> bool:
    """Return whether the part's supervisor runs or, if it has none, the part itself."""
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
    """Stop processes of the cluster that no record names; return how many there were.

    These are SDK workers whose pool was killed; their environment carries the cluster's mark.
    """
    mark = f"{MARK}={directory}"
    # Workers usually end by themselves soon after their pool.
    wait_until(lambda: not marked(mark), _STRAY_GRACE_S)
    strays = []
    for pid in marked(mark):
        try:
            strays.append(ProcessRecord.of(pid))
        except PartError:  # it has ended
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
        supervise = [
            sys.executable,
            "-P",
            "-m",
            "streamgauge.infra.processes.supervise",
            *tied,
            str(path),
            "--",
        ]
        command, path = [*supervise, *command], supervisor
    spawn(command, part.environment, log_path(directory, part.name)).save(path)
