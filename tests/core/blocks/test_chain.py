"""Dividing blocks among shards, and the chain of their sub-blocks."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from fixtures.blocks import make_block
from streamgauge.models.blocks.block import NOTHING_BEFORE
from streamgauge.models.blocks.chain import (
    SILENT_OFFSETS_MAX,
    Link,
    cut,
    link_of,
    new_ends,
    shard_of,
    shards_of,
)

NAMES = [f"host-{i}" for i in range(40)]


def test_every_event_goes_to_the_shard_of_its_entity_in_offset_order():
    block = make_block(NAMES * 3, first=100)
    seen = []
    for shard, piece in cut(block, new_ends(4), "entity"):
        assert {shard_of(name, 4) for name in piece.entity_id.to_pylist()} == {shard}
        assert (np.diff(piece.offset) > 0).all()
        seen += piece.offset.tolist()
    assert sorted(seen) == block.offset.tolist()


@pytest.mark.parametrize("count", [0, 1, 128, 384])
def test_many_entities_are_hashed_as_each_one_is(count):
    names = [("ö" if i % 7 else "") + "x" * (i * 37 % 256) + str(i) for i in range(count + 2)]
    sliced = pa.array(names).slice(1, count)
    expected = [shard_of(name, 1_000) for name in names[1 : count + 1]]
    block = replace(make_block(names[1 : count + 1]), entity_id=sliced)
    assert shards_of(block, 1_000).tolist() == expected


def test_features_stay_with_their_events():
    block = make_block(NAMES, first=0)
    for _, piece in cut(block, new_ends(4), "entity"):
        np.testing.assert_array_equal(piece.features, block.features[piece.offset])


def pieces_of(block, ends, routing="entity", **limits):
    return dict(cut(block, ends, routing, **limits))


def test_links_name_the_end_of_the_last_piece_a_shard_was_sent():
    ends = new_ends(8)
    only = NAMES[0]
    shard = shard_of(only, 8)
    one = pieces_of(make_block([only], first=0), ends)[shard]
    others = [name for name in NAMES if shard_of(name, 8) != shard]
    assert shard not in pieces_of(make_block(others, first=1), ends)
    two = pieces_of(make_block([only], first=50), ends)[shard]
    assert one.previous_end == NOTHING_BEFORE
    assert two.previous_end == one.end_offset == 1


def test_every_shard_receives_the_first_block_of_a_partition_and_no_other_without_events():
    ends = new_ends(4)
    home = shard_of(NAMES[0], 4)
    first = pieces_of(make_block(NAMES[:1]), ends)
    assert {shard: len(piece) for shard, piece in first.items()} == {
        shard: int(shard == home) for shard in range(4)
    }
    assert {(p.first_offset, p.end_offset, p.previous_end) for p in first.values()} == {(0, 1, -1)}
    assert list(pieces_of(make_block(NAMES[:1], first=1), ends)) == [home]


def test_a_block_without_events_is_the_first_of_a_partition_as_well():
    nothing = make_block(NAMES[:1]).take(np.arange(0), NOTHING_BEFORE)
    assert sorted(pieces_of(nothing, new_ends(3))) == [0, 1, 2]


@pytest.mark.parametrize("routing", ["entity", "partition"])
def test_a_shard_without_events_for_long_receives_an_empty_block(routing):
    ends = np.array([100, 100], np.int64)
    full = make_block(NAMES[:1], first=100 + SILENT_OFFSETS_MAX - 1)
    nothing = full.take(np.arange(0), NOTHING_BEFORE)
    assert pieces_of(nothing, ends.copy(), routing) == {}
    later = replace(nothing, end_offset=nothing.end_offset + 1)
    [piece, *_] = pieces_of(later, ends, routing).values()
    assert (len(piece), piece.previous_end, piece.end_offset) == (0, 100, later.end_offset)
    assert ends[0] == later.end_offset


def test_routing_by_partition_does_not_cut():
    [(shard, piece)] = cut(make_block(NAMES, partition=6), new_ends(4), "partition")
    assert shard == 2
    assert len(piece) == len(NAMES)


@pytest.mark.parametrize(
    ("position", "expected"),
    [(NOTHING_BEFORE, Link.GAP), (9, Link.GAP), (10, Link.NEXT), (15, Link.NEXT),
     (20, Link.DUPLICATE), (99, Link.DUPLICATE)],
)  # fmt: skip
def test_link_distinguishes_next_gap_and_duplicate(position, expected):
    block = make_block(["a"] * 10, first=10, previous_end=10)
    assert link_of(block, position) is expected
