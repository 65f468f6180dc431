"""From Kafka messages to columns, and to dead letters what cannot be read.

Two formats, told apart by their first bytes: a JSON object with one event, or an Arrow
IPC stream with many. What an event must be:

    entity_id      text, 1 to 256 bytes of UTF-8
    event_time_us  integer, microseconds since 1970, in the years 2000 to 2099
    features       F numbers in schema order, or an object by name; null = missing

A bad event never stops a job: it becomes a dead letter that names the field, the rule
and what came. A bad row of an Arrow batch takes only itself to the dead letters.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.block import NOTHING_BEFORE, Block
from models.errors import EventError
from models.schema import Schema

ARROW_STREAM_MAGIC = b"\xff\xff\xff\xff"  # continuation marker, Arrow columnar format 1.0

EVENT_TIME_US_MIN = 946_684_800_000_000  # 2000-01-01: seconds and milliseconds fall below
EVENT_TIME_US_MAX = 4_102_444_800_000_000  # 2100-01-01: nanoseconds fall above
ENTITY_BYTES_MAX = 256

# Reasons, constant because counters and dead letters carry them.
UNREADABLE = "unreadable"
TOO_LARGE = "too_large"
BAD_ENTITY = "bad_entity_id"
BAD_TIME = "bad_event_time"
FUTURE_TIME = "future_event_time"
BAD_FEATURES = "bad_features"
MISSING_VALUE = "missing_value"


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Bounds on what a sender may send."""

    #: Largest message, bytes.
    message_bytes_max: int = 8_388_608
    #: Most events in one Arrow message.
    events_per_message_max: int = 65_536
    #: An event may be this far ahead of its message's Kafka timestamp, seconds.
    future_s_max: int = 300
    #: Longest piece of a payload kept in a dead letter, bytes.
    dead_letter_bytes_max: int = 1_024


@dataclass(frozen=True, slots=True)
class Message:
    """One Kafka message as the source read it."""

    offset: int
    #: Kafka timestamp, microseconds. The log's own clock, so a replay decides the same.
    timestamp_us: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that cannot be processed, with its origin and reason."""

    partition: int
    offset: int
    #: Index of the event in its message; -1 when the whole message is refused.
    row: int
    #: One of the constants above.
    reason: str
    #: The field, the rule and what came.
    detail: str
    #: First bytes of the message; for an Arrow row, an Arrow stream with that row alone.
    payload: bytes


class _JsonEvent(msgspec.Struct):
    entity_id: str
    event_time_us: int
    features: list[float | None] | dict[str, float | None]


@dataclass(slots=True)
class _Columns:
    """Columns under construction: arrays of whole Arrow messages, lists of JSON events."""

    offset: list[np.ndarray] = field(default_factory=list)
    row: list[np.ndarray] = field(default_factory=list)
    time: list[np.ndarray] = field(default_factory=list)
    entity: list[pa.Array] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)

    def append(
        self,
        offset: np.ndarray,
        row: np.ndarray,
        time: np.ndarray,
        entity: pa.Array,
        features: np.ndarray,
    ) -> None:
        self.offset.append(offset)
        self.row.append(row)
        self.time.append(time)
        self.entity.append(entity)
        self.features.append(features)


class Decoder:
    """Decodes the messages of a partition into one block and its dead letters."""

    def __init__(self, schema: Schema, limits: DecodeLimits | None = None) -> None:
        self._schema = schema
        self._limits = limits or DecodeLimits()
        self._json = msgspec.json.Decoder(_JsonEvent)
        self._place = {name: i for i, name in enumerate(schema.names)}

    def decode(
        self, partition: int, messages: Sequence[Message], first_offset: int, end_offset: int
    ) -> tuple[Block, list[DeadLetter]]:
        """Decode `messages`, the whole content of offsets `[first_offset, end_offset)`.

        Returns:
            The block of all well-formed events, still uncut (`previous_end` is
            `NOTHING_BEFORE`), and the dead letters in offset order.
        """
        columns = _Columns()
        dead: list[DeadLetter] = []
        run: list[Message] = []
        for message in messages:
            if message.payload[:4] == ARROW_STREAM_MAGIC:
                self._decode_json_run(partition, run, columns, dead)
                run = []
                self._decode_arrow(partition, message, columns, dead)
            else:
                run.append(message)
        self._decode_json_run(partition, run, columns, dead)
        return self._block(partition, first_offset, end_offset, columns), dead

    def _block(self, partition: int, first: int, end: int, columns: _Columns) -> Block:
        if not columns.offset:
            columns.append(
                np.empty(0, np.int64),
                np.empty(0, np.int32),
                np.empty(0, np.int64),
                pa.array([], pa.string()),
                np.empty((0, self._schema.size), np.float32),
            )
        return Block(
            partition,
            first,
            end,
            NOTHING_BEFORE,
            np.concatenate(columns.offset),
            np.concatenate(columns.row),
            np.concatenate(columns.time),
            columns.entity[0] if len(columns.entity) == 1 else pa.concat_arrays(columns.entity),
            np.concatenate(columns.features),
        )

    # JSON: one event a message. The loop is the only per-event Python on the hot path,
    # so the good way through it is straight and the checks sit in `_check_*`.

    def _decode_json_run(
        self,
        partition: int,
        run: list[Message],
        columns: _Columns,
        dead: list[DeadLetter],
    ) -> None:
        if not run:
            return
        decode, size = self._json.decode, self._schema.size
        bytes_max, future_us = self._limits.message_bytes_max, self._limits.future_s_max * 1_000_000
        offsets, times, entities, flat = array("q"), array("q"), [], array("f")
        for message in run:
            payload = message.payload
            try:
                if len(payload) > bytes_max:
                    raise EventError(
                        TOO_LARGE, f"a message may have {bytes_max} bytes; got {len(payload)}"
                    )
                event = decode(payload)
                time_us = event.event_time_us
                if not (
                    EVENT_TIME_US_MIN <= time_us < EVENT_TIME_US_MAX
                    and time_us <= message.timestamp_us + future_us
                ):
                    raise _time_error(time_us, message.timestamp_us, self._limits)
                if not 1 <= len(event.entity_id.encode()) <= ENTITY_BYTES_MAX:
                    raise _entity_error(event.entity_id)
                given = event.features
                if type(given) is list and len(given) == size:
                    try:
                        flat.fromlist(given)  # type: ignore[arg-type]
                    except TypeError:  # a null; nothing was added
                        flat.fromlist(self._arrange(given))
                else:
                    flat.fromlist(self._arrange(given))
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                dead.append(
                    self._refuse(partition, message, EventError(UNREADABLE, _clean(str(error))))
                )
            except EventError as error:
                dead.append(self._refuse(partition, message, error))
            else:
                offsets.append(message.offset)
                times.append(time_us)
                entities.append(event.entity_id)
        if not entities:
            return
        features = np.frombuffer(flat, np.float32).reshape(-1, size)
        offset, time = np.frombuffer(offsets, np.int64), np.frombuffer(times, np.int64)
        entity = pa.array(entities, pa.string())
        row = np.zeros(len(offset), np.int32)
        refused = self._refused_values(features)
        if refused.any():
            by_offset = {message.offset: message for message in run}
            for i in np.flatnonzero(refused).tolist():
                why = self._value_error(features[i])
                dead.append(self._refuse(partition, by_offset[int(offset[i])], why))
            dead.sort(key=lambda letter: letter.offset)
            kept = np.flatnonzero(~refused)
            columns.append(
                offset[kept],
                row[kept],
                time[kept],
                entity.take(pa.array(kept)),
                features[kept],
            )
        else:
            columns.append(offset, row, time, entity, features)

    def _arrange(self, values: list[float | None] | dict[str, float | None]) -> list[float]:
        """Features in schema order with NaN for missing; unknown names are ignored."""
        size, nan = self._schema.size, float("nan")
        if isinstance(values, dict):
            known = self._place.keys() & values.keys()
            if not known:
                raise EventError(
                    BAD_FEATURES,
                    f"features must name at least one of the model's {size} features; "
                    f"got {sorted(values)[:5]}",
                )
            arranged = [nan] * size
            for name in known:
                value = values[name]
                arranged[self._place[name]] = nan if value is None else value
            return arranged
        if len(values) != size:
            raise EventError(BAD_FEATURES, f"features must be {size} numbers; got {len(values)}")
        return [nan if value is None else value for value in values]

    def _refused_values(self, features: np.ndarray) -> np.ndarray:
        """(N,) bool: events with a value float32 cannot hold, or missing ones under "refuse"."""
        missing = np.isnan(features)
        refused = np.isinf(features).any(axis=1)
        if self._schema.missing == "refuse":
            refused |= missing.any(axis=1)
        else:
            refused |= missing.all(axis=1)
        return refused

    def _value_error(self, features: np.ndarray) -> EventError:
        """Why `_refused_values` refused this event, features (F,)."""
        names = self._schema.names
        huge = np.flatnonzero(np.isinf(features))
        if len(huge):
            i = int(huge[0])
            return EventError(
                BAD_FEATURES,
                f"features: {names[i]!r} must be finite and within float32; got {features[i]}",
            )
        if self._schema.missing == "allow":
            return EventError(MISSING_VALUE, "features: at least one value must be present")
        i = int(np.flatnonzero(np.isnan(features))[0])
        return EventError(MISSING_VALUE, f"features: {names[i]!r} must be present; it is missing")

    def _refuse(self, partition: int, message: Message, error: EventError) -> DeadLetter:
        prefix = message.payload[: self._limits.dead_letter_bytes_max]
        return DeadLetter(partition, message.offset, -1, error.reason, error.detail, prefix)

    # Arrow: many events a message, checked as columns.

    def _decode_arrow(
        self, partition: int, message: Message, columns: _Columns, dead: list[DeadLetter]
    ) -> None:
        try:
            table = self._read_arrow(message.payload)
        except EventError as error:
            dead.append(self._refuse(partition, message, error))
            return
        entity, time, features = table
        bad = self._refused_rows(entity, time, features, message.timestamp_us)
        for i in np.flatnonzero(bad).tolist():
            why = self._row_error(entity[i], time[i], features[i], message.timestamp_us)
            payload = _one_row(entity[i], time[i], features[i])
            payload = payload[: self._limits.dead_letter_bytes_max]
            dead.append(DeadLetter(partition, message.offset, i, why.reason, why.detail, payload))
        kept = np.flatnonzero(~bad)
        if not len(kept):
            return
        if len(kept) < len(bad):
            entity, time, features = entity.take(pa.array(kept)), time[kept], features[kept]
        offset = np.full(len(kept), message.offset, np.int64)
        columns.append(offset, kept.astype(np.int32), time, entity, features)

    def _read_arrow(self, payload: bytes) -> tuple[pa.Array, np.ndarray, np.ndarray]:
        """Columns of all batches of the stream: entity (N,), time (N,), features (N, F)."""
        limits = self._limits
        if len(payload) > limits.message_bytes_max:
            raise EventError(
                TOO_LARGE,
                f"a message may have {limits.message_bytes_max} bytes; got {len(payload)}",
            )
        try:
            with pa.ipc.open_stream(pa.py_buffer(payload)) as reader:
                table = pa.Table.from_batches(list(reader), reader.schema)
            table.validate(full=True)  # the bytes are a stranger's: offsets may point anywhere
        except (pa.ArrowException, OSError, ValueError) as error:
            raise EventError(UNREADABLE, _clean(f"Arrow stream: {error}")) from error
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
        size, names = self._schema.size, self._schema.names
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
                matrix[:, self._place[name]] = values
        return matrix

    def _refused_rows(
        self, entity: pa.Array, time: np.ndarray, features: np.ndarray, timestamp_us: int
    ) -> np.ndarray:
        length = pc.binary_length(entity).fill_null(0).to_numpy()
        latest = timestamp_us + self._limits.future_s_max * 1_000_000
        bad = (length < 1) | (length > ENTITY_BYTES_MAX)
        bad |= (time < EVENT_TIME_US_MIN) | (time >= EVENT_TIME_US_MAX) | (time > latest)
        return bad | self._refused_values(features)

    def _row_error(
        self, entity: pa.Scalar, time: np.int64, features: np.ndarray, timestamp_us: int
    ) -> EventError:
        """Why `_refused_rows` refused this row; the first fault found."""
        name = entity.as_py()
        if name is None or not 1 <= len(name.encode()) <= ENTITY_BYTES_MAX:
            return _entity_error(name)
        latest = timestamp_us + self._limits.future_s_max * 1_000_000
        if not EVENT_TIME_US_MIN <= time < EVENT_TIME_US_MAX or time > latest:
            return _time_error(int(time), timestamp_us, self._limits)
        return self._value_error(features)


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


def _time_error(time_us: int, timestamp_us: int, limits: DecodeLimits) -> EventError:
    if not EVENT_TIME_US_MIN <= time_us < EVENT_TIME_US_MAX:
        return EventError(
            BAD_TIME,
            f"event_time_us must be microseconds in the years 2000 to 2099; got {time_us}",
        )
    ahead_s = (time_us - timestamp_us) / 1e6
    return EventError(
        FUTURE_TIME,
        f"event_time_us may be {limits.future_s_max} s ahead of the Kafka timestamp; "
        f"it is {ahead_s:.0f} s ahead",
    )


def _entity_error(entity_id: str | None) -> EventError:
    got = "null" if entity_id is None else f"{len(entity_id.encode())} bytes"
    return EventError(BAD_ENTITY, f"entity_id must have 1 to {ENTITY_BYTES_MAX} bytes; got {got}")


def _clean(text: str) -> str:
    """Bounded and printable: a stranger's bytes may be quoted in a library's message."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]
