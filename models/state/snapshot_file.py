"""A shard's memory outside the runner: one Parquet file that any release and engine can read.

A row is an entity, a column a field of its record; vectors and matrices are lists. What
is not per entity is JSON under the file's key `streamgauge`: the format's version, whose
memory it is (schema, artifact, topic, shard), how far the shard had come in each
partition, and a digest over all rows. Beside it stands a checksum of the whole file, as
`crc32:` and eight digits that count as zeros, since Parquet protects its pages only.

A snapshot stands for the log up to its positions, whoever took it and when: a job that
starts from it and reads the log from those positions on says the same, bit for bit, as
one that never stopped.
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

from streamgauge.models.blocks.event_clock import PartitionClock
from streamgauge.models.errors import StateDamagedError, StateFormatError
from streamgauge.models.state.entity_table import EntityTable, Layout
from streamgauge.models.state.epoch import Epoch, PartitionProgress, ShardCounts

SNAPSHOT_FORMAT = 1
ENTITY = "entity_id"
_KEY, _CHECK_KEY = "streamgauge", "streamgauge.check"
# JSON holds no line break, so nothing that a file says behind its pages is taken for this.
_CHECK, _NO_CHECK = b"\ncrc32:", b"00000000"
_REPAIR = "export the state again, or start without it and let entities warm up"


@dataclass(slots=True, eq=False)
class ShardSnapshot:
    """Everything one shard remembers."""

    shard: int
    #: Positions, counts and policies; its log is not part of a snapshot.
    epoch: Epoch
    #: Open drift windows, as `DriftWindows.to_bytes` wrote them.
    drift: bytes
    table: EntityTable


class StateIdentity(msgspec.Struct, frozen=True):
    """Whose memory a snapshot is: a job that starts from it must agree in all of these."""

    topic: str
    #: How many shards the entities are cut into, and how.
    shards: int
    routing: str


class SnapshotHeader(msgspec.Struct, frozen=True):
    """What a snapshot says of itself without its rows."""

    format: int
    origin: StateIdentity
    #: Schema fingerprint and artifact digest.
    schema_fingerprint: str
    artifact: str
    shard: int
    entities: int
    #: partition -> (first offset of the first block, end offset of the last, jumps before it).
    reached: dict[int, tuple[int, int, int]]
    #: partition -> (clock, latest event time, microseconds, and whose it is).
    clocks: dict[int, tuple[int, int, str]]
    counts: dict[str, int]
    #: As `Scorer.policies`, and the open drift windows, both base64.
    policies: str
    drift: str
    #: `EntityTable.digest_of_rows` of the table.
    digest: str


def encode_snapshot(snapshot: ShardSnapshot, origin: StateIdentity) -> bytes:
    """The Parquet file of `snapshot`."""
    table, epoch = snapshot.table, snapshot.epoch
    header = SnapshotHeader(
        SNAPSHOT_FORMAT,
        origin,
        table.layout.schema_fingerprint,
        table.layout.digest,
        snapshot.shard,
        len(table),
        {p: (at.first_offset, at.end_offset, at.offset_resets) for p, at in epoch.reached.items()},
        {p: (clock.now_us, clock.latest_us, clock.latest) for p, clock in table.clocks.items()},
        dataclasses.asdict(epoch.counts),
        _text(epoch.policies),
        _text(snapshot.drift),
        table.digest_of_rows(),
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
    r"""Write a file's checksum into the place that was left for it.

    >>> seal(b"any bytes\ncrc32:00000000 and others")
    b'any bytes\ncrc32:228d0a6c and others'
    """
    at = data.rindex(_CHECK) + len(_CHECK)
    return b"".join((data[:at], _checksum(data, at), data[at + len(_NO_CHECK) :]))


def decode_header(data: bytes, name: str) -> SnapshotHeader:
    """What the snapshot in file `name` says of itself.

    Raises:
        StateDamagedError: the file is no snapshot, incomplete, or was altered.
        StateFormatError: it is of a later release.
    """
    at = data.rfind(_CHECK) + len(_CHECK)
    if at < len(_CHECK):
        raise StateDamagedError(f"{name}: must be a snapshot of a shard; {_REPAIR}")
    check = data[at : at + len(_NO_CHECK)]
    if check != (found := _checksum(data, at)):
        raise StateDamagedError(
            f"{name}: its checksum must be {found.decode()}; got {check!r}; {_REPAIR}"
        )
    raw = pq.read_metadata(pa.BufferReader(data)).metadata[_KEY.encode()]
    found = msgspec.json.decode(raw)["format"]
    if found != SNAPSHOT_FORMAT:
        raise StateFormatError(
            f"{name}: this release reads snapshots of format 1 to {SNAPSHOT_FORMAT}; got {found}. "
            "Use the release that wrote it, or a later one"
        )
    return msgspec.json.decode(raw, type=SnapshotHeader)


def check_header(header: SnapshotHeader, name: str, layout: Layout, origin: StateIdentity) -> None:
    """See that a job of `origin` whose rows have `layout` can go on from a snapshot.

    Raises:
        StateFormatError: it belongs to another artifact, schema, topic or cut.
    """
    for what, expected, found in (
        ("schema fingerprint", layout.schema_fingerprint, header.schema_fingerprint),
        ("artifact digest", layout.digest, header.artifact),
        ("topic", origin.topic, header.origin.topic),
        ("number of shards", origin.shards, header.origin.shards),
        ("routing", origin.routing, header.origin.routing),
    ):
        if expected != found:
            raise StateFormatError(f"{name}: {what} must be {expected}; got {found}; {_REPAIR}")


def decode_snapshot(data: bytes, name: str, layout: Layout, origin: StateIdentity) -> ShardSnapshot:
    """Read what `encode_snapshot` wrote, for a job of `origin` whose rows have `layout`.

    Raises:
        StateDamagedError: the file is no snapshot, incomplete, or was altered.
        StateFormatError: it belongs to another artifact, schema, topic, cut or release.
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
            partition: PartitionProgress(*reach) for partition, reach in header.reached.items()
        },
        policies=base64.b64decode(header.policies),
    )
    return ShardSnapshot(header.shard, epoch, base64.b64decode(header.drift), table)


def start_offsets(headers: Sequence[SnapshotHeader]) -> dict[int, int]:
    """Where each partition must be read from by a job that starts from these snapshots.

    That is the lowest position of any shard that hears of the partition. A shard that had
    heard nothing of it yet may have missed what the others saw since their chains began.
    A partition that no shard has heard of is not named.

    Raises:
        StateFormatError: shards were on different sides of a jump over lost offsets.
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
        began = min(first for first, _, _ in reached)
        hears = range(origin.shards)
        if origin.routing == "partition":
            hears = range(partition % origin.shards, partition % origin.shards + 1)
        told = (by_shard[s].reached if s in by_shard else {} for s in hears)
        offsets[partition] = min(one.get(partition, (0, began))[1] for one in told)
    return offsets


def _checksum(data: bytes, at: int) -> bytes:
    """Eight digits: the CRC-32 of `data` with zeros where they stand themselves."""
    rest = memoryview(data)[at + len(_NO_CHECK) :]
    return b"%08x" % zlib.crc32(rest, zlib.crc32(_NO_CHECK, zlib.crc32(memoryview(data)[:at])))


def _column(values: np.ndarray) -> pa.Array:
    """An Arrow column of a field (N, ...) of the record."""
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


def _values(column: Any, field: str, like: np.ndarray, name: str) -> np.ndarray:
    flat = column.flatten() if isinstance(column.type, pa.FixedSizeListType) else column
    values = flat.to_numpy(zero_copy_only=False)
    if values.size != like.size or values.dtype != like.dtype:
        raise StateFormatError(
            f"{name}: {field} must be {like.dtype} {like.shape}; "
            f"got {values.dtype} of {values.size}; {_REPAIR}"
        )
    return values.reshape(like.shape)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
