"""The order of blocks: duplicates, gaps, and the gap that is given up."""

import numpy as np
import pytest

from fixtures.blocks import chain, make_block, new_cells
from streamgauge.models.blocks.block import encode_block
from streamgauge.models.state.epoch import Epoch, PartitionProgress
from streamgauge.models.state.ordering import accept


@pytest.fixture
def blocks():
    """Five blocks of two events each, linked as the chain of one partition."""
    return chain(make_block(["a", "b"], first=first) for first in range(0, 10, 2))


class Shard:
    """Epoch and cells of one shard, and the offsets of the blocks that became ready."""

    def __init__(self, held_blocks_max=64):
        self.epoch, self.cells = Epoch(), new_cells()
        self.held_blocks_max = held_blocks_max

    def arrive(self, block):
        arrival = accept(self.epoch, self.cells, encode_block(block), self.held_blocks_max)
        return [ready.first_offset for _, ready in arrival.ready], arrival


def test_blocks_of_a_chain_are_ready_as_they_arrive(blocks):
    shard = Shard()
    assert [shard.arrive(block)[0] for block in blocks[:3]] == [[0], [2], [4]]
    assert shard.epoch.reached == {0: PartitionProgress(0, 6)}


def test_a_block_that_arrives_again_is_a_duplicate(blocks):
    shard = Shard()
    shard.arrive(blocks[0])
    ready, arrival = shard.arrive(blocks[0])
    assert (ready, arrival.duplicates, shard.epoch.counts.duplicates) == ([], 1, 1)


def test_blocks_after_a_gap_are_held_until_it_closes(blocks):
    shard = Shard()
    shard.arrive(blocks[0])
    assert shard.arrive(blocks[2])[1].held == 1
    assert shard.arrive(blocks[3])[0] == []
    assert (shard.epoch.held, len(shard.cells.held.values)) == (2, 2)
    assert shard.arrive(blocks[1])[0] == [2, 4, 6]
    assert (shard.epoch.held, shard.cells.held.values) == (0, [])
    assert (shard.epoch.counts.held_back, shard.epoch.counts.desyncs) == (2, 0)


def test_a_gap_is_given_up_when_too_many_blocks_are_held(blocks):
    shard = Shard(held_blocks_max=2)
    for block in (blocks[0], blocks[2], blocks[3]):
        shard.arrive(block)
    ready, arrival = shard.arrive(blocks[4])
    assert (ready, arrival.held, arrival.desyncs) == ([4, 6, 8], 1, 1)
    assert shard.epoch.counts.desyncs == 1
    assert shard.arrive(blocks[1])[1].duplicates == 1


def test_blocks_of_another_partition_stay_held(blocks):
    shard = Shard()
    other = chain(make_block(["a"], first=first, partition=1) for first in range(3))
    for block in (blocks[0], other[0], blocks[2], other[2]):
        shard.arrive(block)
    assert shard.arrive(blocks[1])[0] == [2, 4]
    assert (shard.epoch.held, shard.cells.held.values) == (1, [encode_block(other[2])])


def test_of_a_block_that_overlaps_only_the_new_events_are_ready(blocks):
    shard = Shard()
    shard.arrive(blocks[0])
    wide = make_block(["a", "b", "a", "b"])
    [(_, block)] = shard.arrive(wide)[1].ready
    np.testing.assert_array_equal(block.offset, [2, 3])
    assert shard.epoch.reached[0].end_offset == 4
