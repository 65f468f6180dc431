"""Turns series of a data set into blocks, as if their events lay on one partition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamgauge.models.blocks.block import NOTHING_BEFORE, Block
from streamgauge.models.events.series import Series

BLOCK_EVENTS = 4_096


def series_blocks(
    series: Sequence[Series], order: NDArray[Any], row: NDArray[Any]
) -> Iterator[Block]:
    """The events of `series` as blocks of partition 0, one offset per event.

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
