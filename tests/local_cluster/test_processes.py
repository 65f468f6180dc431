"""Records of processes, waiting for health, and what an error says about a dead part."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.deadlines import deadline
from streamgauge.infra.errors import PartError
from streamgauge.infra.processes.process import (
    ProcessRecord,
    is_free,
    is_listening,
    log_tail,
    marked,
    spawn,
    stop,
    wait_healthy,
    wait_until,
)

MARK = "STREAMGAUGE_TEST_PROCESSES"
FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)\n"
    "while True: signal.pause()",
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, MARK: str(tmp_path)}


@pytest.fixture
def sleeper(tmp_path: Path, environment: dict[str, str]) -> Iterator[ProcessRecord]:
    record = spawn(FOREVER, environment, tmp_path / "log")
    yield record
    stop([record], grace_s=1.0)


def test_a_record_survives_being_saved(sleeper: ProcessRecord, tmp_path: Path) -> None:
    sleeper.save(tmp_path / "run" / "a.json")

    assert ProcessRecord.load(tmp_path / "run" / "a.json") == sleeper
    assert ProcessRecord.load(tmp_path / "run" / "b.json") is None


def test_a_reused_pid_is_not_taken_for_ours_and_not_signalled(sleeper: ProcessRecord) -> None:
    before = replace(sleeper, start_ticks=sleeper.start_ticks - 1)

    assert not before.is_alive()
    assert not before.send(signal.SIGKILL)
    assert sleeper.is_alive()


def test_stop_kills_what_does_not_end(tmp_path: Path, environment: dict[str, str]) -> None:
    log = tmp_path / "log"
    record = spawn(STUBBORN, environment, log)
    assert wait_until(lambda: log.read_text() == "ready\n", deadline(10.0))

    stop([record], grace_s=0.2)

    assert not record.is_alive()


def test_marked_finds_exactly_the_processes_with_the_mark(
    sleeper: ProcessRecord, tmp_path: Path
) -> None:
    # The kernel shows a new process's environment a moment after its start.
    assert wait_until(lambda: marked(f"{MARK}={tmp_path}") == [sleeper.pid], deadline(5.0))
    assert marked(f"{MARK}={tmp_path}x") == []


def test_a_part_that_dies_while_starting_is_an_error_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.write_text("first\nport is bad\n")

    with pytest.raises(PartError) as caught:
        wait_healthy("broker", lambda: False, lambda: False, 5.0, log)

    assert str(caught.value) == (
        f"broker died while starting; its log {log} ends with:\n    first\n    port is bad"
    )


def test_a_part_that_is_never_healthy_is_an_error_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(PartError, match=re.escape("broker is not healthy after 0.1 s")):
        wait_healthy("broker", lambda: True, lambda: False, 0.1, tmp_path / "none.log")


def test_log_tail_shows_the_cause_before_the_shutdown_chatter(tmp_path: Path) -> None:
    log = tmp_path / "log"
    chatter = [f"INFO closing {i}" for i in range(50)]
    log.write_text("\n".join(["INFO start", "Caused by: no memory", *chatter]))

    lines = [line.strip() for line in log_tail(log).splitlines()]

    assert lines == ["Caused by: no memory", *chatter[-10:]]


def test_a_bound_port_is_neither_free_nor_without_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert is_listening(port)
        assert not is_free(port)
    assert is_free(port)
    assert not is_listening(port)
