"""The one cluster that all system tests share; each test makes topics and jobs of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from artifacts import make_artifact

from infra import cluster as local
from infra.info import ClusterInfo, ClusterSpec
from infra.ports import Ports

sys.path.insert(0, str(Path(__file__).parent))

import live
import outcome


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterInfo]:
    """A real broker and a real Flink with one TaskManager of four slots."""
    directory = tmp_path_factory.mktemp("cluster")
    here = Path(__file__).parent
    spec = ClusterSpec(directory, slots=4, ports=Ports.free(), worker_paths=(here,))
    info = local.up(spec)
    yield info
    local.down(directory)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact for the server machine data: 38 features, hidden vectors of 64."""
    return make_artifact(tmp_path_factory.mktemp("artifact") / "made", features=38, hidden=64)


@pytest.fixture
def jobs(cluster: ClusterInfo) -> Iterator[live.Jobs]:
    """Starts live jobs; what a test leaves running is cancelled."""
    started = live.Jobs(cluster)
    yield started
    started.cancel_all()


@pytest.fixture(scope="session")
def scored_fleet(cluster: ClusterInfo, artifact: Path) -> outcome.ScoredFleet:
    """200,000 events of the server machine data, scored by a live job that has ended."""
    return outcome.score_fleet(cluster, artifact)
