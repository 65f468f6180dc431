"""The local cluster's life: up, twice up, a killed TaskManager, a missing part, down."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamgauge.infra.errors import PartError
from streamgauge.infra.flink_rest import FlinkRest
from streamgauge.infra.local import cluster
from streamgauge.infra.local.info import ClusterInfo, ClusterSpec
from streamgauge.infra.processes.parts import MARK
from streamgauge.infra.processes.ports import Ports
from streamgauge.infra.processes.process import marked, wait_until

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSpec]:
    spec = ClusterSpec(tmp_path_factory.mktemp("own"), slots=1, ports=Ports.free())
    yield spec
    if (spec.directory / "cluster.json").exists():
        cluster.down(spec.directory)


@pytest.fixture
def info(spec: ClusterSpec) -> ClusterInfo:
    """The cluster, up: started by the first test, mended after one that broke it."""
    return cluster.up(spec)


def test_all_parts_are_healthy_and_flink_has_its_slots(info: ClusterInfo) -> None:
    states = {part.name: part.state for part in cluster.status(info.directory)}

    assert states == dict.fromkeys(info.part_names, "healthy")
    assert FlinkRest(info.flink_rest_url).overview()["slots-total"] == 1


def test_second_up_starts_nothing(info: ClusterInfo, spec: ClusterSpec) -> None:
    before, result = info.pids, []

    cluster.up(spec, result.append)

    assert info.pids == before
    assert result == [f"already up in {info.directory}"]


def test_up_with_other_settings_is_refused_while_it_runs(info: ClusterInfo) -> None:
    other = ClusterSpec(info.directory, slots=3, ports=info.ports)

    with pytest.raises(PartError, match="runs with slots = 1; asked for 3"):
        cluster.up(other)


def test_killed_task_manager_comes_back_by_itself(info: ClusterInfo) -> None:
    killed = cluster.kill_part(info, "taskmanager-0", signal.SIGKILL)

    assert cluster.await_part(info, "taskmanager-0") != killed


def test_up_starts_only_the_missing_part(info: ClusterInfo, spec: ClusterSpec) -> None:
    before = info.pids
    cluster.stop_part(info, "job-server")

    cluster.up(spec)

    after = info.pids
    assert {name for name in after if after[name] != before[name]} == {"job-server"}


def test_everything_listens_on_loopback_only(info: ClusterInfo) -> None:
    ours = set(marked(f"{MARK}={info.directory}"))

    addresses = {address for pid in ours for address in listening_addresses(pid)}

    assert addresses == {"127.0.0.1"}


def test_down_leaves_no_process(info: ClusterInfo) -> None:
    mark = f"{MARK}={info.directory}"
    assert marked(mark)

    cluster.down(info.directory)

    assert wait_until(lambda: not marked(mark), 5.0)
    assert {part.state for part in cluster.status(info.directory)} == {"stopped"}


def listening_addresses(pid: int) -> set[str]:
    """Read the addresses a process listens on, from `/proc`."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:
            continue
        if match := re.fullmatch(r"socket:\[(\d+)\]", target):
            inodes.add(match.group(1))
    actual = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # 0A is LISTEN
                actual.add(readable(fields[1].partition(":")[0]))
    return actual


def readable(address: str) -> str:
    """Turn the kernel's hexadecimal address into text; loopback in IPv6 clothes is loopback."""
    words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
    raw = b"".join(words)
    if raw[:12] == bytes(10) + b"\xff\xff":
        raw = raw[12:]
    return ".".join(map(str, raw)) if len(raw) == 4 else raw.hex(":", 2)
