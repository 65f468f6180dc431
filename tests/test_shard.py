"""One shard's life: order, duplicates, gaps, crashes, restores. State is exact to the bit."""

import itertools
import os

import numpy as np
import pytest
from artifacts import make_artifact
from blocks import chain, copy_cells, make_block, new_cells

from models import artifact as artifacts
from models import shard as shard_module
from models.alerting import AlertPolicy
from models.drift_windows import DriftWindows
from models.errors import StateFormatError
from models.scorer import Scorer, ScoringPolicy
from models.shard import ShardPolicy, ShardScorer

NAMES = [f"e{i}" for i in range(7)]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a"))


def new_scorer(artifact, alerts=None, policy=None, shard_policy=None):
    scorer = Scorer(artifact, policy or ScoringPolicy(), alerts or AlertPolicy())
    windows = DriftWindows(artifact.drift_reference, 3600)
    return ShardScorer(scorer, windows, shard_policy or ShardPolicy())


def run(scorer, blocks, cells):
    """Scores by (partition, offset); fails if an event is scored twice."""
    scores = {}
    for block in blocks:
        for scored in scorer.process(0, block, cells, os.urandom(8)).scored:
            for offset, score in zip(scored.block.offset.tolist(), scored.score, strict=True):
                assert (scored.block.partition, offset) not in scores
                scores[(scored.block.partition, offset)] = score.tobytes()
    return scores


def make_blocks(count=12, size=40, partition=0):
    rng = np.random.default_rng(5)
    names = [rng.choice(NAMES, size).tolist() for _ in range(count)]
    return chain(make_block(n, first=i * size, partition=partition) for i, n in enumerate(names))


def test_a_table_rebuilt_before_every_block_gives_the_same_bits(artifact):
    blocks = make_blocks()
    expected = run(new_scorer(artifact), blocks, new_cells())
    cells, scores = new_cells(), {}
    for block in blocks:
        scores |= run(new_scorer(artifact), [block], cells)
    assert scores == expected
    assert len(scores) == 12 * 40


def test_snapshots_change_no_bit(artifact, monkeypatch):
    blocks = make_blocks()
    expected = run(new_scorer(artifact), blocks, new_cells())
    monkeypatch.setattr(shard_module, "LOG_BYTES_MIN", 1)
    monkeypatch.setattr(shard_module, "LOG_FACTOR", 0)
    cells = new_cells()
    scores = {}
    for block in blocks:
        scores |= run(new_scorer(artifact), [block], cells)
        assert len(cells.log.values) == 1  # nothing but the snapshot
    assert scores == expected


def test_cutting_the_log_into_other_blocks_changes_no_bit(artifact):
    whole = run(new_scorer(artifact), make_blocks(count=1, size=480), new_cells())
    rng = np.random.default_rng(5)
    names = rng.choice(NAMES, 480).tolist()
    parts = [make_blocks(count=1, size=480)[0]]
    cuts = [0, 1, 3, 70, 71, 200, 480]
    pieces = [parts[0].take(np.arange(a, b), 0) for a, b in itertools.pairwise(cuts)]
    linked = []
    for piece in pieces:
        first, end = int(piece.offset[0]), int(piece.offset[-1]) + 1
        linked.append(
            type(piece)(
                0, first, end, first or -1, piece.offset, piece.row, piece.event_time_us,
                piece.entity_id, piece.features,
            )
        )  # fmt: skip
    assert names == parts[0].entity_id.to_pylist()
    assert run(new_scorer(artifact), linked, new_cells()) == whole


def test_entities_do_not_share_state(artifact):
    both = make_block(["a", "b"] * 30)
    alone = both.take(np.arange(0, 60, 2), previous_end=-1)
    mixed = run(new_scorer(artifact), [both], new_cells())
    single = run(new_scorer(artifact), [alone], new_cells())
    assert single == {key: mixed[key] for key in single}


def test_nan_neighbours_change_nothing(artifact):
    both = make_block(["a", "b"] * 30)
    both.features[1::2] = np.nan
    alone = both.take(np.arange(0, 60, 2), previous_end=-1)
    mixed = run(new_scorer(artifact), [both], new_cells())
    single = run(new_scorer(artifact), [alone], new_cells())
    assert single == {key: mixed[key] for key in single}


def test_a_stale_table_in_memory_is_never_used(artifact):
    blocks = make_blocks()
    expected = run(new_scorer(artifact), blocks, new_cells())
    scorer, cells = new_scorer(artifact), new_cells()
    scores = run(scorer, blocks[:6], cells)
    checkpoint = copy_cells(cells)
    run(scorer, blocks[6:9], cells)  # scored, but the checkpoint does not know of it
    scores |= run(scorer, blocks[6:], checkpoint)
    assert scores == expected


def test_duplicates_are_dropped_and_counted(artifact):
    blocks = make_blocks()
    scorer, cells = new_scorer(artifact), new_cells()
    expected = run(scorer, blocks[:5], cells)
    before = copy_cells(cells)
    again = [scorer.process(0, block, cells, os.urandom(8)) for block in blocks[:5]]
    assert [outcome.duplicates for outcome in again] == [1] * 5
    assert (cells.epoch.value, cells.log.values) == (before.epoch.value, before.log.values)
    assert len(expected) == 200


def test_blocks_out_of_order_are_held_until_the_gap_closes(artifact):
    blocks = make_blocks()
    expected = run(new_scorer(artifact), blocks, new_cells())
    order = [1, 0, 4, 3, 2, 5, 7, 8, 6, 11, 10, 9]
    cells, scores = new_cells(), {}
    for i in order:  # a new worker each time: what is held back lies in state
        scores |= run(new_scorer(artifact), [blocks[i]], cells)
    assert scores == expected
    assert cells.held.values == []


def test_a_gap_past_the_bound_is_given_up_and_counted(artifact):
    blocks = make_blocks()
    scorer = new_scorer(artifact, shard_policy=ShardPolicy(held_blocks_max=3))
    cells = new_cells()
    outcomes = [scorer.process(0, b, cells, os.urandom(8)) for b in [blocks[0], *blocks[2:]]]
    assert sum(outcome.desyncs for outcome in outcomes) == 1
    scored = [s.block.first_offset for outcome in outcomes for s in outcome.scored]
    assert scored == [0, *range(80, 480, 40)]


def test_a_block_that_overlaps_the_position_is_trimmed(artifact):
    block = make_blocks(count=1, size=40)[0]
    scorer, cells = new_scorer(artifact), new_cells()
    first = block.take(np.arange(25), -1)
    first = type(first)(0, 0, 25, -1, *(getattr(first, n) for n in (
        "offset", "row", "event_time_us", "entity_id", "features")))  # fmt: skip
    scores = run(scorer, [first], cells) | run(new_scorer(artifact), [block], cells)
    assert scores == run(new_scorer(artifact), [block], new_cells())


def test_two_partitions_have_chains_of_their_own(artifact):
    one, two = make_blocks(partition=0), make_blocks(partition=1)
    cells = new_cells()
    scores = run(
        new_scorer(artifact), [b for pair in zip(one, two, strict=True) for b in pair], cells
    )
    assert len(scores) == 2 * 480


@pytest.mark.parametrize("fault", ["lost", "repeated", "flipped"])
def test_a_damaged_log_is_refused(artifact, fault):
    cells = new_cells()
    run(new_scorer(artifact), make_blocks(), cells)
    log = cells.log.values
    if fault == "lost":
        del log[3]
    elif fault == "repeated":
        log.append(log[3])
    else:
        middle = len(log[3]) // 2
        log[3] = log[3][:middle] + bytes([log[3][middle] ^ 1]) + log[3][middle + 1 :]
    with pytest.raises(StateFormatError, match="start from a savepoint"):
        run(new_scorer(artifact), make_blocks()[:1], cells)


def test_state_of_another_artifact_is_refused(artifact, tmp_path):
    cells = new_cells()
    run(new_scorer(artifact), make_blocks(), cells)
    other = artifacts.load(make_artifact(tmp_path / "b", seed=9))
    with pytest.raises(StateFormatError, match="artifact digest must be"):
        run(new_scorer(other), make_blocks()[:1], cells)


def test_new_thresholds_do_not_change_what_was_remembered(artifact):
    strict = AlertPolicy(once_in=2.0, close_once_in=1.5, k=1, n=1)
    blocks = make_blocks(count=40)
    cells = new_cells()
    run(new_scorer(artifact, strict), blocks[:20], cells)
    kept = copy_cells(cells)
    live = new_scorer(artifact, strict)
    run(live, blocks[:20], new_cells())
    rebuilt = new_scorer(artifact)._take(0, kept).table
    assert rebuilt.digest_of_rows() == live._live[0].table.digest_of_rows()
    lenient = new_scorer(artifact)
    run(lenient, blocks[:20], new_cells())
    assert lenient._live[0].table.digest_of_rows() != rebuilt.digest_of_rows()
