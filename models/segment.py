"""Segments: the append log in which a shard's table lives in the runner's state.

A log is one *snapshot* of the whole table, then the *blocks* that were scored since. A
table is rebuilt by reading the snapshot and stepping the blocks again, which gives the
same bits because a block is stepped in tiles of one shape. Appending a block costs the
events it holds; appending the rows it touched would cost ten times that, since an
entity's memory is much larger than one of its events (docs/decisions.md).

    segment:  magic "SGS" | format u1 | kind u1 | sequence u8 | contract 16s | digest 32s |
              layout 8s | body | crc32 u4
    snapshot: clocks u4 | (partition i4, clock i8, latest i8, jumps u2, whose u2 + bytes)[clocks] |
              rows u4 | lengths u2[rows] | entity bytes | records[rows]
    block:    as `models.block` writes it

`contract` is the schema's fingerprint, `digest` the artifact's, `layout` a hash of the
record's fields. A segment of another contract, artifact or layout is refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from models.clock import PartitionClock
from models.errors import StateDamagedError, StateFormatError
from models.table import EntityTable, Layout

MAGIC = b"SGS"
SEGMENT_FORMAT = 1
SNAPSHOT, BLOCK = 0, 1
_HEAD = struct.Struct("<3sBBQ16s32s8s")
_COUNT = struct.Struct("<I")
_CLOCK = struct.Struct("<iqqHH")
_CRC = struct.Struct("<I")
_REPAIR = (
    "start from a savepoint that belongs to this artifact and release, "
    "or start without state and let entities warm up again"
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One append to a shard's log, verified."""

    kind: int
    #: Its place in the log.
    sequence: int
    #: The bytes of the snapshot or block.
    body: bytes


def block_segment(layout: Layout, sequence: int, block: bytes) -> bytes:
    """A segment with one scored block, as `encode_block` wrote it."""
    return _seal(layout, BLOCK, sequence, block)


def snapshot_segment(table: EntityTable, sequence: int) -> bytes:
    """A segment with the whole table, which replaces all segments before it."""
    names = [name.encode() for name in table.entity_ids]
    body = b"".join(
        (
            _COUNT.pack(len(table.clocks)),
            *(_clock_bytes(partition, clock) for partition, clock in sorted(table.clocks.items())),
            _COUNT.pack(len(names)),
            np.array([len(name) for name in names], "<u2").tobytes(),
            *names,
            table.rows[: len(names)].tobytes(),
        )
    )
    return _seal(table.layout, SNAPSHOT, sequence, body)


def read_snapshot(layout: Layout, body: bytes) -> EntityTable:
    """The table that `snapshot_segment` wrote."""
    clocks, at = {}, _COUNT.size
    for _ in range(_COUNT.unpack_from(body)[0]):
        partition, now_us, latest_us, jumps, length = _CLOCK.unpack_from(body, at)
        at += _CLOCK.size + length
        latest = body[at - length : at].decode()
        clocks[partition] = PartitionClock(now_us, latest_us, latest, jumps)
    count = _COUNT.unpack_from(body, at)[0]
    at += _COUNT.size
    lengths = np.frombuffer(body, "<u2", count, at)
    at += lengths.nbytes
    names = []
    for length in lengths.tolist():
        names.append(body[at : at + length].decode())
        at += length
    table = EntityTable(layout)
    table.fill(names, np.frombuffer(body, layout.dtype, count, at))
    table.clocks = clocks
    return table


def read_log(layout: Layout, segments: Iterable[bytes], first: int, end: int) -> list[Segment]:
    """The segments with sequence numbers `[first, end)` in order; bags keep none.

    Raises:
        StateDamagedError: a segment is missing, repeated or damaged.
        StateFormatError: a segment is of another contract, artifact or release.
    """
    read = sorted((_open(layout, bytes(s)) for s in segments), key=lambda s: s.sequence)
    if [s.sequence for s in read] != list(range(first, end)):
        got = [s.sequence for s in read]
        raise StateDamagedError(
            f"state log: needs the segments {first} to {end - 1} once each; "
            f"got {len(got)} segments {got[:3]}…{got[-3:]}; {_REPAIR}"
        )
    return read


def _clock_bytes(partition: int, clock: PartitionClock) -> bytes:
    latest = clock.latest.encode()
    head = (partition, clock.now_us, clock.latest_us, clock.jumps, len(latest))
    return _CLOCK.pack(*head) + latest


def _seal(layout: Layout, kind: int, sequence: int, body: bytes) -> bytes:
    contract, digest = layout.contract.encode(), bytes.fromhex(layout.digest)
    head = _HEAD.pack(MAGIC, SEGMENT_FORMAT, kind, sequence, contract, digest, layout.stamp)
    return b"".join((head, body, _CRC.pack(zlib.crc32(body, zlib.crc32(head)))))


def _open(layout: Layout, data: bytes) -> Segment:
    if len(data) < _HEAD.size + _CRC.size or data[:3] != MAGIC:
        raise StateDamagedError(f"state log: {len(data)} bytes are no segment; {_REPAIR}")
    if data[3] != SEGMENT_FORMAT:
        raise StateFormatError(
            f"state log: this release reads segments of format {SEGMENT_FORMAT}; "
            f"got {data[3]}; {_REPAIR}"
        )
    crc = _CRC.unpack_from(data, len(data) - _CRC.size)[0]
    if zlib.crc32(memoryview(data)[: -_CRC.size]) != crc:
        raise StateDamagedError(f"state log: a segment's checksum must be {crc:08x}; {_REPAIR}")
    _, _, kind, sequence, contract, digest, stamp = _HEAD.unpack_from(data)
    _match("schema fingerprint", layout.contract, contract.decode())
    _match("artifact digest", layout.digest, digest.hex())
    _match("row layout", layout.stamp.hex(), stamp.hex())
    return Segment(kind, sequence, data[_HEAD.size : -_CRC.size])


def _match(what: str, expected: str, found: str) -> None:
    if expected != found:
        raise StateFormatError(f"state log: {what} must be {expected}; got {found}; {_REPAIR}")
