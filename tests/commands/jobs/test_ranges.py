"""Against librdkafka's own in-memory broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.config import Config, from_dict
from streamgauge.pipeline.jobs.ranges import check_retained, processed_ranges, resolve_ranges
from streamgauge.transforms.sources.replay import Range

PARTITIONS = 4  # what the in-memory broker gives a new topic
MESSAGES = {0: 10, 2: 5}


@pytest.fixture(scope="module")
def config() -> Iterator[Config]:
    """A job whose input has 10 messages in partition 0, 5 in partition 2 and no others."""
    holder = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    address = next(iter(holder.list_topics(timeout=10).brokers.values()))
    servers = f"{address.host}:{address.port}"
    producer = Producer({"bootstrap.servers": servers})
    for partition, count in MESSAGES.items():
        for _ in range(count):
            producer.produce("telemetry", b"x", partition=partition)
    assert producer.flush(30) == 0
    yield from_dict(
        {
            "artifact": "a",
            "kafka": {"bootstrap_servers": servers},
            "input": {"topic": "telemetry"},
        }
    )
    holder.flush(1)


def test_a_range_covers_the_whole_log_without_empty_partitions(config: Config) -> None:
    ranges = resolve_ranges(config, PARTITIONS, "earliest", "latest")
    assert ranges == [Range(0, 0, 10), Range(2, 0, 5)]


def test_offsets_limit_the_partitions_that_they_name(config: Config) -> None:
    assert resolve_ranges(config, PARTITIONS, "0:3", "0:7,2:99") == [Range(0, 3, 7), Range(2, 0, 5)]
    # A partition without an end is left out.
    assert resolve_ranges(config, PARTITIONS, "earliest", "0:7") == [Range(0, 0, 7)]


def test_a_range_without_events_or_with_an_unknown_partition_is_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match="nothing is between 0:4 and 0:4"):
        resolve_ranges(config, PARTITIONS, "0:4", "0:4")
    with pytest.raises(ConfigError, match="--to: partitions must be below 4; got 4"):
        resolve_ranges(config, PARTITIONS, "earliest", "4:1")


def test_a_job_that_began_at_latest_has_processed_what_it_has_scored(config: Config) -> None:
    ranges, truncated = processed_ranges(
        config, PARTITIONS, "latest", end="latest", scored_from={0: 6}
    )
    assert (ranges, truncated) == ({0: Range(0, 6, 10)}, [])
    ranges, _ = processed_ranges(config, PARTITIONS, {2: 1}, end={2: 3}, scored_from={})
    assert ranges == {2: Range(2, 1, 3)}


def test_state_that_ends_outside_the_log_is_refused(config: Config) -> None:
    check_retained(config, {0: 10, 2: 0})
    with pytest.raises(ConfigError, match="must hold offset 11, where the state ends"):
        check_retained(config, {0: 11})
