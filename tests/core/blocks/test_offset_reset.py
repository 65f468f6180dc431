"""Offsets that are gone before they were read: the chain continues, and shards know of the gap."""

import os
from dataclasses import replace

import numpy as np
import pytest

from fixtures.artifacts import make_artifact
from fixtures.blocks import make_block, new_cells
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.block import NOTHING_BEFORE, OFFSET_RESET, encode_block
from streamgauge.models.blocks.chain import cut, new_ends
from streamgauge.models.blocks.position import Position, decode_position, encode_position
from streamgauge.models.drift.windows import DriftWindows
from streamgauge.models.scoring.policy import ScoringPolicy, ShardPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.scoring.shard import ShardScorer

WARMUP = 5


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a"))


def new_shard(artifact):
    scorer = Scorer(artifact, ScoringPolicy(warmup_events=WARMUP), AlertPolicy())
    return ShardScorer(scorer, DriftWindows(artifact.drift_reference, 3600), ShardPolicy())


def process(shard, cells, *blocks):
    return [shard.process(0, encode_block(b), cells, os.urandom(8)) for b in blocks]


def offsets_of(outcomes):
    return [o for out in outcomes for s in out.scored for o in s.block.offset.tolist()]


def after_a_reset(first, count=10, previous_end=OFFSET_RESET - 40, partition=0):
    """The first block after an offset reset at offset 40."""
    block = make_block(["a", "b"] * (count // 2), first, previous_end, partition)
    return replace(block, offset_resets=1)


def test_every_shard_receives_a_reset_with_the_end_before_it_and_state_holds_it():
    position = Position(100, new_ends(3))
    position.ends[:] = 100, 80, NOTHING_BEFORE
    position.offset_reset(600)
    position.offset_reset(700)
    again = decode_position(encode_position(position), 3)
    assert (again.next_offset, again.offset_resets) == (700, 2)
    block = replace(make_block(["a"], first=700), offset_resets=again.offset_resets)
    pieces = dict(cut(block, again.ends, "entity"))
    # Shards without events receive it, too.
    links = [pieces[shard].previous_end for shard in (0, 1, 2)]
    assert links == [OFFSET_RESET - 100, OFFSET_RESET - 80, NOTHING_BEFORE]
    assert {piece.offset_resets for piece in pieces.values()} == {2}
    assert again.ends.tolist() == [701, 701, 701]


@pytest.mark.parametrize("first", [500, 0])  # the log was cut off; the topic was made anew
def test_events_after_a_reset_are_scored_wherever_the_offsets_resume(artifact, first):
    shard, cells = new_shard(artifact), new_cells()
    process(shard, cells, make_block(["a", "b"] * 20))
    outcomes = process(
        shard, cells, after_a_reset(first), after_a_reset(first + 10, 10, first + 10)
    )
    assert offsets_of(outcomes) == list(range(first, first + 20))
    counts = shard.take_snapshot(0, cells).epoch.counts
    assert (counts.offset_resets, counts.duplicates, counts.held_back) == (1, 0, 0)


def test_entities_of_that_partition_warm_up_again_and_others_do_not(artifact):
    shard, cells = new_shard(artifact), new_cells()
    process(shard, cells, make_block(["a", "b"] * 20))
    process(shard, cells, make_block(["c"] * 20, partition=1))
    [outcome] = process(shard, cells, after_a_reset(500, 20))
    verdicts = outcome.scored[0].verdict.reshape(-1, 2)
    assert (verdicts[: WARMUP - 1] == 0).all()
    assert (verdicts[WARMUP - 1 :] > 0).all()
    [other] = process(shard, cells, make_block(["c"] * 3, 20, 20, partition=1))
    assert (other.scored[0].verdict > 0).all()


def test_a_reset_without_events_for_the_shard_is_remembered_through_a_rebuild(artifact):
    cells = new_cells()
    process(new_shard(artifact), cells, make_block(["a", "b"] * 20))
    nothing = after_a_reset(500).take(np.arange(0), OFFSET_RESET - 40)
    process(new_shard(artifact), cells, nothing)
    [outcome] = process(new_shard(artifact), cells, after_a_reset(510, 10, 510))
    assert offsets_of([outcome]) == list(range(510, 520))
    assert (outcome.scored[0].verdict[: 2 * (WARMUP - 1)] == 0).all()


def test_a_repeated_reset_is_a_duplicate_and_a_later_block_waits_for_it(artifact):
    shard, cells = new_shard(artifact), new_cells()
    process(shard, cells, make_block(["a", "b"] * 20))
    jumped, following = after_a_reset(0), after_a_reset(10, 10, 10)
    outcomes = process(shard, cells, following, jumped, jumped)
    assert [outcome.held for outcome in outcomes] == [1, 0, 0]
    assert offsets_of(outcomes) == list(range(20))
    assert outcomes[2].duplicates == 1


@pytest.mark.parametrize("first", [500, 0])
def test_blocks_on_their_way_come_before_the_one_after_the_reset(artifact, first):
    shard, cells = new_shard(artifact), new_cells()
    before = [make_block(["a", "b"] * 10, at, at or NOTHING_BEFORE) for at in (0, 20)]
    outcomes = process(shard, cells, before[0], after_a_reset(first), before[1])
    assert [outcome.held for outcome in outcomes] == [0, 1, 0]
    assert offsets_of(outcomes) == [*range(40), *range(first, first + 10)]


def test_a_new_reader_that_resets_repeats_nothing(artifact):
    shard, cells = new_shard(artifact), new_cells()
    process(shard, cells, make_block(["a", "b"] * 20))
    jumped, following = after_a_reset(20, 10, NOTHING_BEFORE), after_a_reset(30, 20, 30)
    outcomes = process(shard, cells, jumped, following)
    assert offsets_of(outcomes) == list(range(40, 50))
    assert shard.take_snapshot(0, cells).epoch.reached[0].end_offset == 50
