"""Turns a data set into Kafka messages, well-formed and malformed, without Kafka.

The events of all entities are in the order of their time, as a fleet of hosts would send them.
Both formats hold the same float32 values and put an entity on the same partition.

    JSON    one event per message, key = entity id,
            {"entity_id": "a", "event_time_us": 1704067200000000, "features": [0.5, null]}
            or, named, "features": {"cpu": 0.5, "mem": null}
    Arrow   an IPC stream of one record batch per message, up to 512 events of one
            partition, columns entity_id, event_time_us, features (fixed-size list)

A missing value is null in both. `pipeline.data.malformed` makes events malformed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamgauge.models.errors import ConfigError
from streamgauge.models.events.schema import Schema
from streamgauge.pipeline.data import malformed
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


class Payload(NamedTuple):
    """One Kafka message to send, and what it contains."""

    partition: int
    key: bytes | None
    value: bytes
    headers: Headers
    #: Events inside, malformed ones included; an unreadable message counts as one event.
    events: int
    #: How many of them become dead letters: malformed events, and events without any value.
    malformed: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events of a data set are sent, and which of them are made malformed."""

    #: Every entity is sent this many times, each time under another name.
    replicas: int = 1
    #: Stop after this many events; None for all.
    limit: int | None = None
    #: Share of events that are made malformed, 0 to 1.
    malformed_share: float = 0.0
    #: Seed of the choice of malformed events.
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
        """The number of events of `dataset` that are sent."""
        whole = dataset.events * self.replicas
        return whole if self.limit is None else min(whole, self.limit)


class _EventColumns(NamedTuple):
    """Consecutive events in the order in which they are sent, as columns."""

    entity: NDArray[Any]  # (N,) int64, index into the entity ids
    time_us: NDArray[Any]  # (N,) int64
    values: NDArray[Any]  # (N, F) float32
    defect: NDArray[Any]  # (N,) int64, number of the defect (see `malformed`), or WELL_FORMED


def messages(
    dataset: Dataset,
    data_format: Format,
    partitions: int,
    *,
    selection: Selection = Selection(),
    named: bool = False,
) -> Iterator[Payload]:
    """All messages of `dataset`, ready to send; equal arguments give equal bytes.

    Args:
        dataset: the events.
        data_format: "json" or "arrow".
        partitions: number of partitions of the topic.
        selection: which events are sent and which are made malformed.
        named: JSON features as an object by name instead of an array.

    Raises:
        ConfigError: there is no such format.
    """
    if data_format not in get_args(Format):
        raise ConfigError(f"produce: format must be one of {get_args(Format)}; got {data_format!r}")
    if data_format == "arrow":
        return _arrow_messages(dataset, partitions, selection)
    return _json_messages(dataset, partitions, selection, named=named)


def partition_of(entity_id: str, partitions: int) -> int:
    """The partition of an entity; it is the same in both formats.

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


def phase_rows(rows: int, replicas: int) -> NDArray[Any]:
    """Row at which each replica starts, (replicas,) int64; the first is not shifted.

    >>> phase_rows(100, 4).tolist()
    [0, 61, 23, 85]
    """
    return (np.arange(replicas) * PHASE_SHIFT % 1.0 * rows).astype(np.int64)


def _events(dataset: Dataset, selection: Selection) -> Iterator[_EventColumns]:
    replicas, left = selection.replicas, selection.events(dataset)
    rows = np.array([len(series.event_time_us) for series in dataset.series])
    starts = np.concatenate(([0], np.cumsum(rows)[:-1]))
    owner = np.repeat(np.arange(len(rows)), rows)
    times = np.concatenate([series.event_time_us for series in dataset.series])
    values = np.concatenate([series.values for series in dataset.series])
    shifts = np.stack([phase_rows(count, replicas) for count in rows])  # (entities, replicas)
    order = np.lexsort((owner, times))
    rng, malformed_before = np.random.default_rng(selection.seed), 0
    step = max(1, CHUNK_EVENTS // replicas)
    for at in range(0, len(order), step):
        here = order[at : at + step]
        base = owner[here]
        row = (here - starts[base])[:, None] + shifts[base]  # (n, replicas)
        source = starts[base][:, None] + row % rows[base][:, None]
        entity = base[:, None] * replicas + np.arange(replicas)
        keep = min(left, entity.size)
        defect = np.full(keep, WELL_FORMED, np.int64)
        chosen = np.flatnonzero(rng.random(keep) < selection.malformed_share)
        defect[chosen] = malformed_before + np.arange(len(chosen))
        malformed_before += len(chosen)
        times_here = np.repeat(times[here], replicas)
        yield _EventColumns(
            entity.ravel()[:keep], times_here[:keep], values[source.ravel()[:keep]], defect
        )
        left -= keep
        if not left:
            return


def _json_messages(
    dataset: Dataset, partitions: int, selection: Selection, *, named: bool
) -> Iterator[Payload]:
    ids = entity_ids(dataset, selection.replicas)
    keys = [entity_id.encode() for entity_id in ids]
    owners = [partition_of(entity_id, partitions) for entity_id in ids]
    heads = [b'{"entity_id":%b,"event_time_us":' % msgspec.json.encode(name) for name in ids]
    headers: Headers = [("content-type", CONTENT_TYPES["json"])]
    encode = _features_encoder(dataset.schema, named)
    for events in _events(dataset, selection):
        rows = shortest(events.values).tolist()
        lists = (column.tolist() for column in (events.entity, events.time_us, events.defect))
        for entity, time_us, defect, row, bad in zip(*lists, rows, _is_dead(events), strict=True):
            value = b'%b%d,"features":%b}' % (heads[entity], time_us, encode(row))
            if defect != WELL_FORMED:
                value = malformed.malformed_json(value, ids[entity], time_us, row=row, turn=defect)
            yield Payload(owners[entity], keys[entity], value, headers, events=1, malformed=bad)


def _is_dead(events: _EventColumns) -> list[int]:
    """1 for each event that becomes a dead letter, else 0."""
    empty = np.isnan(events.values).all(axis=1)
    flags: list[int] = ((events.defect != WELL_FORMED) | empty).astype(int).tolist()
    return flags


def _features_encoder(schema: Schema, named: bool) -> Callable[[list[float]], bytes]:
    encode = msgspec.json.Encoder().encode  # writes NaN as null
    if not named:
        return encode
    names = schema.names
    return lambda row: encode(dict(zip(names, row, strict=True)))


def shortest(values: NDArray[Any]) -> NDArray[Any]:
    """The float32 values as float64 values whose decimal text is as short as possible.

    A float32 that is converted directly prints 17 digits; 6 to 9 digits are enough to restore it.

    >>> shortest(np.array([0.1], np.float32)).tolist()
    [0.1]
    """
    wide = values.astype(np.float64)
    magnitude = np.floor(np.log10(np.abs(wide), where=wide != 0, out=np.zeros_like(wide)))
    result, is_pending = wide.copy(), np.ones(wide.shape, bool)
    for digits in (4, 6, 7, 8, 9):
        # Powers of ten above 1e22 are not exact in float64; such values keep their long text.
        scale = 10.0 ** np.clip(digits - 1 - magnitude, -22, 22)
        short = np.round(wide * scale) / scale
        exact = is_pending & (short.astype(np.float32) == values)
        result[exact] = short[exact]
        is_pending &= ~exact
    return result


def _arrow_messages(dataset: Dataset, partitions: int, selection: Selection) -> Iterator[Payload]:
    ids = entity_ids(dataset, selection.replicas)
    names = pa.array(ids, pa.utf8())
    owners = np.array([partition_of(entity_id, partitions) for entity_id in ids])
    queued: list[_EventColumns | None] = [None] * partitions
    rows = arrow_rows(dataset.schema.size)
    for events in _events(dataset, selection):
        owner = owners[events.entity]
        for partition in range(partitions):
            mine = _EventColumns(*(column[owner == partition] for column in events))
            mine = _joined(queued[partition], mine)
            while len(mine.entity) >= rows:
                yield from _arrow_message(partition, names, _part(mine, 0, rows))
                mine = _part(mine, rows, None)
            queued[partition] = mine
    for partition, rest in enumerate(queued):
        if rest is not None and len(rest.entity):
            yield from _arrow_message(partition, names, rest)


def arrow_rows(features: int) -> int:
    """Events per Arrow message.

    >>> arrow_rows(38), arrow_rows(4096)
    (512, 48)
    """
    event_bytes = 4 * features + 256  # the entity id has at most 256 bytes
    return min(ARROW_ROWS_MAX, ARROW_BYTES_MAX // event_bytes)


def _joined(first: _EventColumns | None, second: _EventColumns) -> _EventColumns:
    if first is None:
        return second
    return _EventColumns(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def _part(events: _EventColumns, first: int, end: int | None) -> _EventColumns:
    return _EventColumns(*(column[first:end] for column in events))


def _arrow_message(partition: int, names: pa.Array, events: _EventColumns) -> Iterator[Payload]:
    """One message with the readable rows, then one message per event that becomes unreadable."""
    headers: Headers = [("content-type", CONTENT_TYPES["arrow"])]
    unreadable = malformed.is_unreadable(events.defect)
    readable = _EventColumns(*(column[~unreadable] for column in events))
    if len(readable.entity):
        batch = malformed.malformed_rows(arrow_batch(names, readable), readable.defect)
        bad = sum(_is_dead(readable))
        yield Payload(
            partition,
            None,
            arrow_stream(batch),
            headers,
            events=len(readable.entity),
            malformed=bad,
        )
    for row in np.flatnonzero(unreadable):
        batch = arrow_batch(names, _part(events, row, row + 1))
        value = malformed.malformed_stream(arrow_stream(batch), int(events.defect[row]))
        yield Payload(partition, None, value, headers, events=1, malformed=1)


def arrow_batch(names: pa.Array, events: _EventColumns) -> pa.RecordBatch:
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
    data: bytes = sink.getvalue().to_pybytes()
    return data
