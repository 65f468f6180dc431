"""The epoch: the few bytes that say which log a shard's table stands for.

It is renewed with every write, under a fresh random token. A table in memory counts
only while its token is the one in state; so a retried bundle, a restored checkpoint or
a moved shard can never meet a stale table.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, fields

from streamgauge.models.blocks.scored_block import ScoredBlock
from streamgauge.models.errors import StateFormatError

EPOCH_FORMAT = 2
TOKEN_BYTES = 8
_HEAD = struct.Struct("<B8sIIQQQQIIIIH")
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
    offset_resets: int = 0
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
class PartitionProgress:
    """How far a shard has come in one partition."""

    #: First offset of the first block accepted.
    began: int
    #: End offset of the last one.
    end: int
    #: Jumps of the partition's reader before it.
    offset_resets: int = 0


@dataclass(slots=True)
class Epoch:
    """What is known of a shard without reading its log."""

    token: bytes = b"\0" * TOKEN_BYTES
    #: Which snapshot is in force, counted from 1, and its segments; 0 before there is any.
    generation: int = 0
    snapshot_segments: int = 0
    #: Sequence numbers of the first segment of the log that is not in the snapshot, and of the
    #: next one that is written.
    first_segment: int = 0
    next_segment: int = 0
    #: Bytes of the log since the snapshot, and of all that is in its last cell.
    log_bytes: int = 0
    cell_bytes: int = 0
    #: First and last cell of the log, counted on and on: they are used in a ring.
    first_cell: int = 0
    log_cell: int = 0
    #: Blocks held back behind a gap now.
    held: int = 0
    counts: ShardCounts = field(default_factory=ShardCounts)
    #: By partition.
    reached: dict[int, PartitionProgress] = field(default_factory=dict)
    #: The policies, as `Scorer.policies`, under which the log's blocks were scored.
    policies: bytes = b""


def encode_epoch(epoch: Epoch) -> bytes:
    """The state bytes of `epoch`."""
    head = _HEAD.pack(
        EPOCH_FORMAT,
        epoch.token,
        epoch.generation,
        epoch.snapshot_segments,
        epoch.first_segment,
        epoch.next_segment,
        epoch.log_bytes,
        epoch.cell_bytes,
        epoch.first_cell,
        epoch.log_cell,
        epoch.held,
        len(epoch.reached),
        len(epoch.policies),
    )
    counts = _COUNTS.pack(*(getattr(epoch.counts, name) for name in _COUNTED))
    reached = (
        _REACH.pack(partition, reach.began, reach.end, reach.offset_resets)
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
    _, *told, count, size = _HEAD.unpack_from(data)
    counts = ShardCounts(*_COUNTS.unpack_from(data, _HEAD.size))
    at = _HEAD.size + _COUNTS.size
    policies, rest = data[at : at + size], data[at + size :]
    if len(rest) != count * _REACH.size:
        raise StateFormatError(
            f"state epoch: needs {count} positions of {_REACH.size} bytes; got {len(rest)} bytes. "
            "Start from an older savepoint, or from exported state (`run --state`)"
        )
    reached = {
        partition: PartitionProgress(*reach) for partition, *reach in _REACH.iter_unpack(rest)
    }
    epoch = Epoch(*told)
    epoch.counts, epoch.reached, epoch.policies = counts, reached, policies
    return epoch
