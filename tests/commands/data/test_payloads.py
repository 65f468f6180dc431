from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from streamgauge.models.errors import ConfigError
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.series import Series
from streamgauge.models.events.validation import Message as Read
from streamgauge.pipeline.data.datasets import START_US, Dataset
from streamgauge.pipeline.data.malformed import JSON_DEFECTS
from streamgauge.pipeline.data.payloads import (
    CONTENT_TYPES,
    Format,
    Payload,
    Selection,
    arrow_rows,
    entity_ids,
    messages,
    partition_of,
    shortest,
)

PARTITIONS = 3
LATER_US = START_US + 10**15


def _dataset(entities: int = 5, rows: int = 200, features: int = 4, seed: int = 1) -> Dataset:
    rng = np.random.default_rng(seed)
    times = START_US + 60_000_000 * np.arange(rows, dtype=np.int64)
    series = []
    for entity in range(entities):
        values = rng.normal(size=(rows, features)).astype(np.float32)
        values[3, 1] = np.nan
        series.append(Series(f"host-{entity}", times + entity, values))
    schema = Schema(tuple(Feature(f"f{i}") for i in range(features)))
    return Dataset("made", "test", schema, tuple(series), 60_000_000, "0" * 64)


def _sent(
    dataset: Dataset, fmt: Format, selection: Selection | None = None, named: bool = False
) -> list[Payload]:
    return list(messages(dataset, fmt, PARTITIONS, selection=selection or Selection(), named=named))


def _decoded(dataset: Dataset, sent: list[Payload]) -> tuple[dict[tuple[str, int], bytes], int]:
    """What the pipeline's own decoder makes of it: value bits by event, and dead letters."""
    events: dict[tuple[str, int], bytes] = {}
    dead = 0
    for partition in range(PARTITIONS):
        mine = [message for message in sent if message.partition == partition]
        read = [Read(offset, LATER_US, message.value) for offset, message in enumerate(mine)]
        block, letters = Decoder(dataset.schema).decode(partition, read, 0, len(read))
        columns = zip(block.entity_id.to_pylist(), block.event_time_us.tolist(), strict=True)
        for event, features in zip(columns, block.features, strict=True):
            events[event] = features.tobytes()
        dead += len(letters)
    return events, dead


@pytest.mark.parametrize("fmt", ["json", "arrow"])
def test_every_event_arrives_with_its_own_bits(fmt: Format) -> None:
    dataset = _dataset()
    events, dead = _decoded(dataset, _sent(dataset, fmt))
    assert dead == 0
    assert len(events) == dataset.events
    for series in dataset.series:
        for time_us, values in zip(series.event_time_us.tolist(), series.values, strict=True):
            np.testing.assert_array_equal(
                np.frombuffer(events[series.entity_id, time_us], np.float32), values
            )


def test_json_and_arrow_put_an_entity_on_the_same_partition() -> None:
    dataset = _dataset()
    by_format = []
    for fmt in ("json", "arrow"):
        places: set[tuple[str, int]] = set()
        for message in _sent(dataset, fmt):  # type: ignore[arg-type]
            events, _ = _decoded(dataset, [message])
            places |= {(entity, message.partition) for entity, _ in events}
        by_format.append(places)
    assert by_format[0] == by_format[1]
    assert by_format[0] == {(name, partition_of(name, 3)) for name in entity_ids(dataset, 1)}


def test_a_json_message_looks_as_documented() -> None:
    dataset = _dataset()
    message = _sent(dataset, "json", Selection(limit=16))[15]
    values = json.loads(message.value)
    assert list(values) == ["entity_id", "event_time_us", "features"]
    assert values["features"][1] is None
    assert message.key == values["entity_id"].encode() == b"host-0"
    assert message.headers == [("content-type", b"application/json")]
    named = json.loads(_sent(dataset, "json", Selection(limit=16), named=True)[15].value)
    assert named["features"] == dict(zip(dataset.schema.names, values["features"], strict=True))


def test_an_arrow_message_holds_many_events_of_one_partition_in_time_order() -> None:
    dataset = _dataset(rows=1000)
    sent = _sent(dataset, "arrow")
    assert max(message.events for message in sent) == 512
    assert all(message.headers == [("content-type", CONTENT_TYPES["arrow"])] for message in sent)
    events, _ = _decoded(dataset, sent[:1])
    assert len({entity for entity, _ in events}) > 1
    times = [time_us for _, time_us in events]
    assert times == sorted(times)


def test_messages_of_wide_events_are_small_enough_for_a_broker() -> None:
    dataset = _dataset(entities=2, rows=300, features=2000)
    largest = max(len(message.value) for message in _sent(dataset, "arrow"))
    assert arrow_rows(2000) < 512
    assert largest < 1_000_000


def test_events_of_all_entities_are_interleaved_in_time_order() -> None:
    sent = _sent(_dataset(), "json", Selection(replicas=2))
    times = [json.loads(message.value)["event_time_us"] for message in sent]
    assert all(first <= second for first, second in pairwise(times))
    assert [message.key for message in sent[:4]] == [
        b"host-0.000",
        b"host-0.001",
        b"host-1.000",
        b"host-1.001",
    ]


def test_replicas_hold_the_same_rows_from_another_phase() -> None:
    dataset = _dataset(entities=1, rows=100)
    events, _ = _decoded(dataset, _sent(dataset, "json", Selection(replicas=3)))
    rows = [
        [bits for (entity, _), bits in sorted(events.items()) if entity == name]
        for name in ("host-0.000", "host-0.001", "host-0.002")
    ]
    assert rows[0] == [values.tobytes() for values in dataset.series[0].values]
    assert rows[1] != rows[0]
    assert rows[2] != rows[1]
    assert sorted(rows[0]) == sorted(rows[1]) == sorted(rows[2])


def test_replicas_of_short_and_long_series_use_the_rows_of_their_series() -> None:
    long, short = _dataset(entities=2, rows=90).series
    short = Series("short", short.event_time_us[:40], short.values[:40])
    dataset = Dataset("made", "test", _dataset().schema, (long, short), 1, "0" * 64)
    events, _ = _decoded(dataset, _sent(dataset, "json", Selection(replicas=2)))
    sent = [bits for (entity, _), bits in events.items() if entity == "short.001"]
    assert sorted(sent) == sorted(values.tobytes() for values in short.values)


def test_defects_take_turns_over_the_whole_run() -> None:
    dataset = _dataset(rows=300)
    selection = Selection(replicas=20, malformed_share=0.002)  # several chunks of events
    sent = _sent(dataset, "json", selection)
    malformed = sum(message.malformed for message in sent)
    nested = sum(message.value.startswith(b"[[") for message in sent)
    assert malformed > 3 * len(JSON_DEFECTS)
    assert nested == malformed // len(JSON_DEFECTS)  # the last defect of each round


@pytest.mark.parametrize("fmt", ["json", "arrow"])
@pytest.mark.parametrize("features", [1, 4])
def test_each_malformed_event_becomes_exactly_one_dead_letter(fmt: Format, features: int) -> None:
    dataset = _dataset(rows=400, features=features if features > 1 else 2)
    if features == 1:
        narrow = tuple(
            Series(s.entity_id, s.event_time_us, np.nan_to_num(s.values[:, :1]))
            for s in dataset.series
        )
        dataset = Dataset("made", "test", Schema((Feature("f0"),)), narrow, 60_000_000, "0" * 64)
    sent = _sent(dataset, fmt, Selection(malformed_share=0.05, seed=3))
    malformed = sum(message.malformed for message in sent)
    events, dead = _decoded(dataset, sent)
    assert sum(message.events for message in sent) == dataset.events
    assert 60 < malformed < 140  # 5 % of 2,000
    assert dead == malformed
    assert len(events) == dataset.events - malformed


def test_malformed_events_do_not_touch_their_neighbours() -> None:
    dataset = _dataset()
    for fmt in ("json", "arrow"):
        whole, _ = _decoded(dataset, _sent(dataset, fmt))  # type: ignore[arg-type]
        damaged, _ = _decoded(dataset, _sent(dataset, fmt, Selection(malformed_share=0.2)))  # type: ignore[arg-type]
        assert damaged.items() < whole.items()


def test_an_event_without_any_value_counts_as_malformed() -> None:
    dataset = _dataset()
    dataset.series[0].values[7] = np.nan
    for fmt in ("json", "arrow"):
        sent = _sent(dataset, fmt)  # type: ignore[arg-type]
        assert sum(message.malformed for message in sent) == 1
        assert _decoded(dataset, sent)[1] == 1


@pytest.mark.parametrize("defect", range(len(JSON_DEFECTS)), ids=list(JSON_DEFECTS))
def test_every_json_defect_is_refused_by_the_decoder(defect: int) -> None:
    dataset = _dataset()
    sent = _sent(dataset, "json", Selection(malformed_share=1.0, limit=len(JSON_DEFECTS)))
    assert _decoded(dataset, [sent[defect]]) == ({}, 1)


def test_the_same_arguments_give_the_same_bytes() -> None:
    for fmt in ("json", "arrow"):
        selection = Selection(replicas=2, limit=300, malformed_share=0.1, seed=9)
        assert _sent(_dataset(), fmt, selection) == _sent(_dataset(), fmt, selection)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [1, 7, 5000])
def test_limit_is_exact(limit: int) -> None:
    dataset = _dataset()
    selection = Selection(replicas=7, limit=limit)
    for fmt in ("json", "arrow"):
        sent = _sent(dataset, fmt, selection)  # type: ignore[arg-type]
        assert sum(message.events for message in sent) == limit == selection.events(dataset)


def test_shortest_text_gives_the_same_float32_back() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    values = np.concatenate([values[np.isfinite(values)], np.float32([0, -0.0, 1e-45, 3.4e38])])
    np.testing.assert_array_equal(shortest(values).astype(np.float32), values)
    assert max(len(repr(value)) for value in shortest(np.float32([0.1, 1 / 3, 123.456]))) < 30
    assert repr(float(shortest(np.float32([1 / 3]))[0])) == "0.33333334"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"replicas": 0}, "replicas must be at least 1; got 0"),
        ({"limit": 0}, "limit must be at least 1; got 0"),
        ({"malformed_share": 1.5}, "malformed share must be 0 to 1; got 1.5"),
    ],
)
def test_impossible_selections_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selection(**arguments)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"format must be one of \('json', 'arrow'\); got 'avro'"):
        messages(_dataset(), "avro", 1)  # type: ignore[arg-type]
