"""Supervises one process: starts it again when it ends.

    python -m streamgauge.infra.processes.supervise [--tied] RECORD -- COMMAND…

It does what a container platform does for a pod: a process that ends is started again, unless it
ends right after every start. With `--tied` the process runs once, and ends with the program that
started the supervisor. The child never outlives its supervisor, not even after `kill -9`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from streamgauge.infra.processes.process import ProcessRecord

#: A child that ends sooner than this did not start properly.
QUICK_S = 10.0
#: After this many quick ends in a row the supervisor gives up, so that `up` reports the cause.
QUICK_ENDS_MAX = 5
_PAUSE_S = 1.0
_GRACE_S = 10.0
_POLL_S = 0.2
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def supervise(command: Sequence[str], record: Path) -> int:
    """Run `command` again and again; return its exit code once it ended quickly too often.

    Args:
        command: program and arguments.
        record: file that always names the newest child.
    """
    quick_ends = 0
    while True:
        started = time.monotonic()
        code = run_once(command, record)
        # A killed child did not end by itself, even right after its start.
        is_voluntary = code != -signal.SIGKILL
        is_quick = is_voluntary and time.monotonic() - started < QUICK_S
        quick_ends = quick_ends + 1 if is_quick else 0
        _log(f"{command[0]} ended with {code}")
        if quick_ends >= QUICK_ENDS_MAX:
            _log(f"giving up: it ended within {QUICK_S:g} s {quick_ends} times in a row")
            return code
        time.sleep(_PAUSE_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and supervise until SIGTERM."""
    parent = os.getppid()
    parser = argparse.ArgumentParser(prog="streamgauge.infra.processes.supervise")
    parser.add_argument("record", type=Path)
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if options.tied:
        return run_once(options.command, options.record, parent)
    return supervise(options.command, options.record)


def run_once(command: Sequence[str], record: Path, parent: int | None = None) -> int:
    """Run `command` to its end, or until `parent` is no longer our parent."""
    child = subprocess.Popen(command, preexec_fn=_die_with_parent)
    try:
        ProcessRecord.of(child.pid).save(record)
        while child.poll() is None:
            if parent is not None and os.getppid() != parent:
                sys.exit(0)
            time.sleep(_POLL_S)
        return child.returncode
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _die_with_parent() -> None:
    """Let the kernel end this child with its supervisor; runs in the child before the command."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _log(text: str) -> None:
    print(f"supervise: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
