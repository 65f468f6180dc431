"""The epoch: the few bytes that say which log a shard's table stands for.

It is renewed with every write, under a fresh random token. A table in memory counts
only while its token is the one in state; so a retried bundle, a restored checkpoint or
a moved shard can never meet a stale table.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, fields

from models.errors import StateFormatError
from models.scored import ScoredBlock

EPOCH_FORMAT = 1
TOKEN_BYTES = 8
_HEAD = struct.Struct("<B8sQQQBIIH")
_REACH = struct.Struct("<iqqH")


@dataclass(slots=True)
class ShardCounts:
    """What a shard has done, and what went otherwise than planned, since its state began."""

    #: Events scored, events older than their entity's last one, and events set aside.
    scored: int = 0
    late: int = 0
    set_aside: int = 0
    #: Entities made to forget by a tombstone.
    erased: int = 0
    #: Blocks dropped because their offsets were already scored.
    duplicates: int = 0
    #: Blocks held back behind a gap.
    held_back: int = 0
    #: Gaps given up: the events in them are lost to the shard's entities.
    desyncs: int = 0
    #: Jumps of readers over offsets that were gone: the partition's entities warm up again.
    jumps: int = 0
    #: Tables in memory that did not stand for the state that was found.
    stale_tables: int = 0
    #: Damaged logs that were given up: the shard's entities started anew.
    resets: int = 0

    def add(self, scored: ScoredBlock) -> None:
        """Count the events of a block that was scored."""
        self.scored += len(scored.block)
        self.late += scored.late
        self.set_aside += sum(map(len, scored.set_aside.values()))
        self.erased += scored.erased


_COUNTED = tuple(counted.name for counted in fields(ShardCounts))
_COUNTS = struct.Struct(f"<{len(_COUNTED)}Q")


@dataclass(slots=True)
class Reach:
    """How far a shard has come in one partition."""

    #: First offset of the first block accepted.
    began: int
    #: End offset of the last one.
    end: int
    #: Jumps of the partition's reader before it.
    jumps: int = 0


@dataclass(slots=True)
class Epoch:
    """What is known of a shard without reading its log."""

    token: bytes = b"\0" * TOKEN_BYTES
    #: Sequence number of the first segment: a snapshot begins with it, unless it is 0.
    first_segment: int = 0
    #: Sequence number that the next segment gets.
    next_segment: int = 0
    #: Bytes of the blocks in the log, and the cell that the last of them is in.
    log_bytes: int = 0
    log_cell: int = 0
    #: Blocks held back behind a gap now.
    held: int = 0
    counts: ShardCounts = field(default_factory=ShardCounts)
    #: By partition.
    reached: dict[int, Reach] = field(default_factory=dict)
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
        epoch.log_cell,
        epoch.held,
        len(epoch.reached),
        len(epoch.policies),
    )
    counts = _COUNTS.pack(*(getattr(epoch.counts, name) for name in _COUNTED))
    reached = (
        _REACH.pack(partition, reach.began, reach.end, reach.jumps)
        for partition, reach in sorted(epoch.reached.items())
    )
    return b"".join((head, counts, epoch.policies, *reached))


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
            "Start from a savepoint of this release, or from exported state (`run --state`)"
        )
    _, token, first, following, log_bytes, log_cell, held, count, size = _HEAD.unpack_from(data)
    counts = ShardCounts(*_COUNTS.unpack_from(data, _HEAD.size))
    at = _HEAD.size + _COUNTS.size
    policies, rest = data[at : at + size], data[at + size :]
    if len(rest) != count * _REACH.size:
        raise StateFormatError(
            f"state epoch: needs {count} positions of {_REACH.size} bytes; got {len(rest)} bytes. "
            "Start from an older savepoint, or from exported state (`run --state`)"
        )
    reached = {partition: Reach(*reach) for partition, *reach in _REACH.iter_unpack(rest)}
    return Epoch(token, first, following, log_bytes, log_cell, held, counts, reached, policies)
