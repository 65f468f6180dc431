"""Writes one small file of each state format, as this release writes it, and its digest.

    PYTHONPATH=tests python -m golden.make v1

Everything is made from a fixed seed and by whole numbers, so that it is the same on every
machine. A folder is made once, by the first release of a format, and never again:
`test_golden.py` sees that every later release reads it, and gets the same out of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from fixtures.artifacts import make_forecaster
from fixtures.blocks import START_US, STEP_US
from streamgauge.models.blocks.block import (
    ERASURE,
    NOTHING_BEFORE,
    OFFSET_RESET,
    Block,
    decode_block,
    encode_block,
)
from streamgauge.models.blocks.event_clock import PartitionClock
from streamgauge.models.blocks.position import Position, decode_position, encode_position
from streamgauge.models.blocks.scored_block import ScoredBlock
from streamgauge.models.drift import reference
from streamgauge.models.drift.windows import DriftWindows
from streamgauge.models.state.entity_table import EntityTable, Layout
from streamgauge.models.state.epoch import (
    Epoch,
    PartitionProgress,
    ShardCounts,
    decode_epoch,
    encode_epoch,
)
from streamgauge.models.state.segment import (
    BLOCK,
    SNAPSHOT,
    SnapshotReader,
    block_segment,
    eviction_segment,
    read_segment,
    snapshot_segments,
)
from streamgauge.models.state.snapshot_file import (
    ShardSnapshot,
    StateIdentity,
    decode_header,
    decode_snapshot,
    encode_snapshot,
)

HERE = Path(__file__).parent
DIGESTS = "digests.json"
NAMES = ["host-1", "Ångström", "温度/3", "𝛀"]
FEATURES, SHARDS = 2, 3
ORIGIN = StateIdentity("telemetry", SHARDS, "entity")
POLICIES = b'[{"late":"score"},{"per_entity_day":1.0}]'


def layout() -> Layout:
    """The rows of a job with the forecaster of the tests."""
    forecaster = make_forecaster(FEATURES, hidden=4, lags=2)
    return Layout.of(forecaster.dtype, forecaster.schema.fingerprint(), "5e" * 32)


def build() -> dict[str, bytes]:
    """Every file, by name."""
    rng = np.random.default_rng(4)
    table, block, windows = _table(rng), _block(rng), _windows()
    windows.add(_scored(block))
    epoch = _epoch()
    row_bytes = table.layout.dtype.itemsize
    taken = ShardSnapshot(1, epoch, windows.to_bytes(), table)
    return {
        "block.bin": encode_block(block),
        "epoch.bin": encode_epoch(epoch),
        "position.bin": encode_position(
            Position(81, np.array([80, NOTHING_BEFORE, OFFSET_RESET - 70]), 2, bytes(range(16)))
        ),
        "drift.bin": windows.to_bytes(),
        **{
            f"snapshot-{number}.bin": segment
            for number, segment in enumerate(snapshot_segments(table, 6, 2 * row_bytes), 6)
        },
        "log-8.bin": block_segment(table.layout, 8, encode_block(block)),
        "log-9.bin": block_segment(table.layout, 9, encode_block(block.after(72))),
        "log-10.bin": eviction_segment(table.layout, 10),
        "snapshot.parquet": encode_snapshot(taken, ORIGIN),
    }


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """What this release makes of the files: a digest over everything that it read."""
    readers: dict[str, Callable[[bytes], object]] = {
        "block.bin": lambda data: _columns_of(decode_block(data)),
        "epoch.bin": lambda data: _plain(decode_epoch(data)),
        "position.bin": _position,
        "drift.bin": _reports,
        "snapshot.parquet": _snapshot,
    }
    contents = {name: read(files[name]) for name, read in readers.items()}
    contents["log"] = _log(files)
    return {
        name: hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()
        for name, content in sorted(contents.items())
    }


def _log(files: Mapping[str, bytes]) -> object:
    reader, blocks = SnapshotReader(layout()), []
    for name in sorted(files, reverse=True):  # bags keep no order
        if name.startswith(("log-", "snapshot-")) and name.endswith(".bin"):
            segment = read_segment(layout(), files[name])
            if segment.kind == SNAPSHOT:
                reader.add(segment.body)
            else:
                is_block = segment.kind == BLOCK
                content = _columns_of(decode_block(segment.body)) if is_block else segment.kind
                blocks.append((segment.sequence, content))
    return reader.table().digest_of_rows(), blocks


def _table(rng: np.random.Generator) -> EntityTable:
    table = EntityTable(layout())
    rows = table.add(NAMES)
    for name in table.layout.dtype.names or ():
        column = table.rows[name]
        column[rows] = rng.integers(0, 100, column[rows].shape).astype(column.dtype)
    table.clocks = {
        0: PartitionClock(START_US, START_US + STEP_US, NAMES[1], 0),
        3: PartitionClock(START_US + 5, START_US + 7, "", 2),
    }
    return table


def _block(rng: np.random.Generator) -> Block:
    count = 8
    features = rng.integers(-9, 9, (count, FEATURES)).astype(np.float32)
    features[2, 1] = np.nan
    row = np.zeros(count, np.int32)
    row[5] = ERASURE
    offset = np.arange(70, 70 + count)
    names = pa.array([NAMES[i % 4] for i in range(count)], pa.string())
    return Block(
        3, 68, 80, OFFSET_RESET - 60, offset, row, START_US + offset * STEP_US, names, features, 2
    )


def _windows() -> DriftWindows:
    values = np.arange(2_000, dtype=np.float32).reshape(-1, FEATURES)
    return DriftWindows(reference.fit(values, values[:, 0], values[:, 0]), 120, shard=1)


def _scored(block: Block) -> ScoredBlock:
    count = len(block)
    values = np.arange(count, dtype=np.float32)
    verdict = np.ones(count, np.uint8)
    return ScoredBlock(block, values, values, verdict, values, values, [], {}, 0, 0)


def _epoch() -> Epoch:
    counts = ShardCounts(*range(1, 1 + len(ShardCounts.__dataclass_fields__)))
    reached = {0: PartitionProgress(0, 71), 3: PartitionProgress(2, 80, 2)}
    return Epoch(b"8 bytes!", 3, 2, 8, 10, 4_321, 1_234, 5, 7, 1, counts, reached, POLICIES)


def _columns_of(block: Block) -> object:
    columns = (block.offset, block.row, block.event_time_us, block.features)
    links = (block.partition, block.first_offset, block.end_offset, block.previous_end)
    return links, block.offset_resets, block.entity_id.to_pylist(), [c.tobytes() for c in columns]


def _position(data: bytes) -> object:
    at = decode_position(data, SHARDS)
    return at.next_offset, at.ends.tolist(), at.offset_resets, at.topic_id


def _reports(data: bytes) -> object:
    reports = _windows().from_bytes(1, data).flush()
    return [(r.start_us, r.first, r.events, r.loss_sum, r.counts.tobytes()) for r in reports]


def _snapshot(data: bytes) -> object:
    snapshot = decode_snapshot(data, "snapshot.parquet", layout(), ORIGIN)
    header = decode_header(data, "snapshot.parquet")
    return _plain(header), _plain(snapshot.epoch), snapshot.table.digest_of_rows()


def _plain(value: object) -> object:
    """Plain types without what is zero or empty, as fields of a later release will be."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if one}
    is_record = isinstance(value, msgspec.Struct) or dataclasses.is_dataclass(value)
    return _plain(msgspec.to_builtins(value)) if is_record else value


def main() -> None:
    """Write the folder that the command line names."""
    folder, files = HERE / sys.argv[1], build()
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / DIGESTS).write_text(json.dumps(digests(files), indent=1) + "\n")
    print(f"{folder}: {len(files)} files, {sum(map(len, files.values()))} bytes")


if __name__ == "__main__":
    main()
