"""The epoch: the few bytes that say which log a shard's table stands for.

It is renewed with every write, under a fresh random token. A table in memory counts
only while its token is the one in state; so a retried bundle, a restored checkpoint or
a moved shard can never meet a stale table.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from models.errors import StateFormatError

EPOCH_FORMAT = 1
TOKEN_BYTES = 8
_HEAD = struct.Struct("<B8sQQQIIIH")
_POSITION = struct.Struct("<iq")


@dataclass(slots=True)
class Epoch:
    """What is known of a shard without reading its log."""

    token: bytes = b"\0" * TOKEN_BYTES
    #: Sequence number of the first segment in the log; a snapshot, but for segment 0.
    first_segment: int = 0
    #: Sequence number that the next segment gets.
    next_segment: int = 0
    #: Bytes in the log.
    log_bytes: int = 0
    #: Blocks held back behind a gap.
    held: int = 0
    #: Gaps that were given up, since the state began.
    desyncs: int = 0
    #: partition -> end offset of the last block accepted from it.
    positions: dict[int, int] = field(default_factory=dict)
    #: The policies, as `Scorer.policies`, under which the log's blocks were scored.
    policies: bytes = b""


def encode_epoch(epoch: Epoch) -> bytes:
    """The state bytes of `epoch`."""
    head = _HEAD.pack(
        EPOCH_FORMAT,
        epoch.token,
        epoch.first_segment,
        epoch.next_segment,
        epoch.log_bytes,
        epoch.held,
        epoch.desyncs,
        len(epoch.positions),
        len(epoch.policies),
    )
    return (
        head
        + epoch.policies
        + b"".join(_POSITION.pack(*item) for item in sorted(epoch.positions.items()))
    )


def decode_epoch(data: bytes | None) -> Epoch:
    """Read what `encode_epoch` wrote; no bytes mean a shard that was never written.

    Raises:
        StateFormatError: the bytes are of a format this release does not know.
    """
    if not data:
        return Epoch()
    data = bytes(data)
    if data[0] != EPOCH_FORMAT:
        raise StateFormatError(
            f"state epoch: this release reads format {EPOCH_FORMAT}; got {data[0]}. "
            "Start from a savepoint of this release, or without state"
        )
    _, token, first, following, log_bytes, held, desyncs, count, size = _HEAD.unpack_from(data)
    policies, rest = data[_HEAD.size : _HEAD.size + size], data[_HEAD.size + size :]
    positions = dict(_POSITION.iter_unpack(rest))
    if len(positions) != count:
        raise StateFormatError(
            f"state epoch: needs {count} positions; got {len(positions)}. "
            "Start from an older savepoint"
        )
    return Epoch(token, first, following, log_bytes, held, desyncs, positions, policies)
