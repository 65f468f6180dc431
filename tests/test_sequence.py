"""Long runs of one entity take another way through the kernel, and come out with equal bits."""

from __future__ import annotations

import numpy as np
import pytest
from artifacts import make_artifact, make_forecaster
from blocks import make_block
from hypothesis import given, settings
from hypothesis import strategies as st

from models import artifact as artifacts
from models import scorer as scorers
from models.alerting import AlertPolicy
from models.artifact import Artifact
from models.block import Block
from models.kernel import TILES, TileScores
from models.scored import ScoredBlock
from models.scorer import Scorer, ScoringPolicy
from models.selftest import sequences_agree
from models.table import EntityTable
from models.tiles import SEQUENCES_MAX, sequences, waves

EAGER = AlertPolicy(3_000.0, 120.0, new_normal_after=40, critical_once_in=4)
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a", 5, 16))


@pytest.mark.parametrize("shape", [(3, 8), (38, 64), (25, 32)])
@pytest.mark.parametrize("name", ["new", "known-1"])
@pytest.mark.parametrize("learn", [True, False])
def test_a_sequence_has_the_bits_of_its_tiles(
    shape: tuple[int, int], name: str, learn: bool
) -> None:
    forecaster, count = make_forecaster(*shape), TILES[0]
    rng = np.random.default_rng(4)
    rows = np.zeros(count, np.dtype(list(forecaster.fields), align=True))
    forecaster.fill_new(rows, [name] + ["x"] * (count - 1))
    when, x = np.arange(203) * 5_000_000_000, rng.normal(size=(203, shape[0])).astype(np.float32)
    x *= rng.choice(np.array([1e-3, 1, 40, 1e30], np.float32), size=(203, 1))
    tile = np.zeros((count, shape[0]), np.float32)
    told = []
    for i, one in enumerate(x):
        tile[0] = one
        if i == 3:
            row = rows[:1].copy()
        now = np.full(count, when[i])
        result = forecaster.step(tile, rows, now, np.full(count, learn or i < 3))
        told.append((result.score[0], result.contribution[0].copy(), result.expected[0].copy()))
        told[-1] += (result.loss[0], result.change[0])

    result = forecaster.sequence.step(x[3:], row, when[3:], learn)

    columns = (result.score, result.contribution, result.expected, result.loss, result.change)
    for i, column in enumerate(columns):
        assert np.array([one[i] for one in told[3:]]).tobytes() == column.tobytes(), i
    for field in rows.dtype.names:
        assert row[field].tobytes() == rows[field][:1].tobytes(), field


def both_ways(
    artifact: Artifact, blocks: list[Block], policy: ScoringPolicy
) -> list[tuple[list[ScoredBlock], EntityTable]]:
    """What the blocks come to with sequences, and by tiles alone."""
    found = []
    for take_out in (sequences, lambda place, events: (events, [])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scorers, "sequences", take_out)
            scorer = Scorer(artifact, policy, EAGER)
            table = EntityTable(scorer.layout)
            found.append(([scorer.step(table, block) for block in blocks], table))
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    late=st.sampled_from(["score", "set_aside"]),
    ttl_s=st.sampled_from([0, 600]),
    skew=st.floats(0.05, 3.0),
    missing=st.sampled_from([0.0, 0.001, 0.2]),
)
def test_whichever_way_events_take_they_come_to_the_same(
    artifact: Artifact, seed: int, late: str, ttl_s: int, skew: float, missing: float
) -> None:
    rng = np.random.default_rng(seed)
    policy = ScoringPolicy(late, entities_per_shard_max=12, entity_ttl_s=ttl_s, warmup_events=5)
    blocks = []
    for i in range(3):
        count = int(rng.integers(1, 700))
        share = 1 / (1 + np.arange(15)) ** skew
        names = [f"e{n}" for n in rng.choice(15, count, p=share / share.sum())]
        values = rng.normal(size=(count, 5)).astype(np.float32)
        values[rng.random(count) < 0.05] *= 30
        values[rng.random(values.shape) < missing] = np.nan
        values[np.isnan(values).all(axis=1), 0] = 1
        block = make_block(names, first=i * 1_000, features=values, partition=i // 2)
        block.event_time_us[rng.random(count) < 0.02] -= HOUR_US
        block.event_time_us[count // 2 :] += HOUR_US
        blocks.append(block)

    (ours, table), (theirs, other) = both_ways(artifact, blocks, policy)

    for one, two in zip(ours, theirs, strict=True):
        for name in ("score", "once_in", "verdict", "confidence", "loss"):
            assert getattr(one, name).tobytes() == getattr(two, name).tobytes(), name
        assert one.transitions == two.transitions
        assert one.late == two.late
        assert {r: b.offset.tolist() for r, b in one.set_aside.items()} == {
            r: b.offset.tolist() for r, b in two.set_aside.items()
        }
    assert table.digest_of_rows() == other.digest_of_rows()


def test_a_hot_entity_takes_sequences_and_episodes_open_and_close_inside_them(
    artifact: Artifact,
) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3_000, 5)).astype(np.float32)
    values[500::300] *= 50
    block = make_block(["hot" if i % 2 else f"e{i % 300}" for i in range(3_000)], features=values)
    (ours, _), (theirs, _) = both_ways(artifact, [block], ScoringPolicy(warmup_events=20))
    hot = [one.status for one in ours[0].transitions if one.entity_id == "hot"]
    assert {"opened", "closed"} <= set(hot)
    assert ours[0].transitions == theirs[0].transitions


def test_only_what_few_entities_have_more_of_than_all_others_is_taken_out() -> None:
    place = np.array([7] * 30 + [1, 2, 3, 4, 5, 6, 8, 9] * 3)
    left, deep = sequences(place, np.arange(len(place)))
    assert [events.tolist() for events in deep] == [list(range(3, 30))]
    assert sorted(left.tolist() + deep[0].tolist()) == list(range(len(place)))
    assert all(len(set(place[wave])) == len(wave) for wave in waves(place, left))
    even = np.repeat(np.arange(SEQUENCES_MAX + 1), 50)
    assert sequences(even, np.arange(len(even)))[1] == []
    assert sequences(place[:0], np.arange(0))[1] == []


def test_a_sequence_that_differs_from_tiles_in_one_bit_is_not_used() -> None:
    forecaster = make_forecaster(5, 16)
    assert sequences_agree(forecaster)
    step = forecaster.sequence.step

    def careless(
        x: np.ndarray, row: np.ndarray, event_time_us: np.ndarray, learn: bool
    ) -> TileScores:
        result = step(x, row, event_time_us, learn)
        result.expected[7, 2] = np.nextafter(result.expected[7, 2], np.float32(np.inf))
        return result

    forecaster.sequence.step = careless
    assert not sequences_agree(forecaster)
