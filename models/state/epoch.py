"""The epoch: a small record that names the state of a shard.

Each write replaces it under a new random token. A cached table is valid only while its token
equals the one in state. So neither a retried bundle, nor a restored checkpoint, nor a shard that
moved to another worker can use a stale table.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, fields

from streamgauge.models.blocks.scored_block import ScoredBlock
from streamgauge.models.errors import StateFormatError

EPOCH_FORMAT = 2
TOKEN_BYTES = 8
_HEAD = struct.Struct("<B8sIIQQQQIIIIH")
_PROGRESS = struct.Struct("<iqqH")


@dataclass(slots=True)
class ShardCounts:
    """Counters of a shard since its state began."""

    #: Events scored; events older than the latest event of their entity; events set aside.
    scored: int = 0
    late: int = 0
    set_aside: int = 0
    #: Entities erased by a tombstone.
    erased: int = 0
    #: Blocks dropped because their offsets were scored before.
    duplicates: int = 0
    #: Blocks held back after a gap.
    held_back: int = 0
    #: Gaps given up: the shard never scores the events in them.
    desyncs: int = 0
    #: Readers that skipped lost offsets: the entities of the partition warm up again.
    offset_resets: int = 0
    #: Cached tables that did not equal the state.
    stale_tables: int = 0
    #: Damaged logs that were dropped: the entities of the shard restarted.
    resets: int = 0

    def add(self, scored: ScoredBlock) -> None:
        """Count the events of a scored block."""
        self.scored += len(scored.block)
        self.late += scored.late
        self.set_aside += sum(map(len, scored.set_aside.values()))
        self.erased += scored.erased


_COUNTED = tuple(counter.name for counter in fields(ShardCounts))
_COUNTS = struct.Struct(f"<{len(_COUNTED)}Q")


@dataclass(slots=True)
class PartitionProgress:
    """Progress of a shard in one partition."""

    #: First offset of the first accepted block.
    first_offset: int
    #: End offset of the last accepted block.
    end_offset: int
    #: Offset resets of the partition's reader before the last accepted block.
    offset_resets: int = 0


@dataclass(slots=True)
class Epoch:
    """What is known of a shard without reading its log."""

    token: bytes = b"\0" * TOKEN_BYTES
    #: Number of the valid snapshot, counted from 1, and its segments; 0 before the first one.
    generation: int = 0
    snapshot_segments: int = 0
    #: Sequence numbers of the first log segment after the snapshot, and of the next segment.
    first_segment: int = 0
    next_segment: int = 0
    #: Bytes of the log since the snapshot, and bytes in its last cell.
    log_bytes: int = 0
    cell_bytes: int = 0
    #: First and last cell of the log, as running numbers; the cells form a ring.
    first_cell: int = 0
    log_cell: int = 0
    #: Blocks that are held back after a gap.
    held: int = 0
    counts: ShardCounts = field(default_factory=ShardCounts)
    #: By partition.
    reached: dict[int, PartitionProgress] = field(default_factory=dict)
    #: Policies that the blocks of the log were scored under, as in `Scorer.policies`.
    policies: bytes = b""


def encode_epoch(epoch: Epoch) -> bytes:
    """Return the state bytes of `epoch`."""
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
        _PROGRESS.pack(
            partition, progress.first_offset, progress.end_offset, progress.offset_resets
        )
        for partition, progress in sorted(epoch.reached.items())
    )
    return b"".join((head, counts, epoch.policies, *reached))


def decode_epoch(data: bytes | None) -> Epoch:
    """Read what `encode_epoch` wrote; None or no bytes stand for a shard without state.

    Raises:
        StateFormatError: this release does not know the format.
    """
    if not data:
        return Epoch()
    data = bytes(data)
    if data[0] != EPOCH_FORMAT:
        raise StateFormatError(
            f"state epoch: this release reads format {EPOCH_FORMAT}; got {data[0]}. "
            "Start from a savepoint of this release, or from exported state (`run --state`)"
        )
    _, *head, count, size = _HEAD.unpack_from(data)
    counts = ShardCounts(*_COUNTS.unpack_from(data, _HEAD.size))
    at = _HEAD.size + _COUNTS.size
    policies, rest = data[at : at + size], data[at + size :]
    if len(rest) != count * _PROGRESS.size:
        raise StateFormatError(
            f"state epoch: needs {count} positions of {_PROGRESS.size} bytes; "
            f"got {len(rest)} bytes. "
            "Start from an older savepoint, or from exported state (`run --state`)"
        )
    reached = {
        partition: PartitionProgress(*progress)
        for partition, *progress in _PROGRESS.iter_unpack(rest)
    }
    epoch = Epoch(*head)
    epoch.counts, epoch.reached, epoch.policies = counts, reached, policies
    return epoch
