"""A backtest of a range that was scored live says the same, bit for bit, and to files only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from streamgauge.infra.local.info import ClusterInfo
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.replay.backtest import RUNNERS, backtest
from system.harness import live, outcome
from system.harness.outcome import ScoredFleet

pytestmark = pytest.mark.system


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_backtest_writes_what_the_live_job_wrote(
    cluster: ClusterInfo, scored_fleet: ScoredFleet, runner: str, tmp_path: Path
) -> None:
    config, actual = scored_fleet.config, scored_fleet.actual
    before = output_ends(cluster, config)

    replay, summary = backtest(
        config, "earliest", "latest", out=tmp_path, runner=runner, narrate=live.silent
    )

    replayed = outcome.plain(replay.scores)
    assert outcome.differing(replayed, actual.scores) == 0
    assert len(replayed) == len(actual.scores)
    assert {alert["id"]: alert for alert in replay.alerts} == actual.alerts
    letters = {letter["id"]: letter["reason"] for letter in replay.dead_letters}
    assert letters == {name: about["reason"] for name, about, _ in actual.letters}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (summary["events"], summary["entities"]) == (len(actual.scores), 1_000)
    assert output_ends(cluster, config) == before, "a backtest must not write to live topics"


def test_backtest_of_part_of_a_range_scores_exactly_its_events(
    cluster: ClusterInfo, scored_fleet: ScoredFleet, tmp_path: Path
) -> None:
    config, actual = scored_fleet.config, scored_fleet.actual
    inside = {0: range(1000, 1500), 1: range(2000, 2500)}

    replay, _ = backtest(
        config, "0:1000,1:2000", "0:1500,1:2500", out=tmp_path, narrate=live.silent
    )

    events = outcome.events_of(actual.scores)
    expected = [event for event in events if event[1] in inside.get(event[0], ())]
    assert outcome.events_of(replay.scores) == expected


def output_ends(cluster: ClusterInfo, config: Config) -> dict[TopicPartition, int]:
    """End offsets of the topics that a live job writes."""
    consumer = KafkaConsumer(bootstrap_servers=cluster.bootstrap_servers, group_id=None)
    try:
        partitions = [
            TopicPartition(topic, partition)
            for topic in config.output_topics()
            for partition in consumer.partitions_for_topic(topic) or ()
        ]
        assert {partition.topic for partition in partitions} == set(config.output_topics())
        return consumer.end_offsets(partitions)
    finally:
        consumer.close()
