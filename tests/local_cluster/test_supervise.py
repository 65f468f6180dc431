"""The supervisor: starts its child again, gives up on one that keeps ending, leaves none."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.deadlines import deadline
from streamgauge.infra.processes import parts, supervise
from streamgauge.infra.processes.process import ProcessRecord, spawn, stop, wait_until

FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[ProcessRecord]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "streamgauge.infra.processes.supervise",
        str(tmp_path / "child.json"),
        "--",
    ]
    record = spawn([*command, *FOREVER], parts.environment(tmp_path), tmp_path / "log")
    yield record
    stop([record], grace_s=2.0)


def child(tmp_path: Path, other_than: int | None = None) -> ProcessRecord:
    def is_another() -> bool:
        record = ProcessRecord.load(tmp_path / "child.json")
        return record is not None and record.pid != other_than and record.is_alive()

    assert wait_until(is_another, deadline(10.0))
    record = ProcessRecord.load(tmp_path / "child.json")
    assert record is not None
    return record


def test_a_killed_child_is_started_again(supervisor: ProcessRecord, tmp_path: Path) -> None:
    first = child(tmp_path)

    first.send(signal.SIGKILL)

    assert child(tmp_path, other_than=first.pid).is_alive()


def test_a_child_that_is_killed_again_and_again_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_PAUSE_S", 0.0)
    runs = tmp_path / "runs"
    kills = supervise.QUICK_ENDS_MAX + 1  # after so many kills it ends by itself
    once = (
        f"import os, signal; runs = open({str(runs)!r}, 'a'); runs.write('x'); runs.flush();"
        f"os.path.getsize({str(runs)!r}) > {kills} or os.kill(os.getpid(), signal.SIGKILL);"
        "raise SystemExit(7)"
    )

    supervise.supervise([sys.executable, "-W", "ignore", "-c", once], tmp_path / "c.json")

    assert len(runs.read_text()) == kills + supervise.QUICK_ENDS_MAX


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_its_supervisor(
    supervisor: ProcessRecord, tmp_path: Path, how: signal.Signals
) -> None:
    running = child(tmp_path)

    supervisor.send(how)

    assert wait_until(lambda: not running.is_alive(), deadline(5.0))


def test_a_child_that_keeps_ending_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervise, "_PAUSE_S", 0.0)
    runs = tmp_path / "runs"
    once = f"open({str(runs)!r}, 'a').write('x'); raise SystemExit(7)"

    code = supervise.supervise([sys.executable, "-W", "ignore", "-c", once], tmp_path / "c.json")

    assert code == 7
    assert runs.read_text() == "x" * supervise.QUICK_ENDS_MAX
    assert "giving up" in capfd.readouterr().err


def test_a_tied_child_runs_once_and_passes_its_exit_code_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit(5)"]

    assert supervise.run_once(command, tmp_path / "child.json", os.getppid()) == 5


def test_a_tied_child_ends_when_the_parent_is_another(tmp_path: Path) -> None:
    not_our_parent = os.getpid()

    with pytest.raises(SystemExit):
        supervise.run_once(FOREVER, tmp_path / "child.json", not_our_parent)

    record = ProcessRecord.load(tmp_path / "child.json")
    assert record is not None
    assert not record.is_alive()
