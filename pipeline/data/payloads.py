"""Turns a data set into Kafka messages, well-formed and malformed, without Kafka.

The order is that of event time over all entities, as a fleet of hosts would send.
Both formats carry the same float32 values and put an entity on the same partition.

    JSON    one event per message, key = entity id,
            {"entity_id": "a", "event_time_us": 1704067200000000, "features": [0.5, null]}
            or, named, "features": {"cpu": 0.5, "mem": null}
    Arrow   an IPC stream of one record batch per message, up to 512 events of one
            partition, columns entity_id, event_time_us, features (fixed-size list)

A missing value is null in both. What makes an event malformed lies in `pipeline/data/malformed.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import msgspec
import numpy as np
import pyarrow as pa

from streamgauge.models.errors import ConfigError
from streamgauge.models.events.schema import Schema
from streamgauge.pipeline.data import malformed as faults
from streamgauge.pipeline.data.datasets import Dataset

Format = Literal["json", "arrow"]
Headers = list[tuple[str, str | bytes | None]]  # as confluent-kafka declares it

CONTENT_TYPES: dict[str, bytes] = {
    "json": b"application/json",
    "arrow": b"application/vnd.apache.arrow.stream",
}
ARROW_ROWS_MAX = 512  # about 90 kB with 38 features
ARROW_BYTES_MAX = 800_000  # a broker takes 1 MB a message by default; wide events need fewer rows
CHUNK_EVENTS = 8192  # events prepared at once; bounds memory at any number of replicas
# Shifts by multiples of the golden ratio spread any number of replicas evenly over the rows.
PHASE_SHIFT = 0.618_033_988_749_895
WELL_FORMED = -1


class Message(NamedTuple):
    """What one call of a Kafka producer needs, and what it contains."""

    partition: int
    key: bytes | None
    value: bytes
    headers: Headers
    #: Events inside, malformed ones included; whole-message garbage counts as one.
    events: int
    #: How many of them must end as a dead letter: spoiled ones, and ones without any value.
    malformed: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events of a data set are sent, and which of them are spoiled."""

    #: Every entity is sent this many times, under names of its own.
    replicas: int = 1
    #: Stop after this many events; None for all.
    limit: int | None = None
    #: Share of events that are made malformed.
    malformed_share: float = 0.0
    #: Chooses the malformed events.
    seed: int = 0

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ConfigError(f"produce: replicas must be at least 1; got {self.replicas}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"produce: limit must be at least 1; got {self.limit}")
        if not 0 <= self.malformed_share <= 1:
            raise ConfigError(
                f"produce: malformed share must be 0 to 1; got {self.malformed_share}"
            )

    def events(self, dataset: Dataset) -> int:
        """How many events that is of `dataset`."""
        whole = dataset.events * self.replicas
        return whole if self.limit is None else min(whole, self.limit)


class _Events(NamedTuple):
    """A stretch of events in the order in which they are sent."""

    entity: np.ndarray  # (N,) int64, index into the entity ids
    time_us: np.ndarray  # (N,) int64
    values: np.ndarray  # (N, F) float32
    fault: np.ndarray  # (N,) int64, which fault in turn, or WELL_FORMED


def messages(
    dataset: Dataset,
    data_format: Format,
    partitions: int,
    selection: Selection = Selection(),
    named: bool = False,
) -> Iterator[Message]:
    """All messages of `dataset`, ready to be sent; the same arguments give the same bytes."""
    if data_format not in get_args(Format):
        raise ConfigError(f"produce: format must be one of {get_args(Format)}; got {data_format!r}")
    if data_format == "arrow":
        return _arrow_messages(dataset, partitions, selection)
    return _json_messages(dataset, partitions, selection, named)


def partition_of(entity_id: str, partitions: int) -> int:
    """The partition of an entity, whoever produces it and in whatever format.

    >>> partition_of("machine-1-2", 4)
    0
    """
    return zlib.crc32(entity_id.encode()) % partitions


def entity_ids(dataset: Dataset, replicas: int) -> list[str]:
    """Ids as sent, replicas of one entity side by side: `machine-1-2.000` and so on."""
    ids = [series.entity_id for series in dataset.series]
    if replicas == 1:
        return ids
    digits = max(3, len(str(replicas - 1)))
    return [f"{entity_id}.{replica:0{digits}d}" for entity_id in ids for replica in range(replicas)]


def phase_rows(rows: int, replicas: int) -> np.ndarray:
    """Row at which each replica starts, (replicas,) int64; the first is not shifted.

    >>> phase_rows(100, 4).tolist()
    [0, 61, 23, 85]
    """
    return (np.arange(replicas) * PHASE_SHIFT % 1.0 * rows).astype(np.int64)


def _events(dataset: Dataset, selection: Selection) -> Iterator[_Events]:
    replicas, left = selection.replicas, selection.events(dataset)
    rows = np.array([len(series.event_time_us) for series in dataset.series])
    starts = np.concatenate(([0], np.cumsum(rows)[:-1]))
    owner = np.repeat(np.arange(len(rows)), rows)
    times = np.concatenate([series.event_time_us for series in dataset.series])
    values = np.concatenate([series.values for series in dataset.series])
    shifts = np.stack([phase_rows(count, replicas) for count in rows])  # (entities, replicas)
    order = np.lexsort((owner, times))
    rng, spoiled = np.random.default_rng(selection.seed), 0
    step = max(1, CHUNK_EVENTS // replicas)
    for at in range(0, len(order), step):
        here = order[at : at + step]
        base = owner[here]
        row = (here - starts[base])[:, None] + shifts[base]  # (n, replicas)
        source = starts[base][:, None] + row % rows[base][:, None]
        entity = base[:, None] * replicas + np.arange(replicas)
        keep = min(left, entity.size)
        fault = np.full(keep, WELL_FORMED, np.int64)
        chosen = np.flatnonzero(rng.random(keep) < selection.malformed_share)
        fault[chosen] = spoiled + np.arange(len(chosen))
        spoiled += len(chosen)
        times_here = np.repeat(times[here], replicas)
        yield _Events(
            entity.ravel()[:keep], times_here[:keep], values[source.ravel()[:keep]], fault
        )
        left -= keep
        if not left:
            return


def _json_messages(
    dataset: Dataset, partitions: int, selection: Selection, named: bool
) -> Iterator[Message]:
    ids = entity_ids(dataset, selection.replicas)
    keys = [entity_id.encode() for entity_id in ids]
    places = [partition_of(entity_id, partitions) for entity_id in ids]
    heads = [b'{"entity_id":%b,"event_time_us":' % msgspec.json.encode(name) for name in ids]
    headers: Headers = [("content-type", CONTENT_TYPES["json"])]
    encode = _features_encoder(dataset.schema, named)
    for events in _events(dataset, selection):
        rows = shortest(events.values).tolist()
        lists = (column.tolist() for column in (events.entity, events.time_us, events.fault))
        for entity, time_us, fault, row, bad in zip(*lists, rows, _malformed(events), strict=True):
            value = b'%b%d,"features":%b}' % (heads[entity], time_us, encode(row))
            if fault != WELL_FORMED:
                value = faults.corrupt_json(value, ids[entity], time_us, row, fault)
            yield Message(places[entity], keys[entity], value, headers, 1, bad)


def _malformed(events: _Events) -> list[int]:
    """1 for each event that must become a dead letter, else 0."""
    empty = np.isnan(events.values).all(axis=1)
    return ((events.fault != WELL_FORMED) | empty).astype(int).tolist()


def _features_encoder(schema: Schema, named: bool) -> Callable[[list[float]], bytes]:
    encode = msgspec.json.Encoder().encode  # writes NaN as null
    if not named:
        return encode
    names = schema.names
    return lambda row: encode(dict(zip(names, row, strict=True)))


def shortest(values: np.ndarray) -> np.ndarray:
    """The same float32 values as float64 whose decimal text is as short as possible.

    A float32 widened as it is prints 17 digits; 6 to 9 are enough to get it back.

    >>> shortest(np.array([0.1], np.float32)).tolist()
    [0.1]
    """
    wide = values.astype(np.float64)
    magnitude = np.floor(np.log10(np.abs(wide), where=wide != 0, out=np.zeros_like(wide)))
    result, open_ = wide.copy(), np.ones(wide.shape, bool)
    for digits in (4, 6, 7, 8, 9):
        # Beyond 1e22 powers of ten are not exact in float64; such values keep their long text.
        scale = 10.0 ** np.clip(digits - 1 - magnitude, -22, 22)
        short = np.round(wide * scale) / scale
        exact = open_ & (short.astype(np.float32) == values)
        result[exact] = short[exact]
        open_ &= ~exact
    return result


def _arrow_messages(dataset: Dataset, partitions: int, selection: Selection) -> Iterator[Message]:
    ids = entity_ids(dataset, selection.replicas)
    names = pa.array(ids, pa.utf8())
    places = np.array([partition_of(entity_id, partitions) for entity_id in ids])
    waiting: list[_Events | None] = [None] * partitions
    rows = arrow_rows(dataset.schema.size)
    for events in _events(dataset, selection):
        place = places[events.entity]
        for partition in range(partitions):
            mine = _Events(*(column[place == partition] for column in events))
            mine = _joined(waiting[partition], mine)
            while len(mine.entity) >= rows:
                yield from _arrow_message(partition, names, _part(mine, 0, rows))
                mine = _part(mine, rows, None)
            waiting[partition] = mine
    for partition, rest in enumerate(waiting):
        if rest is not None and len(rest.entity):
            yield from _arrow_message(partition, names, rest)


def arrow_rows(features: int) -> int:
    """Events per Arrow message.

    >>> arrow_rows(38), arrow_rows(4096)
    (512, 48)
    """
    event_bytes = 4 * features + 256  # the entity id has at most 256 bytes
    return min(ARROW_ROWS_MAX, ARROW_BYTES_MAX // event_bytes)


def _joined(first: _Events | None, second: _Events) -> _Events:
    if first is None:
        return second
    return _Events(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def _part(events: _Events, first: int, end: int | None) -> _Events:
    return _Events(*(column[first:end] for column in events))


def _arrow_message(partition: int, names: pa.Array, events: _Events) -> Iterator[Message]:
    """One message with the readable rows, then one for each event that becomes garbage."""
    headers: Headers = [("content-type", CONTENT_TYPES["arrow"])]
    whole = faults.spoils_message(events.fault)
    kept = _Events(*(column[~whole] for column in events))
    if len(kept.entity):
        batch = faults.corrupt_rows(arrow_batch(names, kept), kept.fault)
        bad = sum(_malformed(kept))
        yield Message(partition, None, arrow_stream(batch), headers, len(kept.entity), bad)
    for row in np.flatnonzero(whole):
        batch = arrow_batch(names, _part(events, row, row + 1))
        value = faults.corrupt_stream(arrow_stream(batch), int(events.fault[row]))
        yield Message(partition, None, value, headers, 1, 1)


def arrow_batch(names: pa.Array, events: _Events) -> pa.RecordBatch:
    """Events as a record batch with the columns of the Arrow format."""
    flat = np.ascontiguousarray(events.values).ravel()
    missing = np.isnan(flat)
    features = pa.array(flat, pa.float32(), mask=missing if missing.any() else None)
    return pa.RecordBatch.from_arrays(
        [
            names.take(pa.array(events.entity)),
            pa.array(events.time_us, pa.int64()),
            pa.FixedSizeListArray.from_arrays(features, events.values.shape[1]),
        ],
        names=["entity_id", "event_time_us", "features"],
    )


def arrow_stream(batch: pa.RecordBatch) -> bytes:
    """A complete IPC stream that holds just `batch`."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()
