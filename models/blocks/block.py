"""The block: events of one Kafka partition as columns, the unit that moves between steps.

Python code per event makes streaming ML in Python slow, so everything after decoding works on
blocks. On the wire a block is a fixed header and one Arrow record batch. The schema of the batch
is not sent; both sides derive it from the number of features.

    header: format u1 | features u2 | offset resets u2 | partition i4 |
            previous_end i8 | first_offset i8 | end_offset i8
    body:   Arrow IPC record batch (offset, row, event_time_us, entity_id, features)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamgauge.models.errors import StateFormatError

WIRE_FORMAT = 1
_HEADER = struct.Struct("<BHHiqqq")

#: Row of an erasure, which is not an event: after it the entity is a new one.
ERASURE = -1

#: `previous_end` of the first sub-block of a partition that a shard receives.
NOTHING_BEFORE = -1

#: `previous_end` of the first sub-block after an offset reset is `OFFSET_RESET - end`, where
#: `end` is the end offset of the last sub-block before the reset.
OFFSET_RESET = -2


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Events of one partition from offsets `[first_offset, end_offset)`, in offset order.

    A Kafka message may hold many events (an Arrow batch), so an event is identified by
    `(partition, offset, row)`. A block always holds whole messages.
    """

    #: Kafka partition of the telemetry topic.
    partition: int
    #: First offset that was read for this block.
    first_offset: int
    #: One past the last offset that was read for this block.
    end_offset: int
    #: Chain link: end offset of the last block of this partition sent to the same shard.
    previous_end: int
    #: (N,) int64, ascending.
    offset: NDArray[Any]
    #: (N,) int32, index of the event inside its message; 0 for one-event messages, or `ERASURE`.
    row: NDArray[Any]
    #: (N,) int64, microseconds since 1970-01-01 UTC.
    event_time_us: NDArray[Any]
    #: (N,) Arrow utf8, never null.
    entity_id: pa.StringArray
    #: (N, F) float32 in raw units, NaN where missing.
    features: NDArray[Any]
    #: How many offset resets the reader of the partition has had: offsets it needed were gone.
    offset_resets: int = 0

    def __len__(self) -> int:
        return len(self.offset)

    def entities(self) -> tuple[list[str], NDArray[Any]]:
        """Return the distinct entities, and for each event (N,) int32 the index of its entity."""
        encoded = self.entity_id.dictionary_encode()
        # `to_pylist` takes 25 times as long.
        names = encoded.dictionary.to_numpy(zero_copy_only=False).tolist()
        return names, encoded.indices.to_numpy()

    def take(self, indices: NDArray[Any], previous_end: int) -> Block:
        """Return the events at `indices` (ascending), with another chain link."""
        return Block(
            partition=self.partition,
            first_offset=self.first_offset,
            end_offset=self.end_offset,
            previous_end=previous_end,
            offset=self.offset[indices],
            row=self.row[indices],
            event_time_us=self.event_time_us[indices],
            entity_id=self.entity_id.take(pa.array(indices)),
            features=self.features[indices],
            offset_resets=self.offset_resets,
        )

    def after(self, offset: int) -> Block:
        """Return the events from `offset` on, when those before it were already processed."""
        return self.take(np.flatnonzero(self.offset >= offset), self.previous_end)


def encode_block(block: Block) -> bytes:
    """Return the wire bytes of `block`."""
    feature_count = block.features.shape[1]
    header = _HEADER.pack(
        WIRE_FORMAT,
        feature_count,
        block.offset_resets,
        block.partition,
        block.previous_end,
        block.first_offset,
        block.end_offset,
    )
    flat = pa.array(np.ascontiguousarray(block.features).reshape(-1))
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(block.offset),
            pa.array(block.row),
            pa.array(block.event_time_us),
            block.entity_id,
            pa.FixedSizeListArray.from_arrays(flat, feature_count),
        ],
        schema=_wire_schema(feature_count),
    )
    return b"".join((header, memoryview(batch.serialize())))  # one copy; `+` makes two


def decode_block(data: bytes) -> Block:
    """Read what `encode_block` wrote.

    Raises:
        StateFormatError: the bytes are of another wire format.
    """
    wire_format, feature_count, offset_resets, partition, *offsets = _HEADER.unpack_from(data)
    previous_end, first, end = offsets
    if wire_format != WIRE_FORMAT:
        raise StateFormatError(
            f"block on the wire: this build reads format {WIRE_FORMAT}; got {wire_format}. "
            "Stop the job with a savepoint taken by the build that wrote it, then upgrade"
        )
    body = pa.py_buffer(data).slice(_HEADER.size)
    batch = pa.ipc.read_record_batch(body, _wire_schema(feature_count))
    features = batch.column(4).flatten().to_numpy(zero_copy_only=True)
    return Block(
        partition=partition,
        first_offset=first,
        end_offset=end,
        previous_end=previous_end,
        offset=batch.column(0).to_numpy(),
        row=batch.column(1).to_numpy(),
        event_time_us=batch.column(2).to_numpy(),
        entity_id=batch.column(3),
        features=features.reshape(-1, feature_count),
        offset_resets=offset_resets,
    )


@lru_cache(maxsize=64)
def _wire_schema(feature_count: int) -> pa.Schema:
    return pa.schema(
        [
            ("offset", pa.int64()),
            ("row", pa.int32()),
            ("event_time_us", pa.int64()),
            ("entity_id", pa.string()),
            ("features", pa.list_(pa.float32(), feature_count)),
        ]
    )
