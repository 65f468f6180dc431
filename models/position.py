"""How far a partition has been read: next offset and chain ends, as state bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from models.errors import StateFormatError

POSITION_FORMAT = 1
_HEAD = struct.Struct("<BqI")


@dataclass(slots=True, eq=False)
class Position:
    """The state of one partition's reader."""

    #: Offset to read next.
    next_offset: int
    #: (shards,) int64, end offset of the last block sent to each shard.
    ends: np.ndarray


def encode_position(position: Position) -> bytes:
    """The state bytes of `position`."""
    head = _HEAD.pack(POSITION_FORMAT, position.next_offset, len(position.ends))
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
    _, next_offset, count = _HEAD.unpack_from(data)
    if count != shards:
        raise StateFormatError(
            f"reader state: the number of shards is fixed for the life of a state; it was made "
            f"with {count}, scoring.shards is {shards}. Set scoring.shards to {count}"
        )
    return Position(next_offset, np.frombuffer(data, "<i8", count, _HEAD.size).copy())
