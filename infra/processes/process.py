"""Processes that outlive the command that started them: records, health, deadlines.

A process is identified by its pid *and* its start time, because pids are reused:
a recorded pid whose start time differs belongs to another process and is never
signalled. Needs Linux (`/proc`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from streamgauge.infra.errors import PartError

_POLL_S = 0.05
_LOG_LINES = 10
_CAUSE_LINES = 5
_CAUSE = re.compile(r"\b(ERROR|FATAL)\b|^Caused by|^Exception in|Error:")


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """The identity of a process, to recognise it later."""

    pid: int
    #: clock ticks from boot to the start of the process, field 22 of `/proc/<pid>/stat`.
    start_ticks: int
    #: Unix time at which it was started, seconds.
    started_s: float

    @classmethod
    def of(cls, pid: int) -> ProcessRecord:
        """Record the process that has this pid now.

        Raises:
            PartError: no such process.
        """
        stat = _stat(pid)
        if stat is None:
            raise PartError(f"process {pid} ended before it could be recorded")
        return cls(pid, stat[1], time.time())

    @classmethod
    def load(cls, path: Path) -> ProcessRecord | None:
        """Read a record; `None` when there is none."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None

    def save(self, path: Path) -> None:
        """Write the record in one step, so that no reader sees part of it."""
        replace_text(path, json.dumps(asdict(self)))

    def is_alive(self) -> bool:
        """Return whether the recorded process still runs (a zombie does not)."""
        _reap(self.pid)
        return _stat(self.pid) == ("live", self.start_ticks)

    def send(self, signal_number: int) -> bool:
        """Signal the process if it is still the recorded one; return whether it was."""
        if not self.is_alive():
            return False
        try:
            os.kill(self.pid, signal_number)
        except ProcessLookupError:
            return False
        return True


def spawn(command: Sequence[str], environment: Mapping[str, str], log: Path) -> ProcessRecord:
    """Start a process in a new session, with its output appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # Not `subprocess`: its objects warn when they are dropped while the process still runs,
    # and these processes must outlive the caller.
    pid = os.posix_spawnp(
        command[0],
        list(command),
        dict(environment),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGTERM),
    )
    return ProcessRecord.of(pid)


def stop(records: Iterable[ProcessRecord], grace_s: float = 15.0) -> None:
    """Ask the processes to end, all at once, and kill those that have not after `grace_s`."""
    asked = [record for record in records if record.send(signal.SIGTERM)]
    wait_until(lambda: not any(record.is_alive() for record in asked), grace_s)
    for record in asked:
        record.send(signal.SIGKILL)
    wait_until(lambda: not any(record.is_alive() for record in asked), 5.0)


def wait_until(condition: Callable[[], bool], deadline_s: float, poll_s: float = _POLL_S) -> bool:
    """Poll until `condition` holds; `False` when it does not within the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(poll_s)
    return True


def wait_healthy(
    name: str,
    is_running: Callable[[], bool],
    is_healthy: Callable[[], bool],
    deadline_s: float,
    log: Path,
) -> None:
    """Wait until a starting part is healthy.

    Raises:
        PartError: it died, or is not healthy in time; the text ends with its last log lines.
    """

    def is_decided() -> bool:
        return not is_running() or is_healthy()

    in_time = wait_until(is_decided, deadline_s)
    if in_time and is_running():
        return
    problem = (
        "died while starting"
        if in_time
        else f"is not healthy after {deadline_s:g} s (`up --start-timeout` sets the limit)"
    )
    raise PartError(f"{name} {problem}; its log {log} ends with:\n{log_tail(log)}")


def log_tail(log: Path) -> str:
    """Return what a log ends with, indented, for an error text.

    Causes come first, because a JVM writes many lines while it shuts down.
    """
    try:
        lines = log.read_bytes()[-200_000:].decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        lines = ["(no log)"]
    earlier, last = lines[:-_LOG_LINES], lines[-_LOG_LINES:]
    causes = [line for line in earlier if _CAUSE.search(line)][-_CAUSE_LINES:]
    return "\n".join(f"    {line}" for line in (*causes, *last)) or "    (empty log)"


def marked(mark: str) -> list[int]:
    """List the live processes whose environment carries `mark` ("NAME=value").

    Unlike a walk down the process tree, this also finds children that lost their parent.
    """
    wanted = mark.encode()
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                continue
        except OSError:  # it has ended, or belongs to another user
            continue
        pids.append(int(entry.name))  # a zombie has no environment and is not listed
    return pids


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether something accepts connections at the port."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def is_free(port: int) -> bool:
    """Return whether a server could bind the port on loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def replace_text(path: Path, text: str) -> None:
    """Write a file in one step: readers see the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(text)
    staged.replace(path)


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the command before it may contain spaces
    return ("ended" if fields[0] in "ZX" else "live"), int(fields[19])


def _reap(pid: int) -> None:
    """Collect the exit code of an ended child, so that it does not stay a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
