"""However a block's events are put into groups, they come to what they come to one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from fixtures.artifacts import make_artifact, make_forecaster
from fixtures.blocks import make_block
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.scored_block import ScoredBlock
from streamgauge.models.forecast.forecaster import Forecaster
from streamgauge.models.kernel import step
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_row import floats
from streamgauge.models.state.entity_table import EntityTable

HOUR_US = 3_600_000_000
EAGER = AlertPolicy(per_entity_day=500, cooldown_s=60, new_normal_after=50)
COLUMNS = ("score", "rarity_1_in_n", "verdict", "confidence", "loss")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    directory = tmp_path_factory.mktemp("artifact") / "a"
    return artifacts.load(make_artifact(directory, features=5, hidden=16))


def stepped(
    artifact: Artifact, blocks: list[Block], policy: ScoringPolicy
) -> tuple[list[ScoredBlock], EntityTable]:
    scorer = Scorer(artifact, policy, EAGER)
    table = EntityTable(scorer.layout)
    return [scorer.step(table, block) for block in blocks], table


def one_by_one(block: Block) -> list[Block]:
    return [block.take(np.array([i]), block.previous_end) for i in range(len(block))]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    late=st.sampled_from(["score", "set_aside"]),
    ttl_s=st.sampled_from([0, 600]),
    skew=st.floats(0.05, 3.0),
    missing=st.sampled_from([0.0, 0.001, 0.2]),
)
def test_a_block_comes_to_what_its_events_come_to_one_by_one(
    artifact: Artifact, seed: int, late: str, ttl_s: int, skew: float, missing: float
) -> None:
    rng = np.random.default_rng(seed)
    policy = ScoringPolicy(late, entities_per_shard_max=30, entity_ttl_s=ttl_s, warmup_events=5)
    blocks = []
    for i in range(3):
        count, share = int(rng.integers(1, 300)), 1 / (1 + np.arange(40)) ** skew
        names = [f"e{n}" for n in rng.choice(40, count, p=share / share.sum())]
        values = rng.normal(size=(count, 5)).astype(np.float32)
        values[rng.random(count) < 0.05] *= 30
        values[rng.random(values.shape) < missing] = np.nan
        values[np.isnan(values).all(axis=1), 0] = 1
        block = make_block(names, first=i * 1_000, features=values, partition=i // 2)
        block.event_time_us[rng.random(count) < 0.02] -= HOUR_US
        block.event_time_us[count // 2 :] += HOUR_US
        blocks.append(block)

    together, table = stepped(artifact, blocks, policy)
    apart, other = stepped(artifact, [one for b in blocks for one in one_by_one(b)], policy)

    for name in COLUMNS:
        one, two = (np.concatenate([getattr(s, name) for s in way]) for way in (together, apart))
        assert one.tobytes() == two.tobytes(), name
    assert [t for s in together for t in s.transitions] == [t for s in apart for t in s.transitions]
    assert sum(s.late for s in together) == sum(s.late for s in apart)
    for reason in ("late_event", "too_many_entities"):
        aside = [
            [int(o) for s in way if reason in s.set_aside for o in s.set_aside[reason].offset]
            for way in (together, apart)
        ]
        assert aside[0] == aside[1], reason
    assert table.digest_of_rows() == other.digest_of_rows()


def test_alerts_of_a_hot_entity_open_and_close_inside_a_block(artifact: Artifact) -> None:
    values = np.random.default_rng(0).normal(size=(3_000, 5)).astype(np.float32)
    values[500::300] *= 50
    block = make_block(["hot" if i % 2 else f"e{i % 300}" for i in range(3_000)], features=values)
    policy = ScoringPolicy(warmup_events=20)
    (together,), _ = stepped(artifact, [block], policy)
    apart, _ = stepped(artifact, one_by_one(block), policy)
    hot = [one.status for one in together.transitions if one.entity_id == "hot"]
    assert {"opened", "closed"} <= set(hot)
    assert together.transitions == [t for scored in apart for t in scored.transitions]


@njit
def arithmetic(floats: Any, event: Any, network: Any, scratch: Any) -> Any:
    """All of a step but its matrix products."""
    memory = step._addresses_of(floats, floats, network, scratch)
    step._advance(0, 0, memory)
    return step._features(event, memory, network.vectors, network.params)


def test_only_what_is_written_as_one_is_a_fused_multiply_add(artifact: Artifact) -> None:
    """Where a compiler fuses by itself, bits depend on the machine it compiles for."""
    forecaster, one = artifact.forecaster, np.float32(1)
    rows = np.zeros(2, forecaster.dtype)
    event = step._Event(0, 0, 0, 0, 0, True, True, True, one, one, one, one)
    arithmetic(floats(rows), event, forecaster.network, forecaster.scratch)
    for text in arithmetic.inspect_asm().values():
        assert "mulps" in text
        assert "fmadd" not in text


def test_each_feature_has_residuals_of_its_own() -> None:
    """Without a word of the network a forecast is the linear one, and so is its residual."""
    made = make_forecaster(features=90)
    silent = {name: np.zeros_like(weight) for name, weight in made.weights.items()}
    forecaster = Forecaster(
        made.schema,
        made.spec,
        silent,
        linear=made.linear,
        priors=made.priors,
        score_priors=made.score_priors,
    )
    rows, x = np.zeros(3, forecaster.dtype), np.random.default_rng(0).normal(size=(3, 90))
    forecaster.fill_new(rows, ["a", "b", "c"])
    rows["event_count"] = rows["statistics_weight"] = 1
    learn, time_us = np.zeros(3, np.bool_), np.zeros(3, np.int64)
    found = forecaster.step(x.astype(np.float32), rows, time_us, learn).residuals
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    np.testing.assert_allclose(found[:, 1], np.square(x), rtol=1e-5)
