"""One shard's life: order, duplicates, gaps, crashes, restores. State is exact to the bit."""

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest

from fixtures.artifacts import make_artifact
from fixtures.blocks import chain, copy_cells, logged, make_block, new_cells
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.block import encode_block
from streamgauge.models.drift.windows import DriftWindows
from streamgauge.models.errors import StateFormatError
from streamgauge.models.scoring.policy import ScoringPolicy, ShardPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.scoring.shard import ShardScorer

NAMES = [f"e{i}" for i in range(7)]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a"))


def new_scorer(artifact, alerts=None, policy=None, shard_policy=None):
    scorer = Scorer(artifact, policy or ScoringPolicy(), alerts or AlertPolicy())
    windows = DriftWindows(artifact.drift_reference, 3600)
    return ShardScorer(scorer, windows, shard_policy or ShardPolicy())


def process(scorer, block, cells):
    return scorer.process(0, encode_block(block), cells, os.urandom(8))


def run(scorer, blocks, cells):
    """Scores by (partition, offset); fails if an event is scored twice."""
    scores = {}
    for block in blocks:
        for scored in process(scorer, block, cells).scored:
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


def test_snapshots_change_no_bit(artifact):
    blocks = make_blocks()
    expected = run(new_scorer(artifact), blocks, new_cells())
    always = ShardPolicy(log_bytes_min=0, log_factor=0.0)
    cells = new_cells()
    scores = {}
    for block in blocks:
        scores |= run(new_scorer(artifact, shard_policy=always), [block], cells)
        assert len(logged(cells)) == 1  # nothing but the snapshot
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
        linked.append(replace(piece, first_offset=first, end_offset=end, previous_end=first or -1))
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
    again = [process(scorer, block, cells) for block in blocks[:5]]
    assert [outcome.duplicates for outcome in again] == [1] * 5
    assert (cells.epoch.value, logged(cells)) == (before.epoch.value, logged(before))
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
    outcomes = [process(scorer, block, cells) for block in [blocks[0], *blocks[2:]]]
    assert sum(outcome.desyncs for outcome in outcomes) == 1
    scored = [s.block.first_offset for outcome in outcomes for s in outcome.scored]
    assert scored == [0, *range(80, 480, 40)]


def test_a_block_that_overlaps_the_position_is_trimmed(artifact):
    block = make_blocks(count=1, size=40)[0]
    scorer, cells = new_scorer(artifact), new_cells()
    first = replace(block.take(np.arange(25), -1), end_offset=25)
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
    log = cells.log[0].values
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
    strict = AlertPolicy(per_entity_day=5_000, cooldown_s=0)
    blocks = make_blocks(count=40)
    cells = new_cells()
    run(new_scorer(artifact, strict), blocks[:20], cells)
    kept = copy_cells(cells)
    live = new_scorer(artifact, strict)
    run(live, blocks[:20], new_cells())
    rebuilt = new_scorer(artifact)._load(0, kept).table
    assert rebuilt.digest_of_rows() == live._live[0].table.digest_of_rows()
    lenient = new_scorer(artifact)
    run(lenient, blocks[:20], new_cells())
    assert lenient._live[0].table.digest_of_rows() != rebuilt.digest_of_rows()


def damage(cells):
    """Flip a bit in the last segment of a log."""
    log = cells.log[0].values
    middle = len(log[-1]) // 2
    log[-1] = log[-1][:middle] + bytes([log[-1][middle] ^ 1]) + log[-1][middle + 1 :]


def test_a_shard_with_a_damaged_log_can_be_reset_and_resumes_where_it_was(artifact):
    blocks, cells = make_blocks(), new_cells()
    run(new_scorer(artifact), blocks[:6], cells)
    damage(cells)
    scorer = new_scorer(artifact, shard_policy=ShardPolicy(on_damage="reset"))
    process(scorer, blocks[5], cells)  # a repeat: nothing of it is scored, nothing written
    scores = run(scorer, blocks[6:], cells)
    assert len(scores) == 6 * 40
    alone = chain(block.take(np.arange(40), -1) for block in blocks[6:])
    assert scores == run(new_scorer(artifact), alone, new_cells())  # entities restarted
    epoch = new_scorer(artifact).take_snapshot(0, cells).epoch
    assert (epoch.counts.resets, epoch.counts.scored, epoch.reached[0].end_offset) == (1, 480, 480)


def test_only_damage_is_reset_and_a_later_format_never(artifact):
    cells = new_cells()
    run(new_scorer(artifact), make_blocks()[:2], cells)
    segment = cells.log[0].values[-1]
    cells.log[0].values[-1] = segment[:3] + b"\x63" + segment[4:]
    scorer = new_scorer(artifact, shard_policy=ShardPolicy(on_damage="reset"))
    with pytest.raises(StateFormatError, match="reads segments of format 1; got 99"):
        process(scorer, make_blocks()[2], cells)


def test_a_shard_is_quiet_only_after_nothing_changed_for_long_enough(artifact):
    scorer, cells, blocks = new_scorer(artifact), new_cells(), make_blocks(count=2)
    run(scorer, blocks[:1], cells)
    calls = [
        scorer.flush_if_idle(0, cells, b"1" * 8, now_s=now_s, idle_s=60.0) for now_s in (0, 59)
    ]
    run(scorer, blocks[1:], cells)
    calls += [
        scorer.flush_if_idle(0, cells, b"2" * 8, now_s=now_s, idle_s=60.0)
        for now_s in (60, 119, 120)
    ]
    assert [sum(report.events for report in reports) for reports in calls] == [0, 0, 0, 0, 80]


def test_what_a_shard_counted_survives_a_rebuild(artifact):
    blocks, cells = make_blocks(count=4), new_cells()
    for block in (blocks[0], blocks[0], blocks[2], blocks[1], blocks[3]):
        process(new_scorer(artifact), block, cells)
    counts = new_scorer(artifact).take_snapshot(0, cells).epoch.counts
    assert (counts.scored, counts.held_back, counts.stale_tables, counts.resets) == (160, 1, 0, 0)


def test_a_shard_that_starts_from_a_snapshot_gives_the_same_bits(artifact):
    blocks, cells = make_blocks(), new_cells()
    scorer = new_scorer(artifact)
    expected = run(scorer, blocks, new_cells())
    run(scorer, blocks[:5], cells)
    process(scorer, blocks[7], cells)  # held back: it comes again
    snapshot = new_scorer(artifact).take_snapshot(0, cells)
    again, started = new_cells(), new_scorer(artifact)
    started.start_from(snapshot, again, os.urandom(8))
    overlapping = chain(block.take(np.arange(40), -1) for block in blocks[3:])
    scores = run(started, overlapping[:3], again)
    scores |= run(new_scorer(artifact), overlapping[3:], again)  # and from the log it wrote
    assert scores == {key: bits for key, bits in expected.items() if key[1] >= 200}
