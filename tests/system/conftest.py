"""The one cluster that all system tests share; each test makes topics and jobs of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import cluster as local
from infra.info import ClusterInfo, ClusterSpec
from infra.ports import Ports


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterInfo]:
    """A real broker and a real Flink with one TaskManager of four slots."""
    directory = tmp_path_factory.mktemp("cluster")
    here = Path(__file__).parent
    spec = ClusterSpec(directory, slots=4, ports=Ports.free(), worker_paths=(here,))
    info = local.up(spec)
    yield info
    local.down(directory)
