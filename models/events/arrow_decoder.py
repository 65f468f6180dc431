"""Arrow telemetry: many events a message, checked as columns.

An IPC stream with `entity_id` (utf8), `event_time_us` (int64) and either `features`
(fixed-size list of float32) or one column per feature name. A bad row takes only itself
to the dead letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgauge.models.errors import EventError
from streamgauge.models.events.validation import (
    BAD_ENTITY,
    BAD_FEATURES,
    BAD_TIME,
    ENTITY_BYTES_MAX,
    EVENT_TIME_US_MAX,
    EVENT_TIME_US_MIN,
    TOO_LARGE,
    UNREADABLE,
    EventColumns,
    EventRules,
    Message,
    Refusal,
    clean,
    entity_error,
)

STREAM_MAGIC = b"\xff\xff\xff\xff"  # continuation marker, Arrow columnar format 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A message whose stream could be opened."""

    place: int
    message: Message
    schema: pa.Schema
    batches: list[pa.RecordBatch]
    #: Events in it.
    size: int


class ArrowEvents:
    """Decodes runs of Arrow messages.

    Messages of one sender look alike, and checking small ones one by one costs more than
    scoring them: 95 us each, whatever they hold. So neighbours of one schema are taken as one
    table; when that is found at fault, they are taken one by one to see whose fault it is.
    """

    def __init__(self, rules: EventRules) -> None:
        self._rules = rules

    def decode(self, run: Sequence[Message]) -> tuple[list[EventColumns], list[Refusal]]:
        """The well-formed events of `run`, and what was refused, in offset order."""
        refused: list[Refusal] = []
        alike: list[_Opened] = []
        found: list[EventColumns] = []
        for place, message in enumerate(run):
            try:
                opened = self._open(place, message)
            except EventError as error:
                refused.append((place, -1, error, None))
                continue
            if alike and not _may_join(alike[0].schema, opened.schema):
                self._take(alike, found, refused)
                alike = []
            alike.append(opened)
        if alike:
            self._take(alike, found, refused)
        refused.sort(key=lambda one: one[:2])
        return found, refused

    def _open(self, place: int, message: Message) -> _Opened:
        """The batches of a message, their content not yet looked at.

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
        return _Opened(place, message, schema, batches, size)

    def _take(
        self, alike: list[_Opened], found: list[EventColumns], refused: list[Refusal]
    ) -> None:
        """Add the events of messages of one schema to `found`, the bad ones to `refused`."""
        try:
            columns, bad_rows = self._columns(alike)
        except EventError as error:
            if len(alike) == 1:
                refused.append((alike[0].place, -1, error, None))
                return
            for opened in alike:
                self._take([opened], found, refused)
            return
        refused.extend(bad_rows)
        if len(columns.offset):
            found.append(columns)

    def _columns(self, alike: list[_Opened]) -> tuple[EventColumns, list[Refusal]]:
        """The columns of messages of one schema, and their bad rows.

        Raises:
            EventError: they cannot be read; with several, one of them cannot.
        """
        sizes = np.array([opened.size for opened in alike])
        entity, time, features = self._read(alike)
        latest = [self._rules.latest_us(opened.message.timestamp_us) for opened in alike]
        bad = self._refused_rows(entity, time, features, np.repeat(latest, sizes))
        first = np.cumsum(sizes) - sizes
        row = (np.arange(len(bad)) - np.repeat(first, sizes)).astype(np.int32)
        refused: list[Refusal] = []
        for i in np.flatnonzero(bad).tolist():
            opened = alike[int(np.searchsorted(first, i, side="right")) - 1]
            why = self._row_error(entity[i], time[i], features[i], opened.message.timestamp_us)
            payload = _one_row(entity[i], time[i], features[i])
            refused.append((opened.place, int(row[i]), why, payload))
        offset = np.repeat(np.array([one.message.offset for one in alike], np.int64), sizes)
        return EventColumns(offset, row, time, entity, features).where(~bad), refused

    def _read(self, alike: list[_Opened]) -> tuple[pa.Array, np.ndarray, np.ndarray]:
        """Columns of all batches: entity (N,), time (N,), features (N, F)."""
        try:
            batches = [batch for opened in alike for batch in opened.batches]
            table = pa.Table.from_batches(batches, alike[0].schema)
            table.validate(full=True)  # the bytes are a stranger's: offsets may point anywhere
        except (pa.ArrowException, OSError, ValueError) as error:
            raise EventError(UNREADABLE, clean(f"Arrow stream: {error}")) from error
        entity = _column(table, "entity_id", BAD_ENTITY, pa.types.is_string, "utf8")
        time = _column(table, "event_time_us", BAD_TIME, pa.types.is_int64, "int64")
        return entity, time.fill_null(-1).to_numpy(), self._feature_matrix(table)

    def _feature_matrix(self, table: pa.Table) -> np.ndarray:
        """(N, F) float32 from one list column `features`, or from one column per name."""
        size, names = self._rules.schema.size, self._rules.schema.names
        if "features" in table.column_names:
            column = table.column("features").combine_chunks()
            wanted = pa.list_(pa.float32(), size)
            if column.type != wanted or column.null_count:
                raise EventError(
                    BAD_FEATURES,
                    f"column features must be {wanted} without null; got {column.type}",
                )
            return column.flatten().fill_null(np.nan).to_numpy().reshape(-1, size)
        known = [name for name in names if name in table.column_names]
        if not known:
            raise EventError(
                BAD_FEATURES,
                "needs a column 'features' or columns by feature name; "
                f"got {table.column_names[:8]}",
            )
        matrix = np.full((table.num_rows, size), np.nan, np.float32)
        for name in known:
            column = table.column(name).combine_chunks()
            if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
                raise EventError(
                    BAD_FEATURES, f"column {name!r} must be a number; got {column.type}"
                )
            values = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
            with np.errstate(over="ignore"):
                matrix[:, self._rules.place[name]] = values
        return matrix

    def _refused_rows(
        self, entity: pa.Array, time: np.ndarray, features: np.ndarray, latest: np.ndarray
    ) -> np.ndarray:
        length = pc.binary_length(entity).fill_null(0).to_numpy()
        bad = (length < 1) | (length > ENTITY_BYTES_MAX)
        bad |= (time < EVENT_TIME_US_MIN) | (time >= EVENT_TIME_US_MAX) | (time > latest)
        return bad | self._rules.refused_values(features)

    def _row_error(
        self, entity: pa.Scalar, time: np.int64, features: np.ndarray, timestamp_us: int
    ) -> EventError:
        """Why `_refused_rows` refused this row; the first fault found."""
        name = entity.as_py()
        if name is None or not 1 <= len(name.encode()) <= ENTITY_BYTES_MAX:
            return entity_error(name)
        latest = self._rules.latest_us(timestamp_us)
        if not EVENT_TIME_US_MIN <= time < EVENT_TIME_US_MAX or time > latest:
            return self._rules.time_error(int(time), timestamp_us)
        return self._rules.value_error(features)


def _may_join(one: pa.Schema, other: pa.Schema) -> bool:
    """Whether messages of these schemas may become one table; each has dictionaries of its own."""
    return one.equals(other) and not any(map(pa.types.is_dictionary, one.types))


def _column(table: pa.Table, name: str, reason: str, is_type: object, wanted: str) -> pa.Array:
    if name not in table.column_names:
        raise EventError(reason, f"needs a column {name!r}; got {table.column_names[:8]}")
    column = table.column(name).combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not is_type(column.type):  # type: ignore[operator]
        raise EventError(reason, f"column {name!r} must be {wanted}; got {column.type}")
    return column


def _one_row(entity: pa.Scalar, time: np.int64, features: np.ndarray) -> bytes:
    """An Arrow stream with a single event, so that a mended row can be sent again."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(features), len(features))
    batch = pa.record_batch(
        [pa.array([entity.as_py()], pa.string()), pa.array([time]), values],
        names=["entity_id", "event_time_us", "features"],
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()
