"""Memory that is not the runner's: from Flink to one process and back, and erased on request."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from streamgauge.infra.local.info import ClusterInfo
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.chain import shard_of
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.jobs import exported_state
from streamgauge.pipeline.replay.backtest import backtest
from streamgauge.transforms.runner.snapshot_store import newest_snapshots
from system.harness import fleet, live, outcome

pytestmark = pytest.mark.system

FIRST, SECOND = range(2), range(2, 4)
SHARDS = 4


def new_job(cluster: ClusterInfo, artifact: Path, topic: str, folder: Path) -> Config:
    """A job that keeps snapshots and reports health every second."""
    return live.job_config(
        cluster,
        artifact,
        topic,
        state={"folder": str(folder), "snapshot_interval_s": 1},
        health={"interval_s": 1},
    )


def await_scored(config: Config, events: int, jobs: live.Jobs) -> None:
    """Wait until the job's newest snapshots count so many events."""
    artifact, folder = artifacts.load(Path(config.artifact)), graph.state_folder(config)

    def is_kept() -> bool:
        if not newest_snapshots(folder):
            return False
        headers = exported_state.headers_of(config, artifact, folder)
        return sum(header.counts["scored"] for header in headers) == events

    live.wait_for(is_kept, f"snapshots of {events:,} events", jobs)


def test_half_a_run_on_flink_and_half_in_process_is_an_unbroken_run(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, tmp_path: Path
) -> None:
    topic = live.new_name("fleet")
    live.create_topic(cluster, topic, outcome.PARTITIONS)
    config = new_job(cluster, artifact, topic, tmp_path / "state")
    sent = fleet.produce_fleet(cluster, topic, FIRST)
    jobs.start(config)
    await_scored(config, sent.events - sent.malformed, jobs)
    jobs.cancel_all()
    first_half = outcome.read_scores(cluster, config)
    loaded = artifacts.load(artifact)
    manifest = exported_state.export(config, loaded, tmp_path / "exported")
    assert manifest.entities == fleet.MACHINES * fleet.REPLICAS
    more = fleet.produce_fleet(cluster, topic, SECOND)

    replay, summary = backtest(
        config,
        "earliest",
        "latest",
        out=tmp_path / "rest",
        narrate=live.silent,
        state=str(tmp_path / "exported"),
        keep_state=True,
    )
    assert summary["events"] == more.events - more.malformed  # nothing again, nothing missing
    expected = outcome.score_offline(cluster, config)
    second_half = outcome.plain(replay.scores.select(first_half.column_names))
    both = outcome.plain(pa.concat_tables([first_half, second_half]))
    assert outcome.differing(both, expected.scores) == 0
    assert len(outcome.without_repeats(both)) == len(expected.scores)

    # And back: a job on Flink under another name resumes from the state of the replay.
    third = fleet.produce_fleet(cluster, topic, range(4, 5))
    again = new_job(cluster, artifact, topic, tmp_path / "state-again")
    jobs.start(again, state=str(tmp_path / "rest" / "state"))
    with live.Scores(cluster, again) as scores:
        scores.await_events(third.events - third.malformed, jobs)
    expected = outcome.score_offline(cluster, config)
    actual = outcome.read_scores(cluster, again)
    assert outcome.differing(actual, expected.scores) == 0
    assert len(actual) == third.events - third.malformed


def test_health_is_published_per_shard_and_an_erased_entity_is_forgotten(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, tmp_path: Path
) -> None:
    topic = live.new_name("fleet")
    live.create_topic(cluster, topic, outcome.PARTITIONS)
    config = new_job(cluster, artifact, topic, tmp_path / "state")
    sent = fleet.produce_fleet(cluster, topic, range(1))
    well_formed = sent.events - sent.malformed
    jobs.start(config)
    await_scored(config, well_formed, jobs)
    loaded = artifacts.load(artifact)
    entity = fleet.server_machines().series[0].entity_id + ".000"
    folder = graph.state_folder(config)
    actual = exported_state.find(config, loaded, folder, entity)
    assert actual.row["event_count"] > 0
    assert actual.snapshot.shard == shard_of(entity, SHARDS)

    partition, _ = exported_state.erase_live(config, loaded, entity, partition=None)
    assert partition == actual.row["partition"]

    def is_forgotten() -> bool:
        headers = exported_state.headers_of(config, loaded, folder)
        return [h.counts["erased"] for h in headers if h.shard == actual.snapshot.shard] == [1]

    live.wait_for(is_forgotten, "a snapshot after the erasure", jobs)
    with pytest.raises(ConfigError, match="must have state"):
        exported_state.find(config, loaded, folder, entity)

    reports = [json.loads(m.value) for m in live.read_all(cluster, config.health.topic)]
    newest = {report["shard"]: report["counts"] for report in reports}
    assert sorted(newest) == list(range(SHARDS))
    assert sum(counts["scored"] for counts in newest.values()) == well_formed
    unplanned = ("desyncs", "resets", "stale_tables")
    assert {counts[name] for counts in newest.values() for name in unplanned} == {0}
