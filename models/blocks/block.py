"""The block: events of one Kafka partition as columns, the unit that moves between steps.

Python per event is what makes streaming ML in Python slow; everything downstream of
decoding works on blocks. On the wire a block is a fixed header and one Arrow record
batch without its schema, which both sides derive from the number of features.

    header: format u1 | features u2 | jumps u2 | partition i4 |
            previous_end i8 | first i8 | end i8
    body:   Arrow IPC record batch (offset, row, event_time_us, entity_id, features)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from streamgauge.models.errors import StateFormatError

WIRE_FORMAT = 1
_HEADER = struct.Struct("<BHHiqqq")

#: Row of what is no event but an erasure: from here on the entity is one never seen.
ERASURE = -1

#: Link of a sub-block before which its shard was sent nothing of this partition.
NOTHING_BEFORE = -1

#: Link of the first sub-block behind a jump: `JUMPED - end` of the last one before the jump.
JUMPED = -2


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Events of one partition from offsets `[first_offset, end_offset)`, in offset order.

    A Kafka message may hold many events (an Arrow batch), so an event is named by
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
    offset: np.ndarray
    #: (N,) int32, index of the event inside its message; 0 for one-event messages, or `ERASURE`.
    row: np.ndarray
    #: (N,) int64, microseconds since 1970-01-01 UTC.
    event_time_us: np.ndarray
    #: (N,) Arrow utf8, never null.
    entity_id: pa.StringArray
    #: (N, F) float32 in raw units, NaN where missing.
    features: np.ndarray
    #: How often the partition's reader has had to jump over offsets that were gone.
    offset_resets: int = 0

    def __len__(self) -> int:
        return len(self.offset)

    def entities(self) -> tuple[list[str], np.ndarray]:
        """The distinct entities, and for each event (N,) int32 its place among them."""
        encoded = self.entity_id.dictionary_encode()
        # `to_pylist` takes 25 times as long.
        names = encoded.dictionary.to_numpy(zero_copy_only=False).tolist()
        return names, encoded.indices.to_numpy()

    def take(self, indices: np.ndarray, previous_end: int) -> Block:
        """The events at `indices` (ascending), under another chain link."""
        return Block(
            self.partition,
            self.first_offset,
            self.end_offset,
            previous_end,
            self.offset[indices],
            self.row[indices],
            self.event_time_us[indices],
            self.entity_id.take(pa.array(indices)),
            self.features[indices],
            self.offset_resets,
        )

    def after(self, offset: int) -> Block:
        """The events at or past `offset`, when the ones before it were already processed."""
        kept = np.flatnonzero(self.offset >= offset)
        return self.take(kept, self.previous_end)


def encode_block(block: Block) -> bytes:
    """The wire bytes of `block`."""
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
    return b"".join((header, memoryview(batch.serialize())))  # one copy instead of two


def decode_block(data: bytes) -> Block:
    """Read what `encode_block` wrote.

    Raises:
        StateFormatError: the bytes are of another wire format.
    """
    wire_format, feature_count, offset_resets, partition, *place = _HEADER.unpack_from(data)
    previous_end, first, end = place
    if wire_format != WIRE_FORMAT:
        raise StateFormatError(
            f"block on the wire: this build reads format {WIRE_FORMAT}; got {wire_format}. "
            "Stop the job with a savepoint taken by the build that wrote it, then upgrade"
        )
    body = pa.py_buffer(data).slice(_HEADER.size)
    batch = pa.ipc.read_record_batch(body, _wire_schema(feature_count))
    features = batch.column(4).flatten().to_numpy(zero_copy_only=True)
    return Block(
        partition,
        first,
        end,
        previous_end,
        batch.column(0).to_numpy(),
        batch.column(1).to_numpy(),
        batch.column(2).to_numpy(),
        batch.column(3),
        features.reshape(-1, feature_count),
        offset_resets,
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
