"""Arrow telemetry: many events a message, checked as columns.

An IPC stream with `entity_id` (utf8), `event_time_us` (int64) and either `features`
(fixed-size list of float32) or one column per feature name. A bad row takes only itself
to the dead letters.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import EventError
from models.event_rules import (
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


class ArrowEvents:
    """Decodes single Arrow messages."""

    def __init__(self, rules: EventRules) -> None:
        self._rules = rules

    def decode(self, message: Message) -> tuple[EventColumns, list[Refusal]]:
        """The well-formed events of `message`, and its refused rows in order.

        Raises:
            EventError: the message as a whole cannot be read.
        """
        entity, time, features = self._read(message.payload)
        bad = self._refused_rows(entity, time, features, message.timestamp_us)
        refused: list[Refusal] = []
        for i in np.flatnonzero(bad).tolist():
            why = self._row_error(entity[i], time[i], features[i], message.timestamp_us)
            refused.append((0, i, why, _one_row(entity[i], time[i], features[i])))
        rows = np.arange(len(bad), dtype=np.int32)
        offset = np.full(len(bad), message.offset, np.int64)
        return EventColumns(offset, rows, time, entity, features).where(~bad), refused

    def _read(self, payload: bytes) -> tuple[pa.Array, np.ndarray, np.ndarray]:
        """Columns of all batches of the stream: entity (N,), time (N,), features (N, F)."""
        limits = self._rules.limits
        if error := self._rules.size_error(payload):
            raise error
        try:
            with pa.ipc.open_stream(pa.py_buffer(payload)) as reader:
                table = pa.Table.from_batches(list(reader), reader.schema)
            table.validate(full=True)  # the bytes are a stranger's: offsets may point anywhere
        except (pa.ArrowException, OSError, ValueError) as error:
            raise EventError(UNREADABLE, clean(f"Arrow stream: {error}")) from error
        if table.num_rows > limits.events_per_message_max:
            raise EventError(
                TOO_LARGE,
                f"an Arrow message may hold {limits.events_per_message_max} events; "
                f"got {table.num_rows}",
            )
        if table.num_rows == 0:
            raise EventError(UNREADABLE, "Arrow stream: must hold at least one event; got none")
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
        self, entity: pa.Array, time: np.ndarray, features: np.ndarray, timestamp_us: int
    ) -> np.ndarray:
        length = pc.binary_length(entity).fill_null(0).to_numpy()
        latest = self._rules.latest_us(timestamp_us)
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
