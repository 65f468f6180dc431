"""`make parity`: a million events live on Flink, and replayed in one process, to the same bits.

Each run has another parallelism and, from its seed, other bundles, blocks and shards. Its
topic is filled partly before the job starts and partly while it runs.
"""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streamgauge.infra.local.info import ClusterInfo
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.data.payloads import Selection
from streamgauge.pipeline.data.produce import ProduceRequest, produce
from streamgauge.pipeline.jobs import preflight
from streamgauge.pipeline.jobs.ranges import resolve_ranges
from streamgauge.pipeline.replay.runner import Replay, run_in_process
from streamgauge.transforms.sources.replay import ReplayTopic
from system.harness import fleet, live, outcome
from system.harness.progress import narrator

pytestmark = [pytest.mark.system, pytest.mark.matrix, pytest.mark.timeout(900)]

REPLICAS, ROWS = 1_000, 100  # of ten machines: 10,000 entities of 100 events each
EVENTS = fleet.MACHINES * REPLICAS * ROWS
TURNS, BEFORE = 5, 2  # the topic is filled in turns, the first of them before the job starts
PARTITIONS = 6
HEAD = ("parallelism", "bundles", "ms", "blocks", "shards", "scores", "alerts", "differing", "s")


@dataclass(frozen=True, slots=True)
class Cut:
    """How a run's events are cut: none of it may show in a score."""

    parallelism: int
    bundle_size: int
    bundle_time_ms: int
    block_events_max: int
    shards: int

    @classmethod
    def drawn(cls, parallelism: int) -> Cut:
        """The cut that this parallelism's seed gives."""
        rng = np.random.default_rng(1_000 + parallelism)
        bundle_size, bundle_time_ms = int(rng.integers(1, 65)), int(rng.integers(1, 60))
        block_events_max = int(np.exp(rng.uniform(np.log(600), np.log(40_000))))
        return cls(
            parallelism, bundle_size, bundle_time_ms, block_events_max, int(rng.integers(2, 10))
        )

    def sections(self) -> dict[str, Any]:
        """Sections of the configuration."""
        return {
            "flink": {
                "parallelism": self.parallelism,
                "bundle_size": self.bundle_size,
                "bundle_time_ms": self.bundle_time_ms,
            },
            "input": {"block_events_max": self.block_events_max},
            "scoring": {"shards": self.shards},
        }


@pytest.fixture(scope="module", autouse=True)
def head(pytestconfig: pytest.Config) -> None:
    """The first line of the table."""
    narrator(pytestconfig)(line(*HEAD))


@pytest.mark.parametrize("parallelism", [1, 2, 4])
def test_a_million_events_live_and_replayed_agree_in_every_bit(
    cluster: ClusterInfo,
    artifact: Path,
    jobs: live.Jobs,
    parallelism: int,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    cut, topic = Cut.drawn(parallelism), live.new_name("parity")
    live.create_topic(cluster, topic, PARTITIONS)
    config = live.job_config(cluster, artifact, topic, **cut.sections())
    began = time.monotonic()
    feed(cluster, topic, range(BEFORE))
    jobs.start(config)
    feed(cluster, topic, range(BEFORE, TURNS))

    scores = await_scores(cluster, config, jobs)
    seconds = time.monotonic() - began
    replay = replayed(config, tmp_path)
    alerts = await_alerts(cluster, config, len(replay.alerts), jobs)

    differing = differing_rows(scores, replay.scores)
    cells = (f"{len(scores):,}", f"{len(alerts):,}", differing, f"{seconds:.0f}")
    narrator(pytestconfig)(line(*astuple(cut), *cells))
    assert (len(scores), len(replay.scores)) == (EVENTS, EVENTS)
    assert differing == 0
    assert len(alerts) > 1_000
    assert alerts == {alert["id"]: alert for alert in replay.alerts}


def feed(cluster: ClusterInfo, topic: str, turns: range) -> None:
    """Send so many of the `TURNS` equal parts of the events."""
    rows = ROWS // TURNS
    for turn in turns:
        produce(
            ProduceRequest(
                fleet.fleet(turn * rows, rows),
                topic,
                cluster.bootstrap_servers,
                data_format="arrow",
                selection=Selection(replicas=REPLICAS),
            ),
            narrate=live.silent,
        )


def await_scores(cluster: ClusterInfo, config: Config, jobs: live.Jobs) -> pa.Table:
    """All scores in log order, each once; a repeat must say the same."""
    assert config.scores.topic is not None
    actual: list[pa.RecordBatch] = []
    with live.Topic(cluster, config.scores.topic) as topic:

        def are_all_there() -> bool:
            for message in topic.poll():
                actual.extend(live.batches(message.value))
            return sum(map(len, actual)) >= EVENTS

        live.wait_for(are_all_there, f"{EVENTS:,} scores", jobs, 600)
    every = outcome.plain(pa.Table.from_batches(actual))
    once = outcome.without_repeats(every)
    assert len(once) == EVENTS, "nothing was killed: every event has its one score"
    return once


def await_alerts(
    cluster: ClusterInfo, config: Config, count: int, jobs: live.Jobs
) -> dict[str, Any]:
    """All alerts by id; `count` must come at least."""
    with live.Topic(cluster, config.alerts.topic) as topic:
        live.wait_for(
            lambda: topic.poll() is not None and len(topic.messages) >= count,
            f"{count:,} alerts",
            jobs,
        )
    jobs.cancel_all()
    return outcome.alerts_of(live.read_all(cluster, config.alerts.topic))


def replayed(config: Config, folder: Path) -> Replay:
    """The same range through the same graph in this process."""
    artifact = preflight.load_artifact(config)
    ranges = resolve_ranges(config, PARTITIONS, "earliest", "latest")
    reading = ReplayTopic(graph.source(config, artifact), ranges)
    return run_in_process(config, artifact, reading, directory=folder / "parts")


def differing_rows(actual: pa.Table, replayed: pa.Table) -> int:
    """Rows of two tables in log order that differ in a bit of any column, or are in one only."""
    expected = outcome.plain(replayed)
    assert actual.column_names == expected.column_names
    rows = min(len(actual), len(expected))
    same = np.ones(rows, bool)
    for name in actual.column_names:
        ours, theirs = (table[name].slice(0, rows).combine_chunks() for table in (actual, expected))
        if pa.types.is_floating(ours.type):  # as bits: NaN equals itself, and 0 is not -0
            same &= ours.to_numpy().view(np.uint32) == theirs.to_numpy().view(np.uint32)
        else:
            same &= pa.compute.equal(ours, theirs).to_numpy(zero_copy_only=False)
    return int((~same).sum()) + abs(len(actual) - len(expected))


def line(*cells: object) -> str:
    return "".join(f"{cell!s:>12}" for cell in cells)
