"""What is remembered of one entity: the layout of a row of the entity table.

    head      the same for every model: clocks, alerts, budget, counters
    vectors   float32, as long as the model is wide

Compiled code sees rows as a strided array of `HEAD` records, and as the floats that each
row is made of; both views share memory with the rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from streamgauge.models.alerts import policy

TERMS = 2  # residuals with a scale of their own: of the forecast, of the linear part

#: A record of an array of them; compiled code reads and writes its fields as attributes.
Record = Any

_Field = tuple[str, str, tuple[int, ...]]

#: Kept for every entity besides its alerts.
_OWN: tuple[_Field, ...] = (
    ("event_time_us", "<i8", ()),  # latest
    ("clock_us", "<i8", ()),  # of the partition of the last event, at that event
    ("partition", "<i4", ()),
    ("event_count", "<u4", ()),  # events
    ("prior_index", "<u4", ()),  # 0, or 1 + the entity's place in the artifact
    ("statistics_weight", "<f4", ()),  # events that mean, var and scale stand for
    ("smoothed_fast", "<f4", ()),
    ("smoothed_slow", "<f4", ()),
)


def _aligned(fields: tuple[_Field, ...]) -> np.dtype:
    """A little-endian record of `fields`, widest first, without bytes between or behind them.

    numpy leaves such bytes undefined when it copies records: equal rows would differ in them.
    """
    widest_first = sorted(fields, key=lambda field: -np.dtype(field[1]).itemsize)
    if odd := np.dtype(widest_first).itemsize % 8:
        widest_first.append(("unused", "u1", (8 - odd,)))
    return np.dtype(widest_first, align=True)


HEAD = _aligned((*_OWN, *policy.FIELDS))


class Vectors(NamedTuple):
    """Where a row's vectors begin, in floats from the row's beginning."""

    hidden: int
    lags: int
    mean: int
    var: int
    scale: int
    season: int
    season_weight: int


def row_dtype(features: int, hidden: int, lags: int, seasons: int) -> np.dtype:
    """The record of one entity under a model of that shape."""
    f = features
    vectors: tuple[_Field, ...] = (
        ("hidden", "<f4", (hidden,)),
        ("lags", "<f4", (lags, f)),  # standard values, latest first
        ("mean", "<f4", (f,)),
        ("var", "<f4", (f,)),
        ("scale", "<f4", (TERMS, f)),  # mean square of each residual
        ("season", "<f4", (seasons, f)),  # usual standard values
        ("season_weight", "<f4", (seasons,)),  # events they stand for
    )
    head = tuple((name, HEAD[name].str, HEAD[name].shape) for name in HEAD.names or ())
    behind = sum(int(np.prod(shape)) for _, _, shape in vectors) * 4 % 8
    padding: tuple[_Field, ...] = (("unused_too", "u1", (behind,)),) if behind else ()
    return np.dtype([*head, *vectors, *padding], align=True)


def vectors_of(dtype: np.dtype) -> Vectors:
    """Where the vectors of rows of `dtype` begin."""
    assert dtype.fields is not None
    return Vectors(*(dtype.fields[name][1] // 4 for name in Vectors._fields))


def heads(rows: np.ndarray) -> np.ndarray:
    """View `rows` (N,) as their heads (N,)."""
    return np.ndarray((len(rows),), HEAD, rows.view(np.uint8).data, 0, (rows.itemsize,))


def floats(rows: np.ndarray) -> np.ndarray:
    """View `rows` (N,) as the floats they are made of, (N * W,) float32."""
    return rows.view(np.float32)


def as_bytes(rows: np.ndarray) -> np.ndarray:
    """View records as bytes without fields, to copy them.

    numpy copies records field by field, bytes at once: 4 to 30 times as fast.
    """
    return rows.view(_bytes(rows.itemsize))


@cache
def _bytes(size: int) -> np.dtype:
    return np.dtype((np.void, size))
