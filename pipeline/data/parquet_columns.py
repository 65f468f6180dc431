"""Decides what each column of a Parquet file is: a feature, the time, the label, or an index.

label                        a column with this name (1 = anomalous)
time                         a column of a timestamp or date type, or one named `event_time_us`,
                             `timestamp`, `time` or `datetime`
index of a data frame        named so by the `pandas` metadata of the file, or by pandas itself
                             (`__index_level_0__`); read only if it is the time
feature                      every other column; it must hold numbers
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamgauge.models.errors import ConfigError
from streamgauge.models.events.validation import EVENT_TIME_US_MAX, EVENT_TIME_US_MIN

LABEL_COLUMN = "label"
TIME_NAMES = ("event_time_us", "timestamp", "time", "datetime")
_INDEX_NAME = re.compile(r"__index_level_\d+__")  # pandas gives it to an index without a name
#: What pyarrow raises for bytes that are no Parquet, and for types that it cannot read.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError)
#: Microseconds per unit of a number that is a time. In the years 2000 to 2099 no number is a time
#: in two of them.
_UNITS = {"seconds": 1e6, "milliseconds": 1e3, "microseconds": 1.0, "nanoseconds": 1e-3}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a file by what they are."""

    features: tuple[str, ...]
    #: None if the rows have no time.
    time: str | None
    has_label: bool


def read_table(path: Path) -> pa.Table:
    """Read a file whose columns have different names.

    Raises:
        ConfigError: it is no Parquet file, has no rows, or a name occurs twice.
    """
    try:
        table = pq.ParquetFile(path).read()
        names = table.column_names
    except _UNREADABLE as error:
        raise ConfigError(f"data: {path} must be a Parquet file; {error}") from error
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"data: {path}: column {repeated[0]!r} must occur once; "
            f"it occurs {names.count(repeated[0])} times"
        )
    if not table.num_rows:
        raise ConfigError(f"data: {path} must hold at least one row; it has none")
    return table


def columns_of(path: Path, table: pa.Table) -> Columns:
    """Find out which column is a feature, the time, the label or an index.

    Raises:
        ConfigError: two columns are times, or no column is a feature.
    """
    index = _index_names(table)
    times = [
        field.name for field in table.schema if _is_moment(field.type) or field.name in TIME_NAMES
    ]
    if len(times) > 1:
        raise ConfigError(
            f"data: {path} must have one column of times; got {' and '.join(map(repr, times))}. "
            "Drop or rename the others"
        )
    others = {*index, *times, LABEL_COLUMN}
    features = tuple(name for name in table.column_names if name not in others)
    if not features:
        raise ConfigError(f"data: {path} must have a column of numbers; got {table.column_names}")
    return Columns(features, times[0] if times else None, LABEL_COLUMN in table.column_names)


def _is_moment(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _index_names(table: pa.Table) -> set[str]:
    """The columns that were the index of a data frame."""
    named = {name for name in table.column_names if _INDEX_NAME.fullmatch(name)}
    try:
        pandas = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
        index = pandas.get("index_columns", [])
        named |= {name for name in index if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError):
        pass  # metadata of another program; the names of the columns remain
    return named


def feature_values(path: Path, table: pa.Table, names: tuple[str, ...]) -> NDArray[Any]:
    """The features, (T, F) float64, NaN where missing.

    Raises:
        ConfigError: a column does not hold numbers.
    """
    values = np.empty((table.num_rows, len(names)), np.float64)
    for column, name in enumerate(names):
        kind = table.schema.field(name).type
        is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        if not (is_number or pa.types.is_decimal(kind) or pa.types.is_null(kind)):
            raise ConfigError(f"data: {path}: column {name!r} must hold numbers; it is {kind}")
        # Not the checked cast: it refuses integers past 2^53, which are rounded to float32 anyway.
        values[:, column] = table[name].cast(pa.float64(), safe=False).to_numpy()
    return values


def label_values(path: Path, table: pa.Table) -> NDArray[Any]:
    """The labels, (T,) uint8.

    Raises:
        ConfigError: a label is neither 0 nor 1.
    """
    column = table[LABEL_COLUMN]
    kind = column.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ConfigError(f"data: {path}: label must be 0 or 1; it is {kind}")
    labels = column.cast(pa.float64(), safe=False).to_numpy()
    if not np.isin(labels, (0, 1)).all():
        raise ConfigError(f"data: {path}: label must be 0 or 1; got {np.unique(labels)[:5]}")
    flags: NDArray[Any] = labels.astype(np.uint8)
    return flags


def time_values(path: Path, table: pa.Table, name: str) -> NDArray[Any]:
    """The times of the rows, (T,) int64 microseconds since 1970 UTC, in the order of the file.

    A time stamp or text without an offset is UTC. The unit of a number follows from its size.

    Raises:
        ConfigError: a row has no time, or one outside the years 2000 to 2099.
    """
    column = table[name]
    where = f"data: {path}: column {name!r}"
    if column.null_count:
        row = column.combine_chunks().is_null().index(True).as_py()
        raise ConfigError(f"{where} must have a time in every row; row {row} is null")
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.combine_chunks().dictionary_decode()
        kind = column.type
    if _is_moment(kind):
        times = column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False)
        times_us = times.cast(pa.int64()).to_numpy()
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        times_us = _from_numbers(where, column.to_numpy())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        times_us = _from_texts(where, column.to_pylist())
    else:
        raise ConfigError(f"{where} must hold times; it is {kind}. Rename it if it is a feature")
    outside = (times_us < EVENT_TIME_US_MIN) | (times_us >= EVENT_TIME_US_MAX)
    if outside.any():
        row = int(np.argmax(outside))
        raise ConfigError(
            f"{where} must be in the years 2000 to 2099; row {row} is {times_us[row]} microseconds"
        )
    return np.asarray(times_us, np.int64)


def _from_numbers(where: str, numbers: NDArray[Any]) -> NDArray[Any]:
    for per_unit in _UNITS.values():
        times_us = numbers * per_unit
        if ((times_us >= EVENT_TIME_US_MIN) & (times_us < EVENT_TIME_US_MAX)).all():
            break
    else:
        raise ConfigError(
            f"{where} must be {', '.join(_UNITS)} since 1970, in the years 2000 to 2099; "
            f"got {numbers.min()} to {numbers.max()}. Rename it if it is a feature"
        )
    if np.issubdtype(numbers.dtype, np.integer):
        exact = numbers.astype(np.int64)
        return exact // 1_000 if per_unit < 1 else exact * int(per_unit)
    return np.round(numbers.astype(np.float64) * per_unit).astype(np.int64)


def _from_texts(where: str, texts: list[str]) -> NDArray[Any]:
    times = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts):
        try:
            times[row] = time_us(text)
        except ValueError as error:
            raise ConfigError(f"{where}: row {row}: {error}") from None
    return times


def time_us(text: str) -> int:
    """Microseconds of an ISO 8601 time; without an offset it is UTC.

    >>> time_us("2024-01-01 00:00:01"), time_us("2024-01-01T02:00:01+02:00")
    (1704067201000000, 1704067201000000)

    Raises:
        ValueError: it is no such time.
    """
    moment = datetime.fromisoformat(text.strip())
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)
