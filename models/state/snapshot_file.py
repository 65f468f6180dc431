"""The state of a shard as a file: Parquet, readable by any release and any Parquet engine.

A row is an entity, a column is a field of its record; vectors and matrices are lists. What
does not belong to an entity is JSON under the metadata key `streamgauge`: format version, origin
(schema, artifact, topic, shard), progress in each partition, and a digest of all rows.
A second key holds a checksum of the whole file, as `crc32:` and eight digits that count as
zeros, because Parquet protects only its pages.

A snapshot represents the log up to its progress, independent of when it was taken. A job that
starts from it and reads the log from there produces the same bits as a job that never
stopped.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamgauge.models.blocks.event_clock import PartitionClock
from streamgauge.models.errors import StateDamagedError, StateFormatError
from streamgauge.models.state.entity_table import EntityTable, Layout
from streamgauge.models.state.epoch import Epoch, PartitionProgress, ShardCounts

SNAPSHOT_FORMAT = 1
ENTITY = "entity_id"
_KEY, _CHECK_KEY = "streamgauge", "streamgauge.check"
# JSON contains no line break, so this cannot occur in other metadata after the pages.
_CHECK, _NO_CHECK = b"\ncrc32:", b"00000000"
_REPAIR = "export the state again, or start without it and let entities warm up"


@dataclass(slots=True, eq=False)
class ShardSnapshot:
    """The whole state of one shard."""

    shard: int
    #: Progress, counts and policies; the log is not part of a snapshot.
    epoch: Epoch
    #: Open drift windows, as `DriftWindows.to_bytes` wrote them.
    drift: bytes
    table: EntityTable


class StateIdentity(msgspec.Struct, frozen=True):
    """What a snapshot was taken of. A job that starts from it must agree in all fields."""

    topic: str
    #: Number of shards of the job.
    shards: int
    #: How entities are assigned to shards, as in `input.routing`.
    routing: str


class SnapshotHeader(msgspec.Struct, frozen=True):
    """The metadata of a snapshot."""

    format: int
    origin: StateIdentity
    #: Schema fingerprint and artifact digest.
    schema_fingerprint: str
    artifact: str
    shard: int
    entities: int
    #: partition -> (first offset of the first block, end offset of the last, offset resets).
    reached: dict[int, tuple[int, int, int]]
    #: partition -> (clock, latest event time, both in microseconds, entity of the latest event).
    clocks: dict[int, tuple[int, int, str]]
    counts: dict[str, int]
    #: Policies as in `Scorer.policies`, and open drift windows, both base64.
    policies: str
    drift: str
    #: `EntityTable.digest_of_rows`.
    digest: str


def encode_snapshot(snapshot: ShardSnapshot, origin: StateIdentity) -> bytes:
    """Return the Parquet file of `snapshot`."""
    table, epoch = snapshot.table, snapshot.epoch
    header = SnapshotHeader(
        format=SNAPSHOT_FORMAT,
        origin=origin,
        schema_fingerprint=table.layout.schema_fingerprint,
        artifact=table.layout.digest,
        shard=snapshot.shard,
        entities=len(table),
        reached={
            partition: (progress.first_offset, progress.end_offset, progress.offset_resets)
            for partition, progress in epoch.reached.items()
        },
        clocks={
            partition: (clock.now_us, clock.latest_us, clock.latest)
            for partition, clock in table.clocks.items()
        },
        counts=dataclasses.asdict(epoch.counts),
        policies=_text(epoch.policies),
        drift=_text(snapshot.drift),
        digest=table.digest_of_rows(),
    )
    columns = {ENTITY: pa.array(table.entity_ids, pa.string())}
    for name in table.layout.dtype.names or ():
        columns[name] = _column(table.rows[name][: len(table)])
    rows, file = pa.table(columns), io.BytesIO()
    with pq.ParquetWriter(file, rows.schema, compression="zstd", write_page_checksum=True) as to:
        to.write_table(rows)
        check = (_CHECK + _NO_CHECK).decode()
        to.add_key_value_metadata({_KEY: msgspec.json.encode(header).decode(), _CHECK_KEY: check})
    return seal(file.getvalue())


def seal(data: bytes) -> bytes:
    r"""Write the checksum of a file over its placeholder.

    >>> seal(b"any bytes\ncrc32:00000000 and others")
    b'any bytes\ncrc32:228d0a6c and others'
    """
    at = data.rindex(_CHECK) + len(_CHECK)
    return b"".join((data[:at], _checksum(data, at), data[at + len(_NO_CHECK) :]))


def decode_header(data: bytes, name: str) -> SnapshotHeader:
    """Read the metadata of the snapshot in file `name`.

    Raises:
        StateDamagedError: the file is not a snapshot, is incomplete, or was altered.
        StateFormatError: it is of a later release.
    """
    at = data.rfind(_CHECK) + len(_CHECK)
    if at < len(_CHECK):
        raise StateDamagedError(f"{name}: must be a snapshot of a shard; {_REPAIR}")
    check = data[at : at + len(_NO_CHECK)]
    if check != (computed := _checksum(data, at)):
        raise StateDamagedError(
            f"{name}: its checksum must be {computed.decode()}; got {check!r}; {_REPAIR}"
        )
    raw = pq.read_metadata(pa.BufferReader(data)).metadata[_KEY.encode()]
    version = msgspec.json.decode(raw)["format"]
    if version != SNAPSHOT_FORMAT:
        raise StateFormatError(
            f"{name}: this release reads snapshots of format 1 to {SNAPSHOT_FORMAT}; "
            f"got {version}. "
            "Use the release that wrote it, or a later one"
        )
    return msgspec.json.decode(raw, type=SnapshotHeader)


def check_header(header: SnapshotHeader, name: str, layout: Layout, origin: StateIdentity) -> None:
    """Check that a job of `origin` whose rows have `layout` can start from a snapshot.

    Raises:
        StateFormatError: it belongs to another artifact, schema, topic, shard count or routing.
    """
    for field, expected, actual in (
        ("schema fingerprint", layout.schema_fingerprint, header.schema_fingerprint),
        ("artifact digest", layout.digest, header.artifact),
        ("topic", origin.topic, header.origin.topic),
        ("number of shards", origin.shards, header.origin.shards),
        ("routing", origin.routing, header.origin.routing),
    ):
        if expected != actual:
            raise StateFormatError(f"{name}: {field} must be {expected}; got {actual}; {_REPAIR}")


def decode_snapshot(data: bytes, name: str, layout: Layout, origin: StateIdentity) -> ShardSnapshot:
    """Read what `encode_snapshot` wrote, for a job of `origin` whose rows have `layout`.

    Raises:
        StateDamagedError: the file is not a snapshot, is incomplete, or was altered.
        StateFormatError: it belongs to another artifact, schema, topic, shard count, routing or
            release.
    """
    header = decode_header(data, name)
    check_header(header, name, layout, origin)
    table = _table(pq.read_table(pa.BufferReader(data)), name, layout)
    table.clocks = {
        partition: PartitionClock(*clock, header.reached[partition][2])
        for partition, clock in header.clocks.items()
    }
    if table.digest_of_rows() != header.digest:
        raise StateDamagedError(f"{name}: its rows must have the digest {header.digest}; {_REPAIR}")
    epoch = Epoch(
        counts=ShardCounts(**header.counts),
        reached={
            partition: PartitionProgress(*progress)
            for partition, progress in header.reached.items()
        },
        policies=base64.b64decode(header.policies),
    )
    return ShardSnapshot(header.shard, epoch, base64.b64decode(header.drift), table)


def start_offsets(headers: Sequence[SnapshotHeader]) -> dict[int, int]:
    """Return where a job that starts from these snapshots must begin to read each partition.

    That is the lowest progress of all shards that receive the partition. A shard without progress
    in the partition may have missed everything since the first block of the other shards.
    Partitions without progress in any shard are left out.

    Raises:
        StateFormatError: shards are on different sides of an offset reset.
    """
    by_shard = {header.shard: header for header in headers}
    offsets = {}
    for partition in sorted({p for header in headers for p in header.reached}):
        origin = headers[0].origin
        reached = [h.reached[partition] for h in headers if partition in h.reached]
        if len({offset_resets for _, _, offset_resets in reached}) > 1:
            raise StateFormatError(
                f"partition {partition}: offsets were lost between the snapshots of its shards; "
                + _REPAIR
            )
        first_offset = min(first for first, _, _ in reached)
        receivers = range(origin.shards)
        if origin.routing == "partition":
            receivers = range(partition % origin.shards, partition % origin.shards + 1)
        progress = (by_shard[shard].reached if shard in by_shard else {} for shard in receivers)
        offsets[partition] = min(each.get(partition, (0, first_offset))[1] for each in progress)
    return offsets


def _checksum(data: bytes, at: int) -> bytes:
    """Return eight digits: the CRC-32 of `data` with zeros in place of the digits."""
    rest = memoryview(data)[at + len(_NO_CHECK) :]
    return b"%08x" % zlib.crc32(rest, zlib.crc32(_NO_CHECK, zlib.crc32(memoryview(data)[:at])))


def _column(values: NDArray[Any]) -> pa.Array:
    """Return a field (N, ...) of the records as an Arrow column."""
    if values.ndim == 1:
        return pa.array(np.ascontiguousarray(values))
    size = int(np.prod(values.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), size)


def _table(columns: pa.Table, name: str, layout: Layout) -> EntityTable:
    rows = np.zeros(len(columns), layout.dtype)
    fields = layout.dtype.names or ()
    for field in (ENTITY, *fields):
        if field not in columns.column_names:
            raise StateFormatError(f"{name}: needs a column {field!r}; it has none; {_REPAIR}")
    for field in fields:
        rows[field] = _values(columns[field].combine_chunks(), field, rows[field], name)
    table = EntityTable(layout)
    table.fill(columns[ENTITY].to_pylist(), rows)
    return table


def _values(column: Any, field: str, like: NDArray[Any], name: str) -> NDArray[Any]:
    flat = column.flatten() if isinstance(column.type, pa.FixedSizeListType) else column
    values: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    if values.size != like.size or values.dtype != like.dtype:
        raise StateFormatError(
            f"{name}: {field} must be {like.dtype} {like.shape}; "
            f"got {values.dtype} of {values.size}; {_REPAIR}"
        )
    return values.reshape(like.shape)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
