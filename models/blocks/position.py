"""The position of a partition's reader: next offset, chain ends and offset resets, as bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.blocks.block import OFFSET_RESET
from streamgauge.models.errors import StateFormatError

POSITION_FORMAT = 1
TOPIC_ID_BYTES = 16
#: The identity of a topic on a broker that does not assign identities.
NO_TOPIC_ID = bytes(TOPIC_ID_BYTES)
_HEAD = struct.Struct("<BqH16sI")


@dataclass(slots=True, eq=False)
class Position:
    """The state of one partition's reader."""

    #: Offset to read next.
    next_offset: int
    #: (shards,) int64, end offset of the last block sent to each shard.
    ends: NDArray[Any]
    #: How often the next offset was no longer in the log.
    offset_resets: int = 0
    #: Kafka's identity of the topic (KIP-516), which a new topic of the same name does not share.
    topic_id: bytes = NO_TOPIC_ID

    def offset_reset(self, offset: int) -> None:
        """Continue at `offset`, because the offsets before it are gone.

        The next link to every shard marks the reset. It still holds the end before the reset,
        because sub-blocks may be on their way to the shard.
        """
        self.next_offset = offset
        self.ends = np.where(self.ends >= 0, OFFSET_RESET - self.ends, self.ends)
        self.offset_resets += 1


def encode_position(position: Position) -> bytes:
    """Return the state bytes of `position`."""
    head = _HEAD.pack(
        POSITION_FORMAT,
        position.next_offset,
        position.offset_resets,
        position.topic_id,
        len(position.ends),
    )
    return head + position.ends.astype("<i8").tobytes()


def decode_position(data: bytes, shards: int) -> Position:
    """Read what `encode_position` wrote.

    Raises:
        StateFormatError: another format, or state of a job with another number of shards.
    """
    data = bytes(data)
    if data[0] != POSITION_FORMAT:
        raise StateFormatError(
            f"reader state: this release reads format {POSITION_FORMAT}; got {data[0]}. "
            "Start from a savepoint of this release, or without state"
        )
    _, next_offset, offset_resets, topic_id, count = _HEAD.unpack_from(data)
    if count != shards:
        raise StateFormatError(
            f"reader state: the number of shards is fixed for the life of a state; it was made "
            f"with {count}, but scoring.shards is {shards}. Set scoring.shards to {count}"
        )
    ends = np.frombuffer(data, "<i8", count, _HEAD.size).copy()
    return Position(next_offset, ends, offset_resets, topic_id=topic_id)
