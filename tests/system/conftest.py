"""The cluster that all system tests share; each test creates new topics and jobs."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from fixtures.artifacts import make_artifact
from fixtures.paths import ROOT
from streamgauge.infra.local import cluster as local
from streamgauge.infra.local.info import ClusterInfo, ClusterSpec
from streamgauge.infra.processes.ports import Ports
from system.harness import live, outcome
from system.harness.results import Row, Table

TABLE = pytest.StashKey[Table]()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterInfo]:
    """A real broker and a real Flink with one TaskManager of four slots."""
    directory = tmp_path_factory.mktemp("cluster")
    tests = ROOT / "tests"
    ports = Ports.free("proxied", "proxy")
    paths = (tests, tests / "system" / "harness" / "worker_faults")
    spec = ClusterSpec(directory, slots=4, ports=ports, worker_paths=paths)
    info = local.up(spec)
    yield info
    local.down(directory)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact for the server machine data; its low variance makes alerts common."""
    directory = tmp_path_factory.mktemp("artifact") / "made"
    return make_artifact(directory, features=38, hidden=64, calmer=0.6)


@pytest.fixture
def jobs(cluster: ClusterInfo) -> Iterator[live.Jobs]:
    """Starts live jobs; those that still run after a test are cancelled."""
    started = live.Jobs(cluster)
    yield started
    started.cancel_all()


@pytest.fixture(scope="session")
def scored_fleet(cluster: ClusterInfo, artifact: Path) -> outcome.ScoredFleet:
    """200,000 events of the server machine data, scored by a live job that has ended."""
    return outcome.score_fleet(cluster, artifact)


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    """The table to which a test adds its row of the fault matrix."""
    rows = request.config.stash[TABLE]
    rows.is_settled = False
    return rows


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Table()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore sockets that kafka-python does not close after a broker was killed."""
    for item in items:
        if item.get_closest_marker("fault"):
            ignored = "ignore:unclosed <socket.socket:ResourceWarning"
            item.add_marker(pytest.mark.filterwarnings(ignored))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add a row for a fault test that failed before its verdict."""
    report = yield
    table = item.config.stash[TABLE]
    if item.get_closest_marker("fault") and call.excinfo is not None and not table.is_settled:
        why = str(call.excinfo.value).partition("\n")[0]
        table.add(Row(item.name, verdict="FAILED", note=why))
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    table = config.stash[TABLE]
    if table.rows:
        terminalreporter.section("faults")
        terminalreporter.write_line("\n".join(table.lines()))
