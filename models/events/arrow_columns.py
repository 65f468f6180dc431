"""Reads the columns of Arrow telemetry, in the types that Arrow libraries write.

What a cast keeps is taken; a value that a cast would change makes its row a dead letter, and
another type makes the message one. Numbers are rounded to float32, as those of JSON are.
"""

from __future__ import annotations

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
    clean,
)

ENTITY, TIME, FEATURES = "entity_id", "event_time_us", "features"

#: What stands for a null time and for one that is no whole number: both lie outside the years.
NO_TIME = -1
#: Integers up to here are exact in float64.
EXACT_INTEGER_MAX = 1 << 53
_US_PER_UNIT = {"s": 1_000_000, "ms": 1_000}


def wanted_fields(schema: pa.Schema, names: tuple[str, ...]) -> list[int]:
    """The positions of the columns that events are made of; the others are not unpacked.

    Args:
        schema: of the message.
        names: of the features.

    Raises:
        EventError: a column is missing, or its name occurs twice.
    """
    came = schema.names
    for name, reason in ((ENTITY, BAD_ENTITY), (TIME, BAD_TIME)):
        if name not in came:
            raise EventError(reason, f"needs a column {name!r}; got {listed(came)}")
    wanted = {ENTITY, TIME}
    wanted |= {FEATURES} if FEATURES in came else set(names)
    fields = [i for i, name in enumerate(came) if name in wanted]
    if len(fields) > len({came[i] for i in fields}):
        name = next(came[i] for i in fields if came.count(came[i]) > 1)
        raise EventError(
            UNREADABLE,
            f"column {clean(name)!r} must occur once; it occurs {came.count(name)} times",
        )
    if len(fields) == 2:
        raise EventError(
            BAD_FEATURES,
            f"needs a column {FEATURES!r} or columns by feature name; got {listed(came)}",
        )
    return fields


def listed(names: list[str]) -> str:
    """The first names, short enough for a detail."""
    return clean(str([name[:32] for name in names[:8]]))


def entity_ids(column: pa.Array, unpacked_bytes_max: int) -> pa.Array:
    """Entity ids as utf8, from a text of any layout or a dictionary of texts.

    A dictionary or a view can repeat one long text in every row, so the length of the result is
    computed before it is made.
    """
    if pa.types.is_string(column.type):
        return column
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    if not _is_text(texts.type):
        raise EventError(
            BAD_ENTITY, f"column {ENTITY!r} must be utf8; got {clean(str(column.type))}"
        )
    size = _text_bytes(texts)
    if texts is not column:
        rows = pc.drop_null(column.indices).to_numpy(zero_copy_only=False)
        size = size[rows.astype(np.int64)]
    if size.sum() > unpacked_bytes_max:
        raise EventError(
            TOO_LARGE,
            f"column {ENTITY!r} may unfold to {unpacked_bytes_max} bytes; got {size.sum()}",
        )
    ids = texts.cast(pa.string())
    return ids if texts is column else ids.take(column.indices)


def _is_text(kind: pa.DataType) -> bool:
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_text(kind) for is_text in texts)


def _text_bytes(texts: pa.Array) -> NDArray[Any]:
    """The number of bytes of each text, (N,) int64; 0 for null."""
    if not pa.types.is_string_view(texts.type):
        lengths = pc.binary_length(texts).fill_null(0).to_numpy(zero_copy_only=False)
        return np.asarray(lengths, np.int64)
    # A view of 16 bytes begins with its length; pyarrow 18 has no function for it.
    views = np.frombuffer(texts.buffers()[1], np.int32)[4 * texts.offset :: 4][: len(texts)]
    return np.where(texts.is_null().to_numpy(zero_copy_only=False), 0, views).astype(np.int64)


def event_times(column: pa.Array) -> NDArray[Any]:
    """Times in microseconds, (N,) int64: from whole numbers, or from time stamps of any unit.

    A time stamp without a zone is UTC. Digits below a microsecond are cut off.
    """
    kind = column.type
    times: NDArray[Any]
    if pa.types.is_int64(kind):
        times = column.fill_null(NO_TIME).to_numpy()
        return times
    if pa.types.is_timestamp(kind):
        ticks: NDArray[Any] = column.cast(pa.int64()).fill_null(NO_TIME).to_numpy()
        if kind.unit == "ns":
            return ticks // 1_000
        factor = _US_PER_UNIT.get(kind.unit, 1)
        largest = np.iinfo(np.int64).max // factor
        times = np.clip(ticks, -largest, largest) * factor
        return np.where(ticks == NO_TIME, NO_TIME, times)
    if pa.types.is_integer(kind):
        ticks = column.fill_null(0).to_numpy(zero_copy_only=False)
        times = np.minimum(ticks, np.iinfo(np.int64).max).astype(np.int64)
        return np.where(column.is_null().to_numpy(zero_copy_only=False), NO_TIME, times)
    if pa.types.is_floating(kind):
        numbers = column.cast(pa.float64()).fill_null(NO_TIME).to_numpy()
        is_whole = (np.abs(numbers) <= EXACT_INTEGER_MAX) & (numbers == np.floor(numbers))
        return np.where(is_whole, numbers, NO_TIME).astype(np.int64)
    raise EventError(
        BAD_TIME, f"column {TIME!r} must be int64 or a timestamp; got {clean(str(column.type))}"
    )


def no_times(column: pa.Array, time_us: NDArray[Any]) -> dict[int, str]:
    """By row, what came where `event_times` found no whole number: "null", or a fraction."""
    rows = np.flatnonzero(time_us == NO_TIME).tolist()
    if pa.types.is_floating(column.type):
        return {row: str(column[row].as_py() or "null") for row in rows}
    return {row: "null" for row in rows if not column[row].is_valid}


def feature_lists(column: pa.Array, size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features from a column of lists of numbers.

    Returns:
        (N, F) float32, NaN where missing; and the length of each list, (N,), -1 for null. A row
        whose list does not have F numbers is NaN.
    """
    kind = column.type
    is_fixed = pa.types.is_fixed_size_list(kind)
    is_list = is_fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not _is_number(kind.value_type) or (is_fixed and kind.list_size != size):
        raise EventError(
            BAD_FEATURES,
            f"column {FEATURES!r} must be lists of {size} numbers; got {clean(str(kind))}",
        )
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
    fits = lengths == size
    if fits.all():
        return as_float32(column.flatten()).reshape(-1, size), lengths
    features = np.full((len(column), size), np.nan, np.float32)
    features[fits] = as_float32(column.filter(pa.array(fits)).flatten()).reshape(-1, size)
    return features, lengths


def feature_column(column: pa.Array, name: str) -> NDArray[Any]:
    """One feature from a column of numbers, (N,) float32, NaN where missing."""
    kind = column.type
    if pa.types.is_dictionary(kind) and _is_number(kind.value_type):
        column = column.dictionary_decode()
    elif not _is_number(kind):
        raise EventError(
            BAD_FEATURES, f"column {clean(name)!r} must be a number; got {clean(str(kind))}"
        )
    return as_float32(column)


def _is_number(kind: pa.DataType) -> bool:
    """Whether a type holds numbers; a column of nothing but null has a type of its own."""
    types = pa.types
    numbers = (types.is_floating, types.is_integer, types.is_decimal, types.is_null)
    return any(is_number(kind) for is_number in numbers)


def as_float32(numbers: pa.Array) -> NDArray[Any]:
    """Numbers rounded to float32, (N,), NaN where null; infinite past its range."""
    if pa.types.is_float32(numbers.type):
        exact: NDArray[Any] = numbers.fill_null(np.nan).to_numpy()
        return exact
    # Not the checked cast: it refuses integers past 2^53, which JSON rounds as well.
    wide: NDArray[Any] = numbers.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
    with np.errstate(over="ignore"):  # infinities are refused with the other values
        return wide.astype(np.float32)
