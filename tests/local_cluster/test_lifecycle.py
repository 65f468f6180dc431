"""Starting and stopping parts: ports, half a start, records. With small processes for parts."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.deadlines import deadline
from streamgauge.infra.errors import PartError
from streamgauge.infra.narrate import silent
from streamgauge.infra.processes import lifecycle, parts
from streamgauge.infra.processes.ports import Ports
from streamgauge.infra.processes.process import marked, wait_until

FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]
ENDS = [sys.executable, "-c", "print('no such disk'); raise SystemExit(1)"]


def part(
    directory: Path,
    name: str,
    command: list[str] = FOREVER,
    ports: tuple[str, ...] = (),
    is_healthy: Callable[[object], bool] = lambda record: True,
) -> parts.Part:
    return parts.Part(
        name, command, parts.environment(directory), ports, is_healthy, deadline(10.0)
    )


def test_started_parts_are_healthy_and_stop_by_their_records(tmp_path: Path) -> None:
    todo = [part(tmp_path, "broker"), part(tmp_path, "workers")]

    lifecycle.start(todo, tmp_path, Ports.free(), narrate=silent)
    states = [lifecycle.part_status(each, tmp_path).state for each in todo]
    lifecycle.stop_parts(tmp_path, ["broker", "workers"])

    assert states == ["healthy", "healthy"]
    assert [lifecycle.part_status(each, tmp_path).state for each in todo] == ["stopped"] * 2
    assert not marked(f"{parts.MARK}={tmp_path}")


def test_a_failed_start_stops_the_parts_it_started(tmp_path: Path) -> None:
    todo = [part(tmp_path, "broker"), part(tmp_path, "workers", ENDS, is_healthy=lambda _: False)]

    with pytest.raises(PartError, match=r"workers died while starting(.|\n)*no such disk"):
        lifecycle.start(todo, tmp_path, Ports.free(), narrate=silent)

    assert not marked(f"{parts.MARK}={tmp_path}")


def test_a_part_that_is_too_slow_is_named_with_the_option_that_waits_longer(
    tmp_path: Path,
) -> None:
    todo = [part(tmp_path, "jobmanager", is_healthy=lambda _: False)]

    with pytest.raises(PartError, match=r"jobmanager is not healthy after 0\.2 s .*start-timeout"):
        lifecycle.start(todo, tmp_path, Ports.free(), narrate=silent, timeout_s=0.2)


def test_a_slow_machine_gets_more_time_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "slowness", lambda: 3.0)
    slow = replace(part(tmp_path, "broker", is_healthy=lambda _: False), deadline_s=0.1)

    with pytest.raises(PartError, match=r"broker is not healthy after 0\.3 s"):
        lifecycle.start([slow], tmp_path, Ports.free(), narrate=silent)


def test_a_taken_port_is_named_with_its_part_and_its_option(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(PartError) as caught:
            lifecycle.check_ports([part(tmp_path, "broker", ports=("broker",))], Ports(taken))

    assert str(caught.value) == (
        f"port {taken} is taken and broker needs it: stop the program that holds it, or choose"
        " another with --broker-port"
    )


def test_strays_with_the_mark_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_STRAY_GRACE_S", 0.0)
    lifecycle.start([part(tmp_path, "workers")], tmp_path, Ports.free(), narrate=silent)
    parts.record_path(tmp_path, "workers").unlink()
    mark = f"{parts.MARK}={tmp_path}"
    assert wait_until(
        lambda: marked(mark) != [], deadline(5.0)
    )  # readable a moment after the start

    assert lifecycle.stop_strays(tmp_path) == 1
    assert not marked(mark)


def test_free_ports_are_all_different() -> None:
    ports = Ports.free("proxied", "proxy", "zookeeper")

    assert len({getattr(ports, name) for name in Ports.__slots__}) == len(Ports.__slots__)


def test_services_that_are_off_by_default_get_a_port_only_when_named() -> None:
    ports = Ports.free("zookeeper")

    assert (ports.proxied, ports.proxy) == (0, 0)
    assert ports.zookeeper and ports.broker
