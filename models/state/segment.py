"""Segments: the records of a shard's log in the state of the runner.

A log is one *snapshot* of the whole table, then the *blocks* that were scored since. A
table is rebuilt by reading the snapshot and stepping the blocks again, which gives equal
bits because stepping is deterministic. Appending a block costs the bytes of its events. Appending
the rows that it changed would cost ten times as much, because the state of an entity is much
larger than an event. A snapshot is cut into segments of bounded size, each with some
of the rows; the first one also holds the clocks. If rows were dropped between two blocks,
the log records it, because dropping rows makes room for new entities.

    segment:  magic "SGS" | format u1 | kind u1 | sequence u8 | schema 16s | artifact 32s |
              layout 8s | body | crc32 u4
    snapshot: clocks u4 |
              (partition i4, clock i8, latest i8, resets u2, entity u2 + bytes)[clocks] |
              all rows u4 | first row u4 | rows u4 | lengths u2[rows] | entity bytes |
              records[rows]
    block:    as `models.blocks.block` writes it
    eviction: empty

`schema` is the fingerprint of the schema, `artifact` the digest of the artifact, `layout` a hash
of the fields of the record. A segment with another schema, artifact or layout is refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.blocks.event_clock import PartitionClock
from streamgauge.models.errors import StateDamagedError, StateFormatError
from streamgauge.models.state.entity_table import EntityTable, Layout

MAGIC = b"SGS"
SEGMENT_FORMAT = 1
SNAPSHOT, BLOCK, EVICTION = 0, 1, 2
_HEAD = struct.Struct("<3sBBQ16s32s8s")
_COUNT = struct.Struct("<I")
_ROWS = struct.Struct("<III")
_CLOCK = struct.Struct("<iqqHH")
_CRC = struct.Struct("<I")
REPAIR = (
    "start from a savepoint that belongs to this artifact and release, "
    "or start without state and let entities warm up again"
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One record of a shard's log, verified."""

    #: `SNAPSHOT`, `BLOCK` or `EVICTION`.
    kind: int
    #: Number among the blocks or in the snapshot, see `models.state.log`.
    sequence: int
    #: Bytes of the snapshot part or block; empty for an eviction.
    body: bytes


def block_segment(layout: Layout, sequence: int, block: bytes) -> bytes:
    """Return a segment with one scored block, as `encode_block` wrote it."""
    return _seal(layout, BLOCK, sequence, block)


def eviction_segment(layout: Layout, sequence: int) -> bytes:
    """Return a segment that records that rows were dropped, as `Scorer.evict` does."""
    return _seal(layout, EVICTION, sequence, b"")


def snapshot_segments(table: EntityTable, sequence: int, bytes_max: int) -> Iterator[bytes]:
    """Yield segments with the whole table, numbered from `sequence` on.

    Each has at most `bytes_max` of rows, but at least one row.
    """
    step = max(1, bytes_max // table.layout.dtype.itemsize)
    clocks = [_clock_bytes(*pair) for pair in sorted(table.clocks.items())]
    for first in range(0, max(1, len(table)), step):
        names = [name.encode() for name in table.entity_ids[first : first + step]]
        body = b"".join(
            (
                _COUNT.pack(len(clocks)),
                *clocks,
                _ROWS.pack(len(table), first, len(names)),
                np.array([len(name) for name in names], "<u2").tobytes(),
                *names,
                table.rows[first : first + len(names)].tobytes(),
            )
        )
        yield _seal(table.layout, SNAPSHOT, sequence, body)
        clocks, sequence = [], sequence + 1


class SnapshotReader:
    """Rebuilds the table that `snapshot_segments` cut, from segments in any order."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._clocks: dict[int, PartitionClock] = {}
        self._names: dict[int, list[str]] = {}  # by first row
        self._rows: NDArray[Any] | None = None
        self._read_rows = 0

    def add(self, body: bytes) -> None:
        """Add the rows of one segment.

        Raises:
            StateDamagedError: the segment does not belong to the same snapshot.
        """
        at = self._add_clocks(body)
        whole, first, count = _ROWS.unpack_from(body, at)
        at += _ROWS.size
        if self._rows is None:
            self._rows = np.zeros(whole, self._layout.dtype)
        if len(self._rows) != whole or first + count > whole:
            raise StateDamagedError(
                f"state log: a snapshot of {len(self._rows)} rows; got rows {first} to "
                f"{first + count} of {whole}; {REPAIR}"
            )
        lengths = np.frombuffer(body, "<u2", count, at)
        ends = np.cumsum(lengths, dtype=np.int64) + (at + lengths.nbytes)
        names, start = [], at + lengths.nbytes
        for end in ends.tolist():
            names.append(body[start:end].decode())
            start = end
        self._names[first] = names
        size = self._layout.dtype.itemsize
        rows = np.frombuffer(body, np.uint8, count * size, start)
        self._rows.view(np.uint8)[first * size : (first + count) * size] = rows
        self._read_rows += count

    def table(self) -> EntityTable:
        """Return the whole table; an empty one if there was no segment.

        Raises:
            StateDamagedError: rows are missing.
        """
        table = EntityTable(self._layout)
        if self._rows is None:
            return table
        names = [name for first in sorted(self._names) for name in self._names[first]]
        if len(names) != len(self._rows) or len(names) != self._read_rows:
            raise StateDamagedError(
                f"state log: a snapshot of {len(self._rows)} rows; got {len(names)}; {REPAIR}"
            )
        table.take(self._rows)
        table.add(names)  # in the order of the rows, which exist already
        table.clocks = self._clocks
        return table

    def _add_clocks(self, body: bytes) -> int:
        """Add the clocks of a segment; returns where they end."""
        at = _COUNT.size
        for _ in range(_COUNT.unpack_from(body)[0]):
            partition, now_us, latest_us, offset_resets, length = _CLOCK.unpack_from(body, at)
            at += _CLOCK.size + length
            latest = body[at - length : at].decode()
            self._clocks[partition] = PartitionClock(now_us, latest_us, latest, offset_resets)
        return at


def read_segment(layout: Layout, data: bytes) -> Segment:
    """Verify a segment.

    Raises:
        StateDamagedError: its bytes were altered.
        StateFormatError: it is of another schema, artifact or release.
    """
    if len(data) < _HEAD.size + _CRC.size or data[:3] != MAGIC:
        raise StateDamagedError(f"state log: {len(data)} bytes are no segment; {REPAIR}")
    if data[3] != SEGMENT_FORMAT:
        raise StateFormatError(
            f"state log: this release reads segments of format {SEGMENT_FORMAT}; "
            f"got {data[3]}; {REPAIR}"
        )
    crc = _CRC.unpack_from(data, len(data) - _CRC.size)[0]
    if zlib.crc32(memoryview(data)[: -_CRC.size]) != crc:
        raise StateDamagedError(f"state log: a segment's checksum must be {crc:08x}; {REPAIR}")
    _, _, kind, sequence, schema_fingerprint, digest, layout_hash = _HEAD.unpack_from(data)
    _match("schema fingerprint", layout.schema_fingerprint, schema_fingerprint.decode())
    _match("artifact digest", layout.digest, digest.hex())
    _match("row layout", layout.layout_hash.hex(), layout_hash.hex())
    return Segment(kind, sequence, data[_HEAD.size : -_CRC.size])


def _clock_bytes(partition: int, clock: PartitionClock) -> bytes:
    latest = clock.latest.encode()
    head = (partition, clock.now_us, clock.latest_us, clock.offset_resets, len(latest))
    return _CLOCK.pack(*head) + latest


def _seal(layout: Layout, kind: int, sequence: int, body: bytes) -> bytes:
    schema_fingerprint, digest = layout.schema_fingerprint.encode(), bytes.fromhex(layout.digest)
    head = _HEAD.pack(
        MAGIC, SEGMENT_FORMAT, kind, sequence, schema_fingerprint, digest, layout.layout_hash
    )
    return b"".join((head, body, _CRC.pack(zlib.crc32(body, zlib.crc32(head)))))


def _match(name: str, expected: str, actual: str) -> None:
    if expected != actual:
        raise StateFormatError(f"state log: {name} must be {expected}; got {actual}; {REPAIR}")
