"""A tombstone makes an entity forgotten: at its place in the log, in state, and for good."""

import os

import numpy as np
import pytest

from fixtures.artifacts import make_artifact
from fixtures.blocks import logged, make_block, new_cells
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.block import ERASURE, encode_block
from streamgauge.models.drift.windows import DriftWindows
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.validation import Message
from streamgauge.models.scoring.policy import ScoringPolicy, ShardPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.scoring.shard import ShardScorer

NOW = 1_700_000_000_000_000


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a"))


def new_shard(artifact, **policy):
    scorer = Scorer(artifact, ScoringPolicy(**policy), AlertPolicy())
    return ShardScorer(scorer, DriftWindows(artifact.drift_reference, 3600), ShardPolicy())


def process(shard, block, cells):
    return shard.process(0, encode_block(block), cells, os.urandom(8))


def with_erasure(block, place):
    block.row[place] = ERASURE
    block.features[place] = np.nan
    block.event_time_us[place] = 0
    return block


def scores_of(outcome):
    return [score.tobytes() for scored in outcome.scored for score in scored.score]


def test_a_tombstone_is_an_erasure_and_no_dead_letter(artifact):
    message = Message(7, NOW, b"", b"host-1")
    block, dead = Decoder(artifact.schema).decode(0, [message], 7, 8)
    assert dead == []
    assert block.entity_id.to_pylist() == ["host-1"]
    assert (block.row.tolist(), block.offset.tolist()) == ([ERASURE], [7])


@pytest.mark.parametrize("key", [b"\xff\xfe", b"x" * 257])
def test_a_tombstone_with_a_bad_key_is_a_dead_letter(artifact, key):
    block, [letter] = Decoder(artifact.schema).decode(0, [Message(7, NOW, b"", key)], 7, 8)
    assert len(block) == 0
    assert letter.reason == "bad_entity_id"
    assert "key of a tombstone" in letter.detail


def test_an_erased_entity_is_scored_as_new_and_other_entities_are_unchanged(artifact):
    block = with_erasure(make_block(["a", "b"] * 20), 20)
    outcome = process(new_shard(artifact), block, new_cells())
    [scored] = outcome.scored
    assert scored.erased == 1
    assert len(scored.block) == len(scored.score) == 39
    is_a = np.array(scored.block.entity_id.to_pylist()) == "a"
    scores = np.array(scores_of(outcome))
    of_a, of_b = scores[is_a].tolist(), scores[~is_a].tolist()
    again = block.take(np.arange(22, 40, 2), -1)
    assert of_a[10:] == scores_of(process(new_shard(artifact), again, new_cells()))
    alone = block.take(np.arange(1, 40, 2), -1)
    assert of_b == scores_of(process(new_shard(artifact), alone, new_cells()))


def test_state_holds_nothing_of_an_erased_entity(artifact):
    name, cells = "somebody-in-particular", new_cells()
    shard = new_shard(artifact)
    process(shard, make_block([name, "b"] * 20), cells)
    assert any(name.encode() in segment for segment in logged(cells))
    erasure = with_erasure(make_block([name, "b"], first=40, previous_end=40), 0)
    process(shard, erasure, cells)
    assert not any(name.encode() in segment for segment in logged(cells))
    assert shard.take_snapshot(0, cells).table.entity_ids == ["b"]
    assert shard.take_snapshot(0, cells).epoch.counts.erased == 1


def test_the_clock_does_not_name_an_erased_entity_that_advanced_it(artifact):
    name, cells = "somebody-in-particular", new_cells()
    shard = new_shard(artifact)
    process(shard, make_block(["b", name] * 20), cells)
    assert shard.take_snapshot(0, cells).table.clocks[0].latest == name
    process(shard, with_erasure(make_block([name], first=40, previous_end=40), 0), cells)
    assert shard.take_snapshot(0, cells).table.clocks[0].latest == ""
    assert not any(name.encode() in segment for segment in logged(cells))


def test_erasing_an_unknown_entity_does_nothing_even_when_the_shard_is_full(artifact):
    shard, cells = new_shard(artifact, entities_per_shard_max=2), new_cells()
    process(shard, make_block(["a", "b"] * 5), cells)
    outcome = process(shard, with_erasure(make_block(["x"], 10, 10), 0), cells)
    assert outcome.scored[0].set_aside == {}
    assert shard.take_snapshot(0, cells).table.entity_ids == ["a", "b"]


def test_a_block_with_an_erasure_gives_the_same_bits_when_scored_again(artifact):
    blocks = [make_block(["a", "b"] * 10), with_erasure(make_block(["b", "a"] * 10, 20, 20), 7)]
    blocks.append(make_block(["a", "b"] * 10, 40, 40))
    live, cells = new_shard(artifact), new_cells()
    expected = [scores_of(process(live, block, cells)) for block in blocks]
    cells = new_cells()
    assert [scores_of(process(new_shard(artifact), b, cells)) for b in blocks] == expected
