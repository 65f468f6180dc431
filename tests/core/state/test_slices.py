"""A snapshot that is written in slices: small steps, exact wherever it is cut off, in turn."""

import os
from dataclasses import replace

import numpy as np
import pytest

from fixtures.artifacts import make_artifact
from fixtures.blocks import Bag, chain, copy_cells, logged, make_block, new_cells
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.block import ERASURE, encode_block
from streamgauge.models.drift.windows import DriftWindows
from streamgauge.models.errors import StateDamagedError
from streamgauge.models.scoring.policy import ScoringPolicy, ShardPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.scoring.shard import ShardScorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.models.state.epoch import decode_epoch
from streamgauge.models.state.segment import SNAPSHOT, read_segment

NAMES = [f"e{i}" for i in range(7)]
#: A segment holds a row; the log is as long as four tables before it is replaced.
SMALL = ShardPolicy(log_bytes_min=0, log_factor=4.0, segment_bytes_max=1, slice_bytes_max=1)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a"))


def new_shards(artifact, shard_policy=SMALL, policy=None, alerts=None):
    scorer = Scorer(artifact, policy or ScoringPolicy(), alerts or AlertPolicy())
    return ShardScorer(scorer, DriftWindows(artifact.drift_reference, 3600), shard_policy)


def make_blocks(count, size=40, names=NAMES):
    rng = np.random.default_rng(5)
    chosen = [rng.choice(names, size).tolist() for _ in range(count)]
    return chain(make_block(n, first=i * size) for i, n in enumerate(chosen))


def process(shards, block, cells, shard=0):
    return shards.process(shard, encode_block(block), cells, os.urandom(8))


def epoch_of(cells):
    return decode_epoch(cells.epoch.value)


def digest_of(shards, cells):
    return shards.take_snapshot(0, cells).table.digest_of_rows()


def is_slicing(shards, shard=0):
    return shards._live[shard].snapshot is not None


def run_until_slicing(shards, blocks, cells, written=0):
    """Process blocks until so many slices are written of a snapshot; returns the others."""
    blocks = iter(blocks)
    for block in blocks:
        process(shards, block, cells)
        if is_slicing(shards) and shards._live[0].snapshot._written == written:
            return list(blocks)
    raise AssertionError("no snapshot was begun")


def scores_of(shards, blocks, cells):
    results = [scored for block in blocks for scored in process(shards, block, cells).scored]
    return [scored.score.tobytes() for scored in results]


class Counted(Bag):
    """Counts bytes that are written."""

    def __init__(self, values=()):
        super().__init__(values)
        self.written = 0

    def add(self, value):
        super().add(value)
        self.written += len(value)


def test_no_block_takes_more_than_a_segment_along(artifact):
    cells = replace(new_cells(), snapshot=(Counted(), Counted()))
    shards, blocks = new_shards(artifact), make_blocks(60)
    process(shards, blocks[0], cells)  # at once: policies were never written down
    segment_bytes = max(map(len, logged(cells)))
    before, taken = sum(cell.written for cell in cells.snapshot), []
    for block in blocks[1:]:
        is_first = is_slicing(shards) and shards._live[0].snapshot._written == 0
        process(shards, block, cells)
        after = sum(cell.written for cell in cells.snapshot)
        taken.append(after - before)
        before = after
        assert not is_first or taken[-1] > 0, "each block takes one along"
    assert max(taken) <= segment_bytes
    assert sum(size > 0 for size in taken) >= 2 * len(NAMES)  # two snapshots at least


def test_a_snapshot_is_written_twice_as_fast_as_large_blocks_come(artifact):
    shards = new_shards(artifact, replace(SMALL, slice_bytes_max=1 << 20))
    cells = replace(new_cells(), snapshot=(Counted(), Counted()))
    rest = run_until_slicing(shards, make_blocks(300, size=8), cells)
    before, log = sum(cell.written for cell in cells.snapshot), epoch_of(cells).log_bytes
    process(shards, rest[0], cells)
    assert is_slicing(shards)
    row_bytes, block_bytes = shards.layout.dtype.itemsize, epoch_of(cells).log_bytes - log
    written = sum(cell.written for cell in cells.snapshot) - before
    assert 2 * block_bytes <= written <= 2 * block_bytes + 2 * row_bytes


def test_a_shard_killed_after_any_block_is_rebuilt_with_the_same_bits(artifact):
    live, cells, parts, done = new_shards(artifact), new_cells(), 0, 0
    for block in make_blocks(60):
        before = epoch_of(cells).generation
        process(live, block, cells)
        parts += is_slicing(live) and live._live[0].snapshot._written > 0
        done += epoch_of(cells).generation - before
        assert digest_of(new_shards(artifact), copy_cells(cells)) == digest_of(live, cells)
    assert parts >= 2 * (len(NAMES) - 1)
    assert done >= 3  # the first one at once


@pytest.mark.parametrize("written", range(7))
def test_a_shard_killed_between_two_slices_gives_the_same_scores(artifact, written):
    blocks, cells = make_blocks(60), new_cells()
    expected = scores_of(new_shards(artifact), blocks, new_cells())
    first = new_shards(artifact)
    rest = run_until_slicing(first, blocks, cells, written)
    again = new_shards(artifact)
    assert scores_of(again, rest, cells) == expected[len(blocks) - len(rest) :]
    assert digest_of(new_shards(artifact), cells) == digest_of(again, cells)


def test_a_part_of_a_snapshot_is_not_read_and_cleared_before_the_next_one(artifact):
    cells, blocks = new_cells(), make_blocks(60)
    rest = run_until_slicing(new_shards(artifact), blocks, cells, written=3)
    generation, found = epoch_of(cells).generation, logged(cells)
    other = cells.snapshot[generation % 2 == 0]  # a half of the two cells is one cell
    assert len(other.values) == 3
    other.values[0] = b"rubbish"
    assert other.values[0] not in found
    again = new_shards(artifact)
    run_until_slicing(again, rest, cells, written=1)
    assert epoch_of(cells).generation == generation
    layout = again.layout
    assert [read_segment(layout, data).kind for data in other.values] == [SNAPSHOT]


def test_with_the_last_slice_goes_what_the_snapshot_replaces(artifact):
    shards, cells = new_shards(artifact), new_cells()
    rest = run_until_slicing(shards, make_blocks(60), cells, written=len(NAMES) - 1)
    first_segment, generation = shards._live[0].snapshot._point[0], epoch_of(cells).generation
    process(shards, rest[0], cells)
    epoch = epoch_of(cells)
    assert (epoch.generation, epoch.first_segment) == (generation + 1, first_segment)
    segments = [read_segment(shards.layout, data) for data in logged(cells)]
    sequences = {True: [], False: []}
    for segment in segments:
        sequences[segment.kind == SNAPSHOT].append(segment.sequence)
    assert sorted(sequences[True]) == [(epoch.generation << 32) + n for n in range(len(NAMES))]
    assert sorted(sequences[False]) == list(range(first_segment, epoch.next_segment))


def test_a_frozen_table_stays_as_it_was(artifact):
    shards, cells = new_shards(artifact), new_cells()
    blocks = make_blocks(3)
    process(shards, blocks[0], cells)
    table = shards._live[0].table
    frozen, before = table.copy_rows(), table.digest_of_rows()
    process(shards, blocks[1], cells)
    assert frozen.digest_of_rows() == before != table.digest_of_rows()
    again = EntityTable(table.layout)
    again.fill(frozen.entity_ids, frozen.rows[: len(frozen)])
    again.clocks = frozen.clocks
    shards._scorer.step(again, blocks[1])
    assert again.digest_of_rows() == table.digest_of_rows()


def test_snapshots_are_numbered_apart(artifact):
    cells = new_cells()
    shards = new_shards(artifact)
    run_until_slicing(shards, make_blocks(60), cells, written=3)
    generation = epoch_of(cells).generation
    sequences = [
        [read_segment(shards.layout, d).sequence for d in c.values] for c in cells.snapshot
    ]
    assert sequences[generation % 2] == [(generation << 32) + n for n in range(len(sequences[1]))]
    assert sequences[generation % 2 == 0] == [((generation + 1) << 32) + n for n in range(3)]


def test_an_old_segment_in_the_cells_of_a_snapshot_is_refused(artifact):
    cells = new_cells()
    shards = new_shards(artifact)
    run_until_slicing(shards, make_blocks(60), cells, written=3)
    generation = epoch_of(cells).generation
    stray = cells.snapshot[generation % 2 == 0].values[0]
    cells.snapshot[generation % 2].add(stray)
    with pytest.raises(
        StateDamagedError, match=f"{(generation + 1) << 32} in snapshot {generation}"
    ):
        digest_of(new_shards(artifact), cells)


def due_together(artifact, policy=SMALL, shards=2):
    """A worker whose shards are fed in turn, and reach their bounds at once."""
    worker, cells = new_shards(artifact, policy), [new_cells() for _ in range(shards)]
    blocks = iter(make_blocks(1_000, size=4))
    return worker, cells, blocks


def test_one_snapshot_is_written_after_the_other(artifact):
    worker, cells, blocks = due_together(artifact, replace(SMALL, slice_bytes_max=1 << 20), 3)
    seen, order = set(), []
    for block in blocks:
        for shard, own in enumerate(cells):
            process(worker, block, own, shard)
            slicing = [one for one in range(3) if one in worker._live and is_slicing(worker, one)]
            assert len(slicing) <= 1
            order += [one for one in slicing if order[-1:] != [one]]
        seen = {shard for shard, own in enumerate(cells) if epoch_of(own).generation >= 3}
        if len(seen) == 3:
            break
    assert len(seen) == 3
    assert set(order[:3]) == {0, 1, 2}


def test_a_turn_is_over_when_its_bundle_has_failed(artifact):
    worker, cells, blocks = due_together(artifact)
    for block in blocks:
        kept = copy_cells(cells[0])
        process(worker, block, cells[0], 0)
        if is_slicing(worker):
            break
        process(worker, block, cells[1], 1)
    process(worker, block, cells[1], 1)
    assert not is_slicing(worker, 1)
    taken = worker._load(0, kept)  # of a state that does not know of the snapshot
    assert taken.snapshot is None
    process(worker, next(blocks), cells[1], 1)
    assert is_slicing(worker, 1)


def test_a_turn_is_over_when_its_table_has_left_memory(artifact):
    worker, cells, blocks = due_together(artifact, replace(SMALL, tables_max=1))
    begun = [0, 0]
    for block in (next(blocks) for _ in range(200)):
        for shard, own in enumerate(cells):
            process(worker, block, own, shard)
            begun[shard] += is_slicing(worker, shard)
    assert min(begun) > 0


def test_a_log_does_not_wait_for_one_that_is_idle(artifact):
    worker, cells, blocks = due_together(artifact)
    for block in blocks:
        process(worker, block, cells[0], 0)
        if is_slicing(worker):
            break
    bound = 4 * len(NAMES) * worker.layout.dtype.itemsize
    lengths = []
    for block in make_blocks(300):
        process(worker, block, cells[1], 1)
        lengths.append(epoch_of(cells[1]).log_bytes)
        if is_slicing(worker, 1):
            break
    assert 1.5 * bound < lengths[-1]
    assert lengths[-2] <= 1.5 * bound
    assert is_slicing(worker), "the other one resumes with its next block"


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_logs_that_reach_their_bound_at_once_grow_by_half_at_most(artifact, shards):
    policy = replace(SMALL, log_factor=8.0, slice_bytes_max=1 << 20)
    worker = new_shards(artifact, policy)
    cells = [new_cells() for _ in range(shards)]
    longest, largest = 0, 0
    for block in make_blocks(200, size=4):
        for shard, own in enumerate(cells):
            before = epoch_of(own).log_bytes
            process(worker, block, own, shard)
            longest = max(longest, after := epoch_of(own).log_bytes)
            largest = max(largest, after - before)
    bound = 8 * len(NAMES) * worker.layout.dtype.itemsize
    assert bound < longest <= 1.5 * bound + shards * largest
    assert all(epoch_of(own).generation > 2 for own in cells)


def test_a_log_is_bounded_even_if_no_snapshot_is_ever_finished(artifact):
    cells, lengths = new_cells(), []
    for block in make_blocks(120):
        process(new_shards(artifact), block, cells)  # a new worker for each block
        lengths.append(epoch_of(cells).log_bytes)
    bound = 4 * len(NAMES) * new_shards(artifact).layout.dtype.itemsize
    assert 2 * bound < max(lengths) + lengths[1] < 2 * bound + 3 * lengths[1]
    assert epoch_of(cells).generation >= 3  # at once, in the end


def erasing(block):
    """The same block, whose last event is an erasure."""
    row = block.row.copy()
    row[-1] = ERASURE
    return replace(block, row=row)


def test_an_erasure_gives_slices_up_and_leaves_no_trace(artifact):
    shards, cells = new_shards(artifact), new_cells()
    rest = run_until_slicing(shards, make_blocks(60), cells, written=3)
    name = rest[0].entity_id[-1].as_py()
    process(shards, erasing(rest[0]), cells)
    assert not is_slicing(shards)
    assert epoch_of(cells).log_bytes == 0
    assert not any(name.encode() in data for data in logged(cells))
    assert len(logged(cells)) == len(NAMES) - 1
    process(shards, rest[1], cells)
    assert digest_of(new_shards(artifact), cells) == digest_of(shards, cells)


def test_new_policies_begin_with_a_snapshot_at_once(artifact):
    cells = new_cells()
    rest = run_until_slicing(new_shards(artifact), make_blocks(60), cells, written=3)
    others = new_shards(artifact, alerts=AlertPolicy(per_entity_day=7))
    process(others, rest[0], cells)
    assert not is_slicing(others)
    assert len(logged(cells)) == len(NAMES)
    assert epoch_of(cells).policies == others._scorer.policies


def test_a_table_of_one_segment_is_written_at_once(artifact):
    shards = new_shards(artifact, replace(SMALL, segment_bytes_max=1 << 20))
    cells, snapshots = new_cells(), []
    for block in make_blocks(60):
        process(shards, block, cells)
        assert not is_slicing(shards)
        snapshots.append(epoch_of(cells).generation)
    assert max(snapshots) > 2


def test_a_table_that_is_rebuilt_has_the_room_that_a_snapshot_made(artifact):
    """Who leaves where a snapshot is taken makes room for others; a restore must know."""
    policy = ScoringPolicy(entities_per_shard_max=len(NAMES), entity_ttl_s=600)
    shards, cells = new_shards(artifact, policy=policy), new_cells()
    blocks = make_blocks(3) + make_blocks(40, names=NAMES[:2])[3:]
    rest = run_until_slicing(shards, chain(blocks), cells)
    assert len(shards._live[0].table) == 2
    newcomers = rest[0].take(np.arange(40), rest[0].previous_end)
    newcomers = replace(newcomers, entity_id=make_block(["x", "y"] * 20).entity_id)
    outcome = process(shards, newcomers, cells)
    assert is_slicing(shards)
    assert len(outcome.scored[0].block) == 40
    for _ in range(2):  # while it is written, and when it was given up
        assert digest_of(new_shards(artifact, policy=policy), cells) == digest_of(shards, cells)
        shards = new_shards(artifact, policy=policy)
        for block in rest[1:3]:
            process(shards, block, cells)


def test_cells_of_the_log_are_filled_one_after_the_other_and_in_a_ring(artifact):
    shards, cells = new_shards(artifact), new_cells(log=5)
    used = set()
    for block in make_blocks(150):
        process(shards, block, cells)
        epoch = epoch_of(cells)
        used.add(epoch.log_cell)
        assert epoch.log_cell - epoch.first_cell < 5
        ring = {n % 5 for n in range(epoch.first_cell, epoch.log_cell + 1)}
        assert not any(cells.log[n].values for n in range(5) if n not in ring)
    assert max(used) >= 10
    assert digest_of(new_shards(artifact), cells) == digest_of(shards, cells)


@pytest.mark.parametrize("log", [1, 2])
def test_a_ring_without_a_cell_left_is_still_read_right(artifact, log):
    shards, cells = new_shards(artifact), new_cells(log=log)
    for block in make_blocks(80):
        process(shards, block, cells)
        assert digest_of(new_shards(artifact), copy_cells(cells)) == digest_of(shards, cells)
    assert epoch_of(cells).generation > 2
