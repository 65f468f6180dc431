"""Decodes Arrow telemetry, many events per message, as columns.

A message is one or more IPC streams with `entity_id` (text), `event_time_us` (integer or
timestamp) and either `features` (lists of numbers) or one column per feature name. A row that
breaks a rule becomes a dead letter; the other rows of its message are processed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamgauge.models.errors import EventError
from streamgauge.models.events.arrow_columns import (
    ENTITY,
    FEATURES,
    TIME,
    entity_ids,
    event_times,
    feature_column,
    feature_lists,
    no_times,
    wanted_fields,
)
from streamgauge.models.events.arrow_framing import Frame, frames
from streamgauge.models.events.validation import (
    BAD_FEATURES,
    BAD_TIME,
    TOO_LARGE,
    UNREADABLE,
    EventColumns,
    EventRules,
    Message,
    Refusal,
    clean,
    entity_error,
    has_entity_size,
    is_event_time,
)

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One Arrow stream of a message."""

    schema: pa.Schema
    batches: list[pa.RecordBatch]


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A message whose Arrow streams could be opened."""

    #: Index of the message in its run.
    index: int
    message: Message
    parts: list[_Part]
    #: Number of events in it.
    size: int
    unpacked_bytes: int

    def may_join(self, other: _Opened) -> bool:
        """Whether both may become one table.

        Messages with dictionaries may not, because each has a dictionary of its own.
        """
        if len(self.parts) > 1 or len(other.parts) > 1:
            return False
        schema = self.parts[0].schema
        is_same = schema.equals(other.parts[0].schema)
        return is_same and not any(map(pa.types.is_dictionary, schema.types))


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The columns of events that are not checked yet."""

    entity: pa.Array
    #: (N,) int64
    time_us: NDArray[Any]
    #: By row, what came instead of a time.
    no_times: dict[int, str]
    #: (N, F) float32
    features: NDArray[Any]
    #: (N,) how many features came; -1 for a list that is null.
    counts: NDArray[Any]


class ArrowEvents:
    """Decodes runs of Arrow messages.

    Checking a small message costs more than scoring its events: 95 µs, whatever it holds.
    So adjacent messages of one schema are checked as one table. If that table cannot be read,
    its messages are checked one by one, to refuse only those that are at fault.
    """

    def __init__(self, rules: EventRules) -> None:
        self._rules = rules

    def decode(self, run: Sequence[Message]) -> tuple[list[EventColumns], list[Refusal]]:
        """Return the well-formed events of `run`, and the refusals in offset order."""
        refused: list[Refusal] = []
        alike: list[_Opened] = []
        decoded: list[EventColumns] = []
        unpacked = 0
        for index, message in enumerate(run):
            try:
                opened = self._open(index, message)
            except Exception as error:  # noqa: BLE001 - see _as_event_error
                refused.append(Refusal(index, -1, _as_event_error(error)))
                continue
            unpacked += opened.unpacked_bytes
            is_much = unpacked > self._rules.limits.unpacked_bytes_max
            if alike and (is_much or not alike[0].may_join(opened)):
                self._decode(alike, decoded, refused)
                alike, unpacked = [], opened.unpacked_bytes
            alike.append(opened)
        if alike:
            self._decode(alike, decoded, refused)
        refused.sort(key=lambda refusal: (refusal.message_index, refusal.row))
        return decoded, refused

    def _open(self, index: int, message: Message) -> _Opened:
        """Read the batches of a message; their content is not checked yet.

        Raises:
            EventError: the message is too large, or unpacks to too much.
        """
        if error := self._rules.size_error(message.payload):
            raise error
        streams = frames(message.payload)
        size = sum(frame.rows for frame in streams)
        unpacked = sum(frame.unpacked_bytes for frame in streams)
        self._check_size(size, unpacked)
        parts = [self._part(message.payload, frame) for frame in streams]
        return _Opened(index, message, parts, size=size, unpacked_bytes=unpacked)

    def _check_size(self, size: int, unpacked: int) -> None:
        """Refuse a message of `size` rows and `unpacked` bytes before it is unpacked."""
        limits = self._rules.limits
        if size == 0:
            raise EventError(UNREADABLE, "Arrow stream: must hold at least one event; got none")
        if size > limits.events_per_message_max:
            raise EventError(
                TOO_LARGE,
                f"an Arrow message may hold {limits.events_per_message_max} events; got {size}",
            )
        most = max(unpacked, size * self._rules.schema.size * FLOAT32_BYTES)
        if most > limits.unpacked_bytes_max:
            raise EventError(
                TOO_LARGE,
                f"an Arrow message may unpack to {limits.unpacked_bytes_max} bytes; got {most}",
            )

    def _part(self, payload: bytes, frame: Frame) -> _Part:
        stream = pa.py_buffer(payload)
        if frame.end - frame.start < len(payload):
            stream = stream.slice(frame.start, frame.end - frame.start)
        options = pa.ipc.IpcReadOptions()
        if frame.is_compressed:  # otherwise a column that nobody reads costs nothing
            with pa.ipc.open_stream(stream) as reader:
                options.included_fields = wanted_fields(reader.schema, self._rules.schema.names)
        with pa.ipc.open_stream(stream, options=options) as reader:
            schema, batches = reader.schema, list(reader)
        if sum(batch.num_rows for batch in batches) != frame.rows:
            raise EventError(UNREADABLE, f"Arrow stream: must hold {frame.rows} rows")
        return _Part(schema, batches)

    def _decode(
        self, alike: list[_Opened], decoded: list[EventColumns], refused: list[Refusal]
    ) -> None:
        """Add the events of messages of one schema to `decoded`, and the bad ones to `refused`."""
        try:
            columns, bad_rows = self._columns(alike)
        except Exception as error:  # noqa: BLE001 - see _as_event_error
            if len(alike) == 1:
                refused.append(Refusal(alike[0].index, -1, _as_event_error(error)))
                return
            for opened in alike:
                self._decode([opened], decoded, refused)
            return
        refused.extend(bad_rows)
        if len(columns.offset):
            decoded.append(columns)

    def _columns(self, alike: list[_Opened]) -> tuple[EventColumns, list[Refusal]]:
        """Return the columns of messages of one schema, and their bad rows.

        Raises:
            Exception: the messages cannot be read; with several, at least one of them cannot.
        """
        sizes = np.array([opened.size for opened in alike])
        rows = self._read(alike)
        latest = [self._rules.latest_us(opened.message.timestamp_us) for opened in alike]
        bad = self._refused_rows(rows, latest_us=np.repeat(latest, sizes))
        first = np.cumsum(sizes) - sizes
        row = (np.arange(len(bad)) - np.repeat(first, sizes)).astype(np.int32)
        refused: list[Refusal] = []
        for i in np.flatnonzero(bad).tolist():
            opened = alike[int(np.searchsorted(first, i, side="right")) - 1]
            error = self._row_error(rows, i, timestamp_us=opened.message.timestamp_us)
            refused.append(Refusal(opened.index, int(row[i]), error, payload=_one_row(rows, i)))
        offsets = np.array([opened.message.offset for opened in alike], np.int64)
        columns = EventColumns(
            offset=np.repeat(offsets, sizes),
            row=row,
            event_time_us=rows.time_us,
            entity_id=rows.entity,
            features=rows.features,
        )
        return columns.where(~bad), refused

    def _read(self, alike: list[_Opened]) -> _Rows:
        """Return the rows of messages: of one schema, or of the streams of one message."""
        parts = alike[0].parts
        if len(alike) > 1:
            batches = [batch for opened in alike for batch in opened.parts[0].batches]
            parts = [_Part(parts[0].schema, batches)]
        return _joined([self._rows(part) for part in parts])

    def _rows(self, part: _Part) -> _Rows:
        table = pa.Table.from_batches(part.batches, part.schema)
        fields = wanted_fields(table.schema, self._rules.schema.names)
        if len(fields) < table.num_columns:
            table = table.select(fields)
        table.validate(full=True)  # offsets in untrusted bytes may point anywhere
        times = table.column(TIME).combine_chunks()
        time_us = event_times(times)
        features, counts = self._features(table)
        bound = self._rules.limits.unpacked_bytes_max
        return _Rows(
            entity=entity_ids(table.column(ENTITY).combine_chunks(), bound),
            time_us=time_us,
            no_times=no_times(times, time_us),
            features=features,
            counts=counts,
        )

    def _features(self, table: pa.Table) -> tuple[NDArray[Any], NDArray[Any]]:
        """Features (N, F) float32 by list or by name, and how many came, (N,)."""
        names = self._rules.schema.names
        if FEATURES in table.column_names:
            return feature_lists(table.column(FEATURES).combine_chunks(), len(names))
        matrix = np.full((table.num_rows, len(names)), np.nan, np.float32)
        for name in set(table.column_names) - {ENTITY, TIME}:
            column = table.column(name).combine_chunks()
            matrix[:, self._rules.index[name]] = feature_column(column, name)
        return matrix, np.full(table.num_rows, len(names))

    def _refused_rows(self, rows: _Rows, *, latest_us: NDArray[Any]) -> NDArray[Any]:
        """Find the rows that break a rule, (N,) bool."""
        size = pc.binary_length(rows.entity).fill_null(0).to_numpy()
        good = has_entity_size(size) & is_event_time(rows.time_us, latest_us)
        refused: NDArray[Any] = ~good | self._rules.refused_values(rows.features)
        return refused

    def _row_error(self, rows: _Rows, row: int, *, timestamp_us: int) -> EventError:
        """Explain why `_refused_rows` refused this row, by the first rule that it breaks."""
        name, time_us = rows.entity[row].as_py(), int(rows.time_us[row])
        if name is None or not has_entity_size(len(name.encode())):
            return entity_error(name)
        if not is_event_time(time_us, self._rules.latest_us(timestamp_us)):
            if came := rows.no_times.get(row):
                rule = "event_time_us must be a whole number of microseconds"
                return EventError(BAD_TIME, f"{rule}; got {came}")
            return self._rules.time_error(time_us, timestamp_us)
        size = self._rules.schema.size
        if rows.counts[row] != size:
            came = "null" if rows.counts[row] < 0 else str(rows.counts[row])
            return EventError(BAD_FEATURES, f"features must be {size} numbers; got {came}")
        return self._rules.value_error(rows.features[row])


def _as_event_error(error: Exception) -> EventError:
    """The reason of a refusal, from whatever was raised for the bytes of a stranger.

    Arrow raises a dozen types of exception for them, and which ones is not documented. A message
    at which decoding fails once fails again after every restart, so nothing may leave here.
    """
    if isinstance(error, EventError):
        return error
    if isinstance(error, struct.error):
        return EventError(UNREADABLE, "Arrow stream: it is cut off")
    return EventError(UNREADABLE, clean(f"Arrow stream: {error or type(error).__name__}"))


def _joined(parts: list[_Rows]) -> _Rows:
    """The rows of all streams of one message."""
    if len(parts) == 1:
        return parts[0]
    sizes = [len(part.time_us) for part in parts]
    firsts = np.cumsum([0, *sizes[:-1]]).tolist()
    return _Rows(
        entity=pa.concat_arrays([part.entity for part in parts]),
        time_us=np.concatenate([part.time_us for part in parts]),
        no_times={
            first + row: came
            for first, part in zip(firsts, parts, strict=True)
            for row, came in part.no_times.items()
        },
        features=np.concatenate([part.features for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
    )


def _one_row(rows: _Rows, row: int) -> bytes:
    """Return an Arrow stream with a single event, so that a corrected row can be sent again."""
    features = rows.features[row]
    values = pa.array(
        [None if rows.counts[row] < 0 else features], pa.list_(pa.float32(), len(features))
    )
    time_us = None if row in rows.no_times else rows.time_us[row]
    batch = pa.record_batch(
        [
            pa.array([rows.entity[row].as_py()], pa.string()),
            pa.array([time_us], pa.int64()),
            values,
        ],
        names=[ENTITY, TIME, FEATURES],
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
