"""Decodes Arrow telemetry, many events per message, as columns.

A message is an IPC stream with `entity_id` (utf8), `event_time_us` (int64) and either `features`
(fixed-size list of float32) or one column per feature name. A row that breaks a rule becomes a
dead letter; the other rows of its message are processed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamgauge.models.errors import EventError
from streamgauge.models.events.validation import (
    BAD_ENTITY,
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

STREAM_MAGIC = b"\xff\xff\xff\xff"  # continuation marker, Arrow columnar format 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """A message whose Arrow stream could be opened."""

    #: Index of the message in its run.
    index: int
    message: Message
    schema: pa.Schema
    batches: list[pa.RecordBatch]
    #: Number of events in it.
    size: int


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
        alike: list[_Stream] = []
        decoded: list[EventColumns] = []
        for index, message in enumerate(run):
            try:
                stream = self._open(index, message)
            except EventError as error:
                refused.append(Refusal(index, -1, error))
                continue
            if alike and not _may_join(alike[0].schema, stream.schema):
                self._decode(alike, decoded, refused)
                alike = []
            alike.append(stream)
        if alike:
            self._decode(alike, decoded, refused)
        refused.sort(key=lambda refusal: (refusal.message_index, refusal.row))
        return decoded, refused

    def _open(self, index: int, message: Message) -> _Stream:
        """Read the batches of a message; their content is not checked yet.

        Raises:
            EventError: the message as a whole cannot be read.
        """
        limits = self._rules.limits
        if error := self._rules.size_error(message.payload):
            raise error
        try:
            with pa.ipc.open_stream(pa.py_buffer(message.payload)) as reader:
                schema, batches = reader.schema, list(reader)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise EventError(UNREADABLE, clean(f"Arrow stream: {error}")) from error
        size = sum(batch.num_rows for batch in batches)
        if size > limits.events_per_message_max:
            raise EventError(
                TOO_LARGE,
                f"an Arrow message may hold {limits.events_per_message_max} events; got {size}",
            )
        if size == 0:
            raise EventError(UNREADABLE, "Arrow stream: must hold at least one event; got none")
        return _Stream(index, message, schema, batches=batches, size=size)

    def _decode(
        self, alike: list[_Stream], decoded: list[EventColumns], refused: list[Refusal]
    ) -> None:
        """Add the events of messages of one schema to `decoded`, and the bad ones to `refused`."""
        try:
            columns, bad_rows = self._columns(alike)
        except EventError as error:
            if len(alike) == 1:
                refused.append(Refusal(alike[0].index, -1, error))
                return
            for stream in alike:
                self._decode([stream], decoded, refused)
            return
        refused.extend(bad_rows)
        if len(columns.offset):
            decoded.append(columns)

    def _columns(self, alike: list[_Stream]) -> tuple[EventColumns, list[Refusal]]:
        """Return the columns of messages of one schema, and their bad rows.

        Raises:
            EventError: the messages cannot be read; with several, at least one of them cannot.
        """
        sizes = np.array([stream.size for stream in alike])
        entity, time, features = self._read(alike)
        latest = [self._rules.latest_us(stream.message.timestamp_us) for stream in alike]
        bad = self._refused_rows(entity, time, features, latest_us=np.repeat(latest, sizes))
        first = np.cumsum(sizes) - sizes
        row = (np.arange(len(bad)) - np.repeat(first, sizes)).astype(np.int32)
        refused: list[Refusal] = []
        for i in np.flatnonzero(bad).tolist():
            stream = alike[int(np.searchsorted(first, i, side="right")) - 1]
            event = entity[i], time[i], features[i]
            error = self._row_error(*event, timestamp_us=stream.message.timestamp_us)
            refused.append(Refusal(stream.index, int(row[i]), error, payload=_one_row(*event)))
        offsets = np.array([stream.message.offset for stream in alike], np.int64)
        columns = EventColumns(
            offset=np.repeat(offsets, sizes),
            row=row,
            event_time_us=time,
            entity_id=entity,
            features=features,
        )
        return columns.where(~bad), refused

    def _read(self, alike: list[_Stream]) -> tuple[pa.Array, NDArray[Any], NDArray[Any]]:
        """Return the columns of all batches: entity (N,), time (N,), features (N, F)."""
        try:
            batches = [batch for stream in alike for batch in stream.batches]
            table = pa.Table.from_batches(batches, alike[0].schema)
            table.validate(full=True)  # offsets in untrusted bytes may point anywhere
        except (pa.ArrowException, OSError, ValueError) as error:
            raise EventError(UNREADABLE, clean(f"Arrow stream: {error}")) from error
        entity = _column(table, "entity_id", BAD_ENTITY, is_type=pa.types.is_string, wanted="utf8")
        time = _column(table, "event_time_us", BAD_TIME, is_type=pa.types.is_int64, wanted="int64")
        return entity, time.fill_null(-1).to_numpy(), self._feature_matrix(table)

    def _feature_matrix(self, table: pa.Table) -> NDArray[Any]:
        """Return (N, F) float32 from a list column `features`, or from one column per name."""
        if "features" in table.column_names:
            return self._from_list(table.column("features").combine_chunks())
        names = self._rules.schema.names
        known = [name for name in names if name in table.column_names]
        if not known:
            raise EventError(
                BAD_FEATURES,
                "needs a column 'features' or columns by feature name; "
                f"got {table.column_names[:8]}",
            )
        matrix = np.full((table.num_rows, len(names)), np.nan, np.float32)
        for name in known:
            with np.errstate(over="ignore"):  # infinities are refused with the other values
                matrix[:, self._rules.index[name]] = _numbers(table, name)
        return matrix

    def _from_list(self, column: pa.Array) -> NDArray[Any]:
        size = self._rules.schema.size
        wanted = pa.list_(pa.float32(), size)
        if column.type != wanted or column.null_count:
            raise EventError(
                BAD_FEATURES,
                f"column features must be {wanted} without null; got {column.type}",
            )
        values: NDArray[Any] = column.flatten().fill_null(np.nan).to_numpy()
        return values.reshape(-1, size)

    def _refused_rows(
        self,
        entity: pa.Array,
        time_us: NDArray[Any],
        features: NDArray[Any],
        *,
        latest_us: NDArray[Any],
    ) -> NDArray[Any]:
        """Find the rows that break a rule, (N,) bool."""
        size = pc.binary_length(entity).fill_null(0).to_numpy()
        good = has_entity_size(size) & is_event_time(time_us, latest_us)
        refused: NDArray[Any] = ~good | self._rules.refused_values(features)
        return refused

    def _row_error(
        self, entity: pa.Scalar, time_us: np.int64, features: NDArray[Any], *, timestamp_us: int
    ) -> EventError:
        """Explain why `_refused_rows` refused this row, by the first rule that it breaks."""
        name = entity.as_py()
        if name is None or not has_entity_size(len(name.encode())):
            return entity_error(name)
        if not is_event_time(time_us, self._rules.latest_us(timestamp_us)):
            return self._rules.time_error(int(time_us), timestamp_us)
        return self._rules.value_error(features)


def _may_join(first: pa.Schema, second: pa.Schema) -> bool:
    """Whether messages of these schemas may become one table.

    Messages with dictionaries may not, because each has a dictionary of its own.
    """
    return first.equals(second) and not any(map(pa.types.is_dictionary, first.types))


def _column(
    table: pa.Table, name: str, reason: str, *, is_type: Callable[[Any], bool], wanted: str
) -> pa.Array:
    if name not in table.column_names:
        raise EventError(reason, f"needs a column {name!r}; got {table.column_names[:8]}")
    column = table.column(name).combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not is_type(column.type):
        raise EventError(reason, f"column {name!r} must be {wanted}; got {column.type}")
    return column


def _numbers(table: pa.Table, name: str) -> NDArray[Any]:
    """Return a column of numbers as float64, NaN where null."""
    column = table.column(name).combine_chunks()
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise EventError(BAD_FEATURES, f"column {name!r} must be a number; got {column.type}")
    numbers: NDArray[Any] = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
    return numbers


def _one_row(entity: pa.Scalar, time_us: np.int64, features: NDArray[Any]) -> bytes:
    """Return an Arrow stream with a single event, so that a corrected row can be sent again."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(features), len(features))
    batch = pa.record_batch(
        [pa.array([entity.as_py()], pa.string()), pa.array([time_us]), values],
        names=["entity_id", "event_time_us", "features"],
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
