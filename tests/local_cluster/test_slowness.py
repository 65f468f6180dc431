"""The factor by which deadlines grow on a slow or busy machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from fixtures.children import default_sigint
from fixtures.deadlines import deadline
from streamgauge.infra.processes import slowness
from streamgauge.infra.processes.slowness import factor


def test_a_quiet_machine_of_the_nominal_speed_has_the_nominal_deadlines() -> None:
    assert factor(slow=0.7, load=0.3, cores=2) == 1.0


def test_a_slow_processor_extends_deadlines() -> None:
    assert factor(slow=2.5, load=0.3, cores=8) == 2.5


def test_two_busy_loops_on_two_cores_extend_deadlines() -> None:
    assert factor(slow=1.0, load=3.0, cores=2) == 2.0


def test_one_core_doubles_deadlines() -> None:
    assert factor(slow=1.0, load=0.0, cores=1) == 2.0


def test_the_factor_has_a_bound() -> None:
    assert factor(slow=400.0, load=0.0, cores=2) == 10.0


def test_a_deadline_grows_with_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowness, "_work_ratio", lambda: 1.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (5.0, 0.0, 0.0))

    assert deadline(10.0) == 30.0


def test_a_child_of_a_run_that_ignores_sigint_can_be_interrupted() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=default_sigint,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        try:
            assert child.wait(deadline(10)) == -signal.SIGINT
        finally:
            child.kill()
