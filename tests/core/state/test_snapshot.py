"""Snapshots of shards as Parquet: bit-equal there and back, or refused with what to do."""

import io
import os

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fixtures.artifacts import make_artifact
from fixtures.blocks import chain, make_block, new_cells
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.block import encode_block
from streamgauge.models.drift.windows import DriftWindows
from streamgauge.models.errors import StateDamagedError, StateFormatError
from streamgauge.models.scoring.policy import ScoringPolicy, ShardPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.scoring.shard import ShardScorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.models.state.epoch import Epoch
from streamgauge.models.state.snapshot_file import (
    ShardSnapshot,
    SnapshotHeader,
    StateIdentity,
    check_header,
    decode_header,
    decode_snapshot,
    encode_snapshot,
    seal,
    start_offsets,
)

ORIGIN = StateIdentity("telemetry", 4, "entity")
NAMES = ["host-1", "Ångström", "温度/3", "e\u0301", "a b\tc\n", "𝛀", "x" * 256, "-1", "NaN"]
NAMES.append("\ncrc32:00000000")  # what stands before the checksum of a file
KEY = b"streamgauge"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a"))


@pytest.fixture(scope="module")
def layout(artifact):
    return Scorer(artifact, ScoringPolicy(), AlertPolicy()).layout


@pytest.fixture(scope="module")
def taken(artifact):
    """A snapshot of a shard that has seen two partitions."""
    scorer = Scorer(artifact, ScoringPolicy(), AlertPolicy(per_entity_day=5_000, cooldown_s=600))
    shard = ShardScorer(scorer, DriftWindows(artifact.drift_reference, 3600), ShardPolicy())
    rng, cells = np.random.default_rng(2), new_cells()
    for block in chain(
        make_block(rng.choice(NAMES, 60).tolist(), 60 * i, partition=i % 2) for i in range(6)
    ):
        shard.process(2, encode_block(block), cells, os.urandom(8))
    return shard.take_snapshot(2, cells)


@pytest.fixture(scope="module")
def data(taken):
    return encode_snapshot(taken, ORIGIN)


def decode(data, layout, origin=ORIGIN):
    return decode_snapshot(data, "a.parquet", layout, origin)


def rewritten(data, change_columns=lambda t: t, change_header=lambda header: header):
    """The file with other columns or another header, and a checksum that holds."""
    header = msgspec.json.decode(pq.read_metadata(pa.BufferReader(data)).metadata[KEY])
    changed, file = change_columns(pq.read_table(pa.BufferReader(data))), io.BytesIO()
    with pq.ParquetWriter(file, changed.schema) as writer:
        writer.write_table(changed)
        text = msgspec.json.encode(change_header(header)).decode()
        writer.add_key_value_metadata({KEY.decode(): text, "check": "\ncrc32:00000000"})
    return seal(file.getvalue())


def with_header(data, **values):
    return rewritten(data, change_header=lambda header: header | values)


def test_a_snapshot_comes_back_with_the_same_bits(taken, data, layout):
    back = decode(data, layout)
    assert back.table.digest_of_rows() == taken.table.digest_of_rows()
    assert back.table.entity_ids == taken.table.entity_ids
    assert back.table.rows[: len(NAMES)].tobytes() == taken.table.rows[: len(NAMES)].tobytes()
    assert back.table.clocks == taken.table.clocks
    assert (back.shard, back.drift) == (2, taken.drift)
    for name in ("counts", "reached", "policies"):
        assert getattr(back.epoch, name) == getattr(taken.epoch, name)
    assert back.epoch.held == back.epoch.next_segment == 0  # the log is not part of it


def test_it_is_the_same_file_whoever_writes_it(taken, data):
    assert encode_snapshot(taken, ORIGIN) == data


def test_a_shard_without_entities_has_a_snapshot_with_its_positions(taken, layout):
    empty = ShardSnapshot(1, Epoch(reached=taken.epoch.reached), b"", EntityTable(layout))
    data = encode_snapshot(empty, ORIGIN)
    back = decode(data, layout)
    assert (len(back.table), back.epoch.reached) == (0, taken.epoch.reached)
    assert decode_header(data, "a").entities == 0


def test_any_parquet_reader_finds_a_row_per_entity_and_lists_of_fixed_size(taken, data):
    table = pq.read_table(pa.BufferReader(data))
    assert table.column("entity_id").to_pylist() == taken.table.entity_ids
    hidden = table.schema.field("hidden").type
    assert (hidden.list_size, hidden.value_type) == (8, pa.float32())
    found = np.array(table.column("lags").to_pylist(), np.float32)
    np.testing.assert_array_equal(found, taken.table.rows["lags"][: len(NAMES)].reshape(10, -1))
    assert set(table.column_names) == {"entity_id", *taken.table.layout.dtype.names}


@pytest.mark.parametrize("bit", [0, 5, 7])
def test_any_flipped_byte_is_refused(data, layout, bit):
    """In pages, names, positions, counts or Parquet's own footer."""
    for at in range(bit, len(data), 3):
        flipped = data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
        with pytest.raises(StateDamagedError, match=r"a\.parquet: .*; export the state again"):
            decode(flipped, layout)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(data, layout, share):
    with pytest.raises(StateDamagedError, match=r"a\.parquet: .*; export the state again"):
        decode(data[: int(len(data) * share)], layout)


def test_a_file_that_is_no_snapshot_is_refused(layout):
    file = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), file)
    for data in (file.getvalue(), b"", b"PAR1", b"what"):
        with pytest.raises(StateDamagedError, match="must be a snapshot of a shard; export"):
            decode(data, layout)


def test_altered_rows_are_refused(data, layout):
    def without_last(table):
        return table.slice(0, len(table) - 1)

    with pytest.raises(StateDamagedError, match="its rows must have the digest"):
        decode(rewritten(data, without_last), layout)


@pytest.mark.parametrize("name", ["hidden", "entity_id"])
def test_a_missing_column_is_refused_by_name(data, layout, name):
    with pytest.raises(StateFormatError, match=f"needs a column '{name}'; it has none; export"):
        decode(rewritten(data, lambda table: table.drop_columns([name])), layout)


def test_a_column_of_another_type_is_refused_by_name(data, layout):
    def widened(table):
        at = table.column_names.index("event_count")
        return table.set_column(at, "event_count", table.column("event_count").cast(pa.int64()))

    with pytest.raises(StateFormatError, match="event_count must be uint32 .*; got int64"):
        decode(rewritten(data, widened), layout)


def test_a_later_format_is_refused_before_anything_else_is_read(data, layout):
    later = with_header(data, format=2, origin="another shape altogether")
    with pytest.raises(StateFormatError, match="format 1 to 1; got 2. Use the release that wrote"):
        decode(later, layout)


def test_state_of_another_artifact_is_refused(data, tmp_path):
    other = artifacts.load(make_artifact(tmp_path / "b", seed=9))
    layout = Scorer(other, ScoringPolicy(), AlertPolicy()).layout
    with pytest.raises(StateFormatError, match=f"artifact digest must be {other.digest}; got"):
        decode(data, layout)


def test_state_of_another_schema_is_refused(data, layout):
    with pytest.raises(StateFormatError, match="schema fingerprint must be .*; got 0123; export"):
        decode(with_header(data, schema_fingerprint="0123"), layout)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (StateIdentity("other", 4, "entity"), "topic must be other; got telemetry"),
        (StateIdentity("telemetry", 8, "entity"), "number of shards must be 8; got 4"),
        (StateIdentity("telemetry", 4, "partition"), "routing must be partition; got entity"),
    ],
)
def test_state_of_another_cut_is_refused(data, layout, origin, message):
    with pytest.raises(StateFormatError, match=message):
        decode(data, layout, origin)
    with pytest.raises(StateFormatError, match=message):
        check_header(decode_header(data, "a"), "a", layout, origin)


def header(shard, reached, origin=ORIGIN):
    reached = {p: (*reach, 0) if len(reach) == 2 else reach for p, reach in reached.items()}
    return SnapshotHeader(1, origin, "", "", shard, 1, reached, {}, {}, "", "", "")


def test_a_partition_is_read_from_the_lowest_position_of_any_shard():
    headers = [header(i, {0: (5, end), 1: (0, 10 + i)}) for i, end in enumerate((90, 40, 70, 60))]
    assert start_offsets(headers) == {0: 40, 1: 10}


def test_a_shard_without_progress_in_a_partition_needs_it_from_its_beginning():
    headers = [header(i, {0: (5, 90)}) for i in range(3)]
    assert start_offsets([*headers, header(3, {1: (0, 7)})]) == {0: 5, 1: 0}


def test_a_shard_without_snapshot_needs_every_partition_from_its_beginning():
    headers = [header(i, {0: (5 + i, 90), 1: (0, 50)}) for i in (0, 1, 3)]
    assert start_offsets(headers) == {0: 5, 1: 0}


def test_routed_by_partition_only_the_shard_of_a_partition_counts():
    origin = StateIdentity("telemetry", 2, "partition")
    headers = [header(0, {0: (0, 90), 2: (3, 8)}, origin), header(1, {1: (0, 20)}, origin)]
    assert start_offsets(headers) == {0: 90, 1: 20, 2: 8}


def test_without_snapshots_no_partition_is_named():
    assert start_offsets([]) == {}


def test_snapshots_from_both_sides_of_a_jump_do_not_fit_together():
    headers = [header(0, {0: (0, 90, 1)}), header(1, {0: (0, 40, 0)})]
    with pytest.raises(StateFormatError, match="partition 0: offsets were lost between"):
        start_offsets(headers)
