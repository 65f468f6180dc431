"""Makes events malformed on purpose, each with a defect that was seen in real telemetry.

The defects take turns: the n-th malformed event gets defect n modulo their number. Each
malformed event becomes exactly one dead letter, so that tests can count them. Nothing here is
random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

JsonDefect = Callable[[bytes, str, int, list[float]], bytes]

NESTING = 200  # deep enough to hurt a recursive reader, small enough to store


def _event(entity_id: object, event_time_us: object, features: object) -> bytes:
    event = {"entity_id": entity_id, "event_time_us": event_time_us, "features": features}
    return msgspec.json.encode(event)


def _with_literal(entity_id: str, time_us: int, row: list[float], literal: bytes) -> bytes:
    """The event with its first feature written as `literal`, which no encoder would write."""
    return _event(entity_id, time_us, ["@", *row[1:]]).replace(b'"@"', literal, 1)


JSON_DEFECTS: dict[str, JsonDefect] = {
    "cut_off": lambda value, entity_id, time_us, row: value[: len(value) // 2],
    "wrong_type": lambda value, entity_id, time_us, row: _event(entity_id, "yesterday", row),
    "missing_field": lambda value, entity_id, time_us, row: msgspec.json.encode(
        {"entity_id": entity_id, "features": row}
    ),
    "feature_count": lambda value, entity_id, time_us, row: _event(entity_id, time_us, [*row, 0.5]),
    "nan": lambda value, entity_id, time_us, row: _with_literal(entity_id, time_us, row, b"NaN"),
    "infinity": lambda value, entity_id, time_us, row: _with_literal(
        entity_id, time_us, row, b"Infinity"
    ),
    "overflow": lambda value, entity_id, time_us, row: _with_literal(
        entity_id, time_us, row, b"1e999"
    ),
    "milliseconds": lambda value, entity_id, time_us, row: _event(entity_id, time_us // 1000, row),
    "empty_entity": lambda value, entity_id, time_us, row: _event("", time_us, row),
    "not_utf8": lambda value, entity_id, time_us, row: value.replace(b'":"', b'":"\xff\xfe', 1),
    "nested": lambda value, entity_id, time_us, row: b"[" * NESTING + b"]" * NESTING,
}

ROW_DEFECTS = ("null_entity", "milliseconds", "infinity")
STREAM_DEFECTS = ("cut_off", "noise", "empty", "feature_count")
# Each round consists of all row defects and one stream defect; the stream defects take turns.
ARROW_ROUND = len(ROW_DEFECTS) + 1


def malformed_json(
    value: bytes, entity_id: str, time_us: int, *, row: list[float], turn: int
) -> bytes:
    """The malformed version of one JSON event; `turn` chooses the defect."""
    defects = tuple(JSON_DEFECTS.values())
    return defects[turn % len(defects)](value, entity_id, time_us, row)


def is_unreadable(turns: NDArray[Any]) -> NDArray[Any]:
    """(N,) bool: True for events that become an unreadable message; turn -1 is well-formed."""
    unreadable: NDArray[Any] = (turns >= 0) & (turns % ARROW_ROUND == len(ROW_DEFECTS))
    return unreadable


def malformed_rows(batch: pa.RecordBatch, turns: NDArray[Any]) -> pa.RecordBatch:
    """`batch` with a defect in each row whose turn is not -1; the other rows are unchanged."""
    if not (turns >= 0).any():
        return batch
    kind = np.where(turns >= 0, turns % ARROW_ROUND, -1)
    entity, time_us, features = batch.columns
    times = time_us.to_numpy().copy()
    times[kind == ROW_DEFECTS.index("milliseconds")] //= 1000
    nameless = pa.array(kind == ROW_DEFECTS.index("null_entity"))
    width = batch.schema.field("features").type.list_size
    flat = features.flatten()
    values = flat.to_numpy(zero_copy_only=False).copy().reshape(-1, width)
    infinite = kind == ROW_DEFECTS.index("infinity")
    values[infinite, 0] = np.inf
    missing = np.isnan(values).ravel()
    changed = pa.array(values.ravel(), pa.float32(), mask=missing if missing.any() else None)
    columns = [
        pa.compute.if_else(nameless, pa.scalar(None, pa.utf8()), entity),
        pa.array(times),
        pa.FixedSizeListArray.from_arrays(changed, width),
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def malformed_stream(stream: bytes, turn: int) -> bytes:
    """The unreadable version of a stream with one event; `turn` chooses the defect."""
    defect = STREAM_DEFECTS[turn // ARROW_ROUND % len(STREAM_DEFECTS)]
    if defect == "cut_off":
        return stream[: len(stream) // 3]
    if defect == "noise":
        return bytes((turn * 31 + i * 7 + 1) % 256 for i in range(64))
    if defect == "empty":
        return b""
    return _with_extra_feature(stream)


def _with_extra_feature(stream: bytes) -> bytes:
    batch = pa.ipc.open_stream(stream).read_next_batch()
    entity, time_us, features = batch.columns
    wider = pa.array([[*features[0].as_py(), 0.5]], pa.list_(pa.float32(), len(features[0]) + 1))
    sink = pa.BufferOutputStream()
    changed = pa.RecordBatch.from_arrays([entity, time_us, wider], names=batch.schema.names)
    with pa.ipc.new_stream(sink, changed.schema) as writer:
        writer.write_batch(changed)
    data: bytes = sink.getvalue().to_pybytes()
    return data
