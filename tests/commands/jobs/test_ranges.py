"""Against librdkafka's own in-memory broker."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from streamgauge.models.errors import ConfigError
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.pipeline.config import Config, from_dict
from streamgauge.pipeline.graph import access
from streamgauge.pipeline.jobs import ranges
from streamgauge.pipeline.jobs.ranges import check_retained, processed_ranges, resolve_ranges
from streamgauge.transforms.kafka.client import PartitionReader
from streamgauge.transforms.sources.replay import Range
from streamgauge.transforms.sources.source import Source

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
    resolved = resolve_ranges(config, PARTITIONS, "earliest", "latest")
    assert resolved == [Range(0, 0, 10), Range(2, 0, 5)]


def test_offsets_limit_the_partitions_that_they_name(config: Config) -> None:
    assert resolve_ranges(config, PARTITIONS, "0:3", "0:7,2:99") == [Range(0, 3, 7), Range(2, 0, 5)]
    # A partition without an end is left out.
    assert resolve_ranges(config, PARTITIONS, "earliest", "0:7") == [Range(0, 0, 7)]


def test_a_range_without_events_or_with_an_unknown_partition_is_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match="nothing is between 0:4 and 0:4"):
        resolve_ranges(config, PARTITIONS, "0:4", "0:4")
    with pytest.raises(ConfigError, match="--to: partitions must be below 4; got 4"):
        resolve_ranges(config, PARTITIONS, "earliest", "4:1")


FIRST_S = 1_704_067_200  # 2024-01-01T00:00:00Z


class AnsweringReader(PartitionReader):
    """Asks for times what the in-memory broker cannot answer: all its records are of today."""

    def offset_at(self, start: str | int) -> int:
        if isinstance(start, int):
            start = "earliest" if start < time.time() * 1_000 - 3_600_000 else "latest"
        return super().offset_at(start)


@pytest.fixture(autouse=True)
def _answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PartitionReader", AnsweringReader)


@pytest.fixture(scope="module")
def timed(config: Config) -> tuple[Config, Source]:
    """2,000 events a second apart that were written today, in partition 1 of another topic."""
    producer = Producer({"bootstrap.servers": config.kafka.bootstrap_servers})
    for second in range(2_000):
        event = {"entity_id": "a", "event_time_us": (FIRST_S + second) * 1_000_000, "features": [1]}
        producer.produce("timed", json.dumps(event), partition=1)
    assert producer.flush(30) == 0
    config = dataclasses.replace(config, input=dataclasses.replace(config.input, topic="timed"))
    source = Source(
        access=access(config),
        group="g",
        topic="timed",
        schema=Schema((Feature("f"),)),
        limits=DecodeLimits(),
        shards=1,
        routing="entity",
        block_events_max=100,
        max_parallelism=1,
    )
    return config, source


AT_20 = "2024-01-01T00:20:00Z"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (AT_20, "latest", (1_200, 2_000)),
        ("earliest", AT_20, (0, 1_200)),
        (AT_20, "2024-01-01T01:25:01+01:00", (1_200, 1_501)),
        ("2023-01-01", "2024-06-01", (0, 2_000)),
        ("1:5", "2024-01-01T00:00:10", (5, 10)),
    ],
)
def test_a_time_is_an_event_time(
    timed: tuple[Config, Source], start: str, end: str, expected: tuple[int, int]
) -> None:
    config, source = timed
    resolved = resolve_ranges(config, PARTITIONS, start, end, source=source)
    assert [each for each in resolved if each.partition == 1] == [Range(1, *expected)]


def test_a_range_of_times_that_no_event_has_is_refused(timed: tuple[Config, Source]) -> None:
    config, source = timed
    for start, end in (("2024-01-02", "latest"), ("earliest", "2024-01-01"), (AT_20, AT_20)):
        with pytest.raises(ConfigError, match=f"nothing is between {start} and {end}"):
            resolve_ranges(config, PARTITIONS, start, end, source=source)


def test_a_job_that_began_at_latest_has_processed_what_it_has_scored(config: Config) -> None:
    processed, truncated = processed_ranges(
        config, PARTITIONS, "latest", end="latest", scored_from={0: 6}
    )
    assert (processed, truncated) == ({0: Range(0, 6, 10)}, [])
    processed, _ = processed_ranges(config, PARTITIONS, {2: 1}, end={2: 3}, scored_from={})
    assert processed == {2: Range(2, 1, 3)}


def test_state_that_ends_outside_the_log_is_refused(config: Config) -> None:
    check_retained(config, {0: 10, 2: 0})
    with pytest.raises(ConfigError, match="must hold offset 11, where the state ends"):
        check_retained(config, {0: 11})
