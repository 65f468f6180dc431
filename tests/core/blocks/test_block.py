"""The wire format of blocks."""

import numpy as np
import pytest

from fixtures.blocks import make_block
from streamgauge.models.blocks.block import decode_block, encode_block
from streamgauge.models.errors import StateFormatError


def test_block_survives_the_wire():
    block = make_block(["a", "b", "a"], first=7, previous_end=5, partition=3)
    block.features[1, 2] = np.nan
    read = decode_block(encode_block(block))
    assert (read.partition, read.first_offset, read.end_offset, read.previous_end) == (3, 7, 10, 5)
    for name in ("offset", "row", "event_time_us", "features"):
        np.testing.assert_array_equal(getattr(read, name), getattr(block, name))
    assert read.entity_id.to_pylist() == ["a", "b", "a"]


def test_slice_of_a_block_survives_the_wire():
    block = make_block(["a", "b", "c", "d"]).take(np.array([1, 3]), previous_end=0)
    read = decode_block(encode_block(block))
    np.testing.assert_array_equal(read.features, block.features)
    assert read.entity_id.to_pylist() == ["b", "d"]


def test_empty_block_survives_the_wire():
    assert len(decode_block(encode_block(make_block([])))) == 0


def test_unknown_wire_format_is_refused():
    data = b"\x09" + encode_block(make_block(["a"]))[1:]
    with pytest.raises(StateFormatError, match="reads format 1; got 9"):
        decode_block(data)


def test_after_drops_what_lies_before_an_offset():
    assert make_block(["a", "b", "c"], first=10).after(12).offset.tolist() == [12]


def test_entities_are_listed_in_order_of_appearance():
    names, codes = make_block(["b", "a", "b"]).entities()
    assert names == ["b", "a"]
    assert codes.tolist() == [0, 1, 0]
