"""Reads telemetry from a frame of pandas, polars or pyarrow, and gives scores back as its kind.

Frames are read through the Arrow PyCapsule protocol (`__arrow_c_stream__`), which pandas from
2.2 on, polars and pyarrow speak. So this module imports neither pandas nor polars.
"""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamgauge.models.errors import ConfigError
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.schema import Schema
from streamgauge.models.events.validation import (
    EVENT_TIME_US_MAX,
    EventRules,
    entity_error,
    has_entity_size,
    is_event_time,
)

ENTITY = "entity_id"
#: Names that the column of event times may have.
TIMES = ("event_time", "event_time_us")
NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True, eq=False)
class FrameEvents:
    """The events of a frame, in the order of its rows; arrays are (N,)."""

    #: Arrow utf8, never null.
    entity_id: pa.StringArray
    #: int64, microseconds since 1970.
    event_time_us: NDArray[Any]
    #: (N, F) float32 in the artifact's order, NaN where missing.
    features: NDArray[Any]
    #: The column of times as it came, and its name.
    time: pa.ChunkedArray
    time_name: str

    def __len__(self) -> int:
        return len(self.event_time_us)


def read_frame(frame: Any, schema: Schema) -> FrameEvents:
    """Return the events of `frame`; columns that are no features of `schema` are left out.

    Args:
        frame: has `__arrow_c_stream__`, with columns `entity_id`, `event_time` (or
            `event_time_us`) and one per feature.
        schema: features of the artifact.

    Raises:
        ConfigError: a column is missing, repeated or of a wrong type, or a row breaks a rule for
            events (docs/messages.md).
    """
    table = _table(frame)
    names = _columns(table, schema)
    entity_id = _text(table.column(ENTITY))
    time_name = names[0]
    time_us = _microseconds(table.column(time_name), time_name)
    features = np.empty((table.num_rows, schema.size), np.float32)
    for i, name in enumerate(schema.names):
        features[:, i] = _numbers(table.column(name), name)
    _check_rows(entity_id, time_us, features, schema)
    return FrameEvents(
        entity_id=entity_id,
        event_time_us=time_us.to_numpy(),
        features=features,
        time=table.column(time_name),
        time_name=time_name,
    )


def as_kind_of(frame: Any, table: pa.Table) -> Any:
    """Return `table` as a frame of pandas or polars if `frame` is one, with its index."""
    library = type(frame).__module__.partition(".")[0]
    if library == "pandas":
        converted = table.to_pandas()
        converted.index = frame.index
        return converted
    return type(frame)(table) if library == "polars" else table


def _table(frame: Any) -> pa.Table:
    if not hasattr(frame, "__arrow_c_stream__"):
        raise ConfigError(
            "frame: must be a frame of pandas 2.2 or later, of polars or of pyarrow (with "
            f"__arrow_c_stream__); got {type(frame).__module__}.{type(frame).__qualname__}"
        )
    try:
        return pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"frame: must be readable as an Arrow table; {text}") from error


def _columns(table: pa.Table, schema: Schema) -> list[str]:
    """Check that each column that is needed is there once; the first is that of the times."""
    columns = table.column_names
    times = [name for name in TIMES if name in columns and name not in schema.names]
    if len(times) != 1:
        came = " and ".join(map(repr, times)) or _shown(columns)
        raise ConfigError(f"frame: needs one column of times, {' or '.join(TIMES)}; got {came}")
    needed = [times[0], ENTITY, *schema.names]
    missing = [name for name in needed if name not in columns]
    if missing:
        unused = [name for name in columns if name not in needed]
        close = difflib.get_close_matches(missing[0], unused, 1)
        meant = f"; did you mean its column {close[0]!r}?" if close else ""
        raise ConfigError(
            f"frame: needs the columns entity_id, {times[0]} and {schema.size} features; "
            f"{_shown(missing)} missing, it has {_shown(columns)}{meant}"
        )
    counts = Counter(columns)
    repeated = [name for name in needed if counts[name] > 1]
    if repeated:
        raise ConfigError(
            f"frame: each column must be there once; {repeated[0]!r} is there "
            f"{counts[repeated[0]]} times"
        )
    return needed


def _shown(names: list[str]) -> str:
    first = ", ".join(map(repr, names[:NAMES_SHOWN])) or "none"
    return first + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")


def _text(column: pa.ChunkedArray) -> pa.StringArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    ):
        raise ConfigError(f"frame: column {ENTITY!r} must be text; got {kind}")
    try:
        text = column.cast(pa.string()).combine_chunks()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        # This release of Arrow cannot cast every kind of text, for instance a view.
        text = pa.array(column.to_pylist(), pa.string())
    return text if isinstance(text, pa.Array) else pa.concat_arrays(text.chunks)


def _microseconds(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Times as int64 microseconds, null where missing; a time without a zone is UTC."""
    kind = column.type
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        # Fractions of a microsecond are dropped.
        unit = pa.timestamp("us", column.type.tz)
        return _cast(column, unit, name, safe=False).cast(pa.int64())
    if pa.types.is_integer(kind):
        return _cast(column, pa.int64(), name, safe=True)
    raise ConfigError(
        f"frame: column {name!r} must be a time (timestamp), or integer microseconds since 1970; "
        f"got {kind}"
    )


def _numbers(column: pa.ChunkedArray, name: str) -> NDArray[Any]:
    """A column of numbers as (N,) float32, NaN where null, infinite where too large."""
    kind = column.type
    is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
    is_number |= pa.types.is_boolean(kind) or pa.types.is_decimal(kind)
    if not (is_number or pa.types.is_null(kind)):
        raise ConfigError(f"frame: column {name!r} must be numbers; got {kind}")
    # Unsafe: an integer beyond 2^53 is rounded as every number is.
    numbers = _cast(column, pa.float64(), name, safe=False).to_numpy()
    with np.errstate(over="ignore"):
        values: NDArray[Any] = numbers.astype(np.float32)
    return values


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, *, safe: bool) -> pa.ChunkedArray:
    try:
        return column.cast(kind, safe=safe)
    except pa.ArrowException as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"frame: column {name!r} must be readable as {kind}; {text}") from error


def _check_rows(
    entity_id: pa.StringArray, time_us: pa.ChunkedArray, features: NDArray[Any], schema: Schema
) -> None:
    """Refuse a frame with a row that the live job would set aside, and name the first one."""
    rules = EventRules(schema, DecodeLimits())
    size = pc.binary_length(entity_id).fill_null(0).to_numpy(zero_copy_only=False)
    moments = time_us.fill_null(-1).to_numpy()
    bad_entity = ~has_entity_size(size)
    bad_time = ~is_event_time(moments, EVENT_TIME_US_MAX)
    bad = np.flatnonzero(bad_entity | bad_time | rules.refused_values(features))
    if not len(bad):
        return
    row = int(bad[0])
    if bad_entity[row]:
        detail = entity_error(entity_id[row].as_py()).detail
    elif time_us[row].as_py() is None:
        detail = "the event time must be present; it is missing"
    elif bad_time[row]:
        detail = rules.time_error(int(moments[row]), EVENT_TIME_US_MAX).detail
    else:
        detail = rules.value_error(features[row]).detail
    more = f" ({len(bad)} rows of {len(features)} break a rule)" if len(bad) > 1 else ""
    raise ConfigError(f"frame: row {row}: {detail}{more}")
