"""State is exact whatever happens: simulated pipelines against an undisturbed run."""

from pathlib import Path

import pytest

import simulator.bugs
import simulator.bugs_of_alerts
import simulator.bugs_of_logs
import simulator.bugs_of_starts
from fixtures.blocks import chain, make_block, new_cells
from simulator.mutation import BUGS
from simulator.reference import FEATURES, POLICIES, Reference
from simulator.simulate import first_violation, replay_command
from streamgauge.models.blocks.block import encode_block
from streamgauge.models.drift.windows import DriftWindows
from streamgauge.models.scoring.policy import ShardPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.scoring.shard import ShardScorer
from streamgauge.models.state.entity_table import EntityTable

SEEDS = 300  # `make simulate` runs 10,000
SEEDS_OF_A_BUG = 300  # a planted bug must show within so many; the last one does at 96
FOUND = Path(__file__).with_name("seeds.txt")


@pytest.fixture(scope="module")
def reference():
    return Reference()


def test_no_promise_is_broken_in_any_seed(reference):
    found = first_violation(range(SEEDS), reference)
    assert found is None, f"{found[1]!r}; again with: {replay_command(found[0])}"


def test_seeds_that_found_bugs_stay_clean(reference):
    lines = [line for line in FOUND.read_text().splitlines() if not line.startswith("#")]
    seeds = [int(line.split()[0]) for line in lines]
    assert seeds
    assert first_violation(seeds, reference) is None


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(reference, bug):
    with BUGS[bug]():
        assert first_violation(range(SEEDS_OF_A_BUG), reference) is not None


def new_shard(reference, held_blocks_max):
    windows = DriftWindows(reference.artifact.drift_reference, 600)
    policy = ShardPolicy(held_blocks_max=held_blocks_max)
    return ShardScorer(Scorer(reference.artifact, *POLICIES[0]), windows, policy)


def feed(shard, blocks):
    """Outcomes of blocks in the order of their arrival at one shard."""
    cells = new_cells()
    arriving = enumerate(map(encode_block, blocks))
    return [shard.process(0, data, cells, bytes([i] * 8)) for i, data in arriving]


def make_chain(partition=0):
    return chain(
        make_block(["a", "b"], first=at, partition=partition, size=FEATURES)
        for at in range(0, 12, 2)
    )


def test_a_held_block_that_comes_again_is_no_reason_to_give_up_its_gap(reference):
    blocks = make_chain()
    order = [0, 2, 2, 2, 2, 2, 1]
    outcomes = feed(new_shard(reference, held_blocks_max=2), [blocks[i] for i in order])
    assert [outcome.desyncs for outcome in outcomes] == [0] * 7
    assert sum(outcome.duplicates for outcome in outcomes) == 4
    assert [len(outcome.scored) for outcome in outcomes] == [1, 0, 0, 0, 0, 0, 2]


def test_the_gap_with_most_blocks_behind_it_is_given_up(reference):
    one, two = make_chain(partition=0), make_chain(partition=1)
    order = [one[0], two[0], one[2], one[3], one[4], two[2], two[1]]
    outcomes = feed(new_shard(reference, held_blocks_max=3), order)
    assert [outcome.desyncs for outcome in outcomes] == [0, 0, 0, 0, 0, 1, 0]
    partitions = [[s.block.partition for s in outcome.scored] for outcome in outcomes]
    assert partitions == [[0], [1], [], [], [], [0, 0, 0], [1, 1]]


def test_a_new_entity_is_not_given_what_one_that_left_remembered(reference):
    layout = reference.layout
    table = EntityTable(layout)
    table.add(["stays", "leaves"])
    table.rows["event_time_us"] = 7
    table.retain(table.find(["stays"]))
    row = table.rows[table.add(["new"])[0]]
    assert row.tobytes() == bytes(layout.dtype.itemsize)
