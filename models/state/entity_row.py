"""The row of the entity table: the state of one entity.

    head      equal for all models: clocks, counters, alert budget, alert
    vectors   float32, their length depends on the model

Compiled code reads the heads as a strided array of `HEAD` records, and the vectors as
the floats that each row consists of. Both views share memory with the rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Residuals with separate scales: that of the forecast, and that of its linear part.
RESIDUALS = 2

#: A record of a structured array. Compiled code reads and writes its fields as attributes.
Record = Any

Field = tuple[str, str, tuple[int, ...]]

#: What scoring needs besides the vectors.
SCORING_FIELDS: tuple[Field, ...] = (
    ("event_time_us", "<i8", ()),  # of the latest event
    ("clock_us", "<i8", ()),  # clock of the partition of the last event, at that event
    ("partition", "<i4", ()),  # of the last event
    ("event_count", "<u4", ()),
    ("prior_index", "<u4", ()),  # 0, or 1 + the index of the entity in the artifact
    ("statistics_weight", "<f4", ()),  # number of events that mean, var and scale stand for
    ("smoothed_fast", "<f4", ()),
    ("smoothed_slow", "<f4", ()),
)

#: The alert budget, see `models.alerts.budget`. float64, because one event of many per second
#: moves the threshold by 1e-8.
BUDGET_FIELDS: tuple[Field, ...] = (
    ("log_threshold", "<f8", ()),  # threshold on the log score
    ("credit", "<f8", ()),  # messages that may be sent
    ("budget_time_us", "<i8", ()),  # event time up to which credit is counted; 0 = no event yet
    ("quiet_until_us", "<i8", ()),  # end of the cool-down
)

#: The alert, see `models.alerts.decision`. `alert_events` is 0 while no alert is open.
ALERT_FIELDS: tuple[Field, ...] = (
    ("step_size_baseline", "<f8", ()),
    ("step_size_recent", "<f8", ()),
    ("alert_offset", "<i8", ()),  # the event that opened the alert
    ("alert_time_us", "<i8", ()),
    ("alert_partition", "<i4", ()),
    ("alert_row", "<i4", ()),
    ("alert_events", "<u4", ()),  # events since the alert opened
    ("alert_peak", "<f4", ()),  # highest score of the alert
    ("message_events", "<u4", ()),  # events since the last message
    ("message_peak", "<f4", ()),  # highest score that the last message covers
    ("calm_events_left", "<u4", ()),  # calm events until statistics learn again
    ("stationary_events", "<u4", ()),  # stationary events among those not learned from
)


def _aligned(fields: tuple[Field, ...]) -> np.dtype[Any]:
    """Return a little-endian record of `fields`, widest first, without gaps or padding.

    numpy leaves gaps undefined when it copies records, so equal rows would differ in them.
    """
    widest_first = sorted(fields, key=lambda field: -np.dtype(field[1]).itemsize)
    if odd := np.dtype(widest_first).itemsize % 8:
        widest_first.append(("unused", "u1", (8 - odd,)))
    return np.dtype(widest_first, align=True)


HEAD = _aligned((*SCORING_FIELDS, *BUDGET_FIELDS, *ALERT_FIELDS))


class Vectors(NamedTuple):
    """Where the vectors of a row begin, in floats from the beginning of the row."""

    hidden: int
    lags: int
    mean: int
    var: int
    scale: int
    season: int
    season_weight: int


def row_dtype(features: int, hidden: int, lags: int, seasons: int) -> np.dtype[Any]:
    """Return the record of one entity under a model of that shape."""
    f = features
    vectors: tuple[Field, ...] = (
        ("hidden", "<f4", (hidden,)),
        ("lags", "<f4", (lags, f)),  # standard values, latest first
        ("mean", "<f4", (f,)),
        ("var", "<f4", (f,)),
        ("scale", "<f4", (RESIDUALS, f)),  # mean square of each residual
        ("season", "<f4", (seasons, f)),  # seasonal baseline, standard values
        ("season_weight", "<f4", (seasons,)),  # number of events that it stands for
    )
    head = tuple((name, HEAD[name].str, HEAD[name].shape) for name in HEAD.names or ())
    odd = sum(int(np.prod(shape)) for _, _, shape in vectors) * 4 % 8
    padding: tuple[Field, ...] = (("unused_too", "u1", (odd,)),) if odd else ()
    return np.dtype([*head, *vectors, *padding], align=True)


def vectors_of(dtype: np.dtype[Any]) -> Vectors:
    """Return where the vectors of rows of `dtype` begin."""
    assert dtype.fields is not None
    return Vectors(*(dtype.fields[name][1] // 4 for name in Vectors._fields))


def heads(rows: NDArray[Any]) -> NDArray[Any]:
    """View `rows` (N,) as their heads (N,)."""
    return np.ndarray((len(rows),), HEAD, rows.view(np.uint8).data, 0, (rows.itemsize,))


def floats(rows: NDArray[Any]) -> NDArray[Any]:
    """View `rows` (N,) as the floats that they consist of, (N * W,) float32."""
    return rows.view(np.float32)


def as_bytes(rows: NDArray[Any]) -> NDArray[Any]:
    """View records as opaque bytes, to copy them.

    numpy copies records field by field. Copying opaque bytes is 4 to 30 times as fast.
    """
    return rows.view(_bytes(rows.itemsize))


@cache
def _bytes(size: int) -> np.dtype[Any]:
    return np.dtype((np.void, size))
