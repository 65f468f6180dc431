"""Cutting into shards and linking the pieces."""

import numpy as np
import pytest
from blocks import make_block

from models.block import NOTHING_BEFORE
from models.chain import Link, cut, link_of, new_ends, shard_of

NAMES = [f"host-{i}" for i in range(40)]


def test_every_event_goes_to_the_shard_of_its_entity_in_offset_order():
    block = make_block(NAMES * 3, first=100)
    seen = []
    for shard, piece in cut(block, new_ends(4), "entity"):
        assert {shard_of(name, 4) for name in piece.entity_id.to_pylist()} == {shard}
        assert (np.diff(piece.offset) > 0).all()
        seen += piece.offset.tolist()
    assert sorted(seen) == block.offset.tolist()


def test_features_stay_with_their_events():
    block = make_block(NAMES, first=0)
    for _, piece in cut(block, new_ends(4), "entity"):
        np.testing.assert_array_equal(piece.features, block.features[piece.offset])


def test_links_name_the_end_of_the_last_piece_a_shard_was_sent():
    ends = new_ends(8)
    only = NAMES[0]
    shard = shard_of(only, 8)
    [(_, one)] = cut(make_block([only], first=0), ends, "entity")
    others = [name for name in NAMES if shard_of(name, 8) != shard]
    list(cut(make_block(others, first=1), ends, "entity"))
    [(_, two)] = cut(make_block([only], first=50), ends, "entity")
    assert one.previous_end == NOTHING_BEFORE
    assert two.previous_end == one.end_offset == 1


def test_routing_by_partition_does_not_cut():
    [(shard, piece)] = cut(make_block(NAMES, partition=6), new_ends(4), "partition")
    assert shard == 2
    assert len(piece) == len(NAMES)


@pytest.mark.parametrize(
    ("position", "expected"),
    [(NOTHING_BEFORE, Link.GAP), (9, Link.GAP), (10, Link.NEXT), (15, Link.NEXT),
     (20, Link.DUPLICATE), (99, Link.DUPLICATE)],
)  # fmt: skip
def test_link_tells_next_from_gap_and_duplicate(position, expected):
    block = make_block(["a"] * 10, first=10, previous_end=10)
    assert link_of(block, position) is expected
