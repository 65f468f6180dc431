"""Telemetry of one entity as arrays, for training, evaluation and the demo, and its blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamgauge.models.blocks.block import NOTHING_BEFORE, Block

BLOCK_EVENTS = 4_096


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Events of one entity in time order."""

    entity_id: str
    #: (T,) int64, microseconds since 1970-01-01 UTC, ascending.
    event_time_us: NDArray[Any]
    #: (T, F) float32 in raw units, NaN where missing.
    values: NDArray[Any]
    #: (T,) uint8, 1 = anomalous; None without labels. Never read before scoring.
    labels: NDArray[Any] | None = None


def series_blocks(
    series: Sequence[Series], order: NDArray[Any], row: NDArray[Any]
) -> Iterator[Block]:
    """The events of `series` as blocks, as if they lay on partition 0, one offset per event.

    Args:
        series: the events, numbered from 0 to N - 1 through all series one after the other.
        order: (N,) the numbers of the events in log order.
        row: (N,) the `Block.row` of each event, in log order. No score depends on it.
    """
    values = np.concatenate([entity.values for entity in series]).astype(np.float32, copy=False)
    time_us = np.concatenate([entity.event_time_us for entity in series])
    owner = np.repeat(np.arange(len(series)), [len(entity.event_time_us) for entity in series])
    names = pa.array([entity.entity_id for entity in series], pa.string())
    for first in range(0, len(order), BLOCK_EVENTS):
        events = order[first : first + BLOCK_EVENTS]
        end = first + len(events)
        yield Block(
            partition=0,
            first_offset=first,
            end_offset=end,
            previous_end=NOTHING_BEFORE,
            offset=np.arange(first, end, dtype=np.int64),
            row=row[first:end].astype(np.int32),
            event_time_us=time_us[events],
            entity_id=names.take(pa.array(owner[events])),
            features=values[events],
        )
