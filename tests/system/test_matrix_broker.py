"""Rows of the fault matrix: the broker dies, and the network to it cuts, drags and resets."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamgauge.infra.local import cluster as local
from streamgauge.infra.local.info import ClusterInfo
from system.harness import live
from system.harness.proxy import Mode, Proxy
from system.harness.results import Table
from system.harness.trial import Trial

pytestmark = [pytest.mark.system, pytest.mark.fault, pytest.mark.timeout(600)]

OUTAGE_S = 5.0
BACK_S = 30.0
# librdkafka waits up to ten seconds between two tries to connect.
NETWORK_BACK_S = 30.0
GROWTH_MAX = 5


@pytest.fixture
def proxy(cluster: ClusterInfo) -> Iterator[Proxy]:
    """A proxy where the broker says that it is, to clients of its second listener."""
    with Proxy(cluster.ports.proxied, cluster.ports.proxy) as actual:
        yield actual


@pytest.mark.matrix
def test_broker_killed_and_away(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table
) -> None:
    trial = Trial(cluster, artifact, jobs, "broker kill -9, back after some seconds", BACK_S)
    trial.begin()
    for _ in range(2):
        trial.await_more(4_000)
        trial.look_away()
        local.kill_part(cluster, "broker", signal.SIGKILL)
        live.wait_until_passed(OUTAGE_S)
        local.start_part(cluster, "broker")
        trial.recover()
    assert trial.finish(table).restarts == 0, "an outage below a minute must not restart the job"


@pytest.mark.parametrize(
    ("mode", "seconds"),
    [
        pytest.param("black hole", 30.0, marks=pytest.mark.matrix),
        pytest.param("delay", 20.0, marks=pytest.mark.matrix),
        pytest.param("throttle", 30.0, marks=pytest.mark.matrix),
    ],
)
def test_a_bad_line_delays_and_changes_nothing(
    cluster: ClusterInfo,
    artifact: Path,
    jobs: live.Jobs,
    table: Table,
    proxy: Proxy,
    mode: Mode,
    seconds: float,
) -> None:
    trial = through_proxy(cluster, artifact, jobs, f"network: {mode} for {seconds:g} s")
    before = dict(open_files(cluster))

    assert proxy.carried, "the job must come through the proxy"
    proxy.mode = mode
    live.wait_until_passed(1.0)  # for what is on its way
    carried = proxy.carried
    live.wait_until_passed(seconds - 1.0)
    assert (proxy.carried == carried) == (mode == "black hole")
    proxy.mode = "pass"
    trial.recover()
    live.wait_for(
        lambda: all(now <= before.get(pid, now) + GROWTH_MAX for pid, now in open_files(cluster)),
        "files and threads of the workers to be as many as before",
        jobs,
    )
    row = trial.finish(table)

    assert row.restarts == 0, "a bad line must not restart the job"


def test_a_hundred_resets_in_a_row(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, table: Table, proxy: Proxy
) -> None:
    trial = through_proxy(cluster, artifact, jobs, "network: 100 resets in a row")

    proxy.mode = "reset"
    proxy.reset_all()
    live.wait_for(lambda: proxy.resets >= 100, "100 resets", jobs)
    proxy.mode = "pass"
    trial.recover()

    assert trial.finish(table).restarts == 0, "resets must not restart the job"


def through_proxy(cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, fault: str) -> Trial:
    """A trial whose job knows the broker by its proxy only."""
    kafka: dict[str, Any] = {"bootstrap_servers": cluster.proxied_servers}
    trial = Trial(cluster, artifact, jobs, fault, NETWORK_BACK_S, kafka=kafka)
    trial.begin()
    return trial


def open_files(cluster: ClusterInfo) -> list[tuple[int, int]]:
    """Each Python worker's pid, and how many files and threads it has."""
    actual = []
    for pid in local.worker_pids(cluster):
        with contextlib.suppress(FileNotFoundError):  # of a job before, ended since
            counts = (len(os.listdir(f"/proc/{pid}/{kind}")) for kind in ("fd", "task"))
            actual.append((pid, sum(counts)))
    return actual
