"""The gate and the arithmetic of the benchmarks, without a broker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import gate, load
from bench.gate import WrongScoresError
from bench.load import BASE_US, FEATURES, HIDDEN, SKEWS, Encoder, Load
from bench.peers.gru import Gru
from bench.scaling import Measured, need
from bench.summary import ratios, summary
from bench.topics import Scored
from fixtures.artifacts import make_forecaster
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.validation import Message

LOAD = Load(entities=40, events=2_000)
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    given = make_forecaster(FEATURES, HIDDEN).weights
    found = {name: given[f"gru.{name}"] for name in NAMES}
    return found | {"head_weight": given["mean.weight"], "head_bias": given["mean.bias"]}


def scores(weights: dict[str, np.ndarray], load: Load, rows: np.ndarray) -> np.ndarray:
    """Scores of a peer that keeps the hidden vector of event i in row `rows[i]`."""
    gru, slab = Gru(weights), np.zeros((load.entities, HIDDEN), np.float32)
    x, found = load.features(np.arange(load.events)), np.empty(load.events)
    for event, row in enumerate(rows.tolist()):
        one, slab[row] = gru.step(x[event][None], slab[row][None])
        found[event] = one[0]
    return found


def scored(score: np.ndarray, load: Load = LOAD) -> Scored:
    return Scored(load.time_us[: len(score)], score, np.zeros(len(score), np.int64))


def test_the_shared_step_has_the_scores_of_the_published_equations(
    weights: dict[str, np.ndarray],
) -> None:
    gate.check(LOAD, scored(scores(weights, LOAD, LOAD.entity)), weights, is_whole=True)


def test_a_hidden_vector_of_another_entity_does_not_pass(weights: dict[str, np.ndarray]) -> None:
    mixed = np.where(LOAD.entity == 3, 4, LOAD.entity)
    with pytest.raises(WrongScoresError, match="must be"):
        gate.check(LOAD, scored(scores(weights, LOAD, mixed)), weights, is_whole=True)


def test_a_missing_score_does_not_pass_a_whole_run(weights: dict[str, np.ndarray]) -> None:
    found = scored(scores(weights, LOAD, LOAD.entity)[:-1])
    with pytest.raises(WrongScoresError, match="2000 events must be scored once each; 1999"):
        gate.check(LOAD, found, weights, is_whole=True)
    gate.check(LOAD, found, weights, is_whole=False)


def test_a_repeated_score_does_not_pass() -> None:
    twice = Scored(np.full(2, BASE_US), np.ones(2), np.zeros(2, np.int64))
    with pytest.raises(WrongScoresError, match="in 2 scores"):
        gate.check_all_scored(LOAD, twice, is_whole=False)


def test_one_bit_of_difference_does_not_pass_for_the_product() -> None:
    score = np.linspace(1, 2, 10)
    gate.check_equal(scored(score), {BASE_US: float(score[0])})
    with pytest.raises(WrongScoresError, match="1 of 1 differ"):
        gate.check_equal(scored(score), {BASE_US: float(np.nextafter(score[0], 2))})


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_both_formats_carry_the_events_of_the_load(form: str) -> None:
    decoder = Decoder(Schema(tuple(Feature(f"f{i:02d}") for i in range(FEATURES)), "allow"))
    events = np.arange(LOAD.events)
    found: dict[int, tuple[str, list[float]]] = {}
    sent: dict[int, list[Message]] = {}
    for partition, _, value in getattr(Encoder(LOAD), form)(events, LOAD.time_us):
        messages = sent.setdefault(partition, [])
        messages.append(Message(len(messages), BASE_US, value))
    for partition, messages in sent.items():
        block, dead = decoder.decode(partition, messages, 0, len(messages))
        assert not dead
        names = block.entity_id.to_pylist()
        rows = zip(block.event_time_us.tolist(), names, block.features, strict=True)
        found |= {time_us: (name, row.tolist()) for time_us, name, row in rows}
    wanted = zip(LOAD.time_us.tolist(), LOAD.entity, LOAD.features(events), strict=True)
    assert found == {at: (LOAD.names[entity], row.tolist()) for at, entity, row in wanted}


@pytest.mark.parametrize("skew", SKEWS)
def test_a_load_is_as_skewed_as_its_name_says(skew: str) -> None:
    counts = np.bincount(Load(1_000, 100_000, skew).entity, minlength=1_000)
    least = {"uniform": 0.0005, "zipf": 0.15, "hot": 0.49}[skew]
    most = {"uniform": 0.002, "zipf": 0.30, "hot": 0.52}[skew]
    assert least < counts[0] / counts.sum() < most


def test_a_ratio_without_its_peer_is_null_and_says_why() -> None:
    run = {"events_s": 100.0, "cpu_s_per_million": 10.0, "cores_outside": 0.0}
    results = {
        "kernel": {"us_per_event": {"torch single": 30.0, "kernel": 3.0}},
        "runs": {
            "streamgauge, JSON": {"round 1": run},
            "Quix Streams": {"round 1": {**run, "cpu_s_per_million": 45.0}},
            "PyFlink, process mode": {"round 1": {"reason": "no wheel"}},
        },
    }
    found, reasons = ratios(results)
    assert found["kernel_vs_torch_single"] == 10.0
    assert found["cpu_vs_quix"] == 4.5
    assert found["cpu_vs_pyflink"] is None
    assert reasons["cpu_vs_pyflink"] == "PyFlink, process mode: no wheel"
    assert reasons["cpu_vs_rcf"] == "Random Cut Forest (Java): not asked for"


def test_disturbed_runs_are_left_out_where_quiet_ones_exist() -> None:
    def run(rate: float, outside: float) -> dict[str, float]:
        return {"events_s": rate, "cpu_s_per_million": 1.0, "cores_outside": outside}

    assert summary([run(100, 0.0), run(10, 0.9), run(90, 0.1)])["events_s"] == 95  # type: ignore[index]
    assert summary([run(10, 0.9), run(20, 0.8), run(30, 0.9)])["events_s"] == 20  # type: ignore[index]
    assert summary([{"reason": "did not start"}]) is None


def test_weights_of_an_artifact_are_those_of_its_network(
    tmp_path: Path, weights: dict[str, np.ndarray]
) -> None:
    from fixtures.artifacts import make_artifact
    from streamgauge.models.artifacts import artifact as artifacts

    made: Artifact = artifacts.load(make_artifact(tmp_path / "a", FEATURES, HIDDEN))
    saved = gate.save_weights(made, tmp_path / "w.npz")
    np.testing.assert_array_equal(Gru.load(tmp_path / "w.npz").head_bias, saved["head_bias"])
    assert {name: array.shape for name, array in saved.items()} == {
        name: array.shape for name, array in weights.items()
    }
    assert load.PARTITIONS > 1


def test_the_model_of_cost_grows_with_events_and_its_memory_with_entities() -> None:
    one_core = Measured(10.0, 400.0, 180.0, 1_800.0, 4.0)
    few, many = need(one_core, 10_000, 60_000), need(one_core, 1_000_000, 60_000)
    assert few.cores == many.cores == pytest.approx(1.0)
    assert need(one_core, 10_000, 120_000).cores == pytest.approx(2.0)
    # Each entity in the table and the index; of one shard there is a copy.
    assert many.worker_bytes - few.worker_bytes == pytest.approx(990_000 * 1_890 + 40_000 * 1_800)
    assert (many.state_bytes_s, many.network_bytes_s) == (60_000 * 360, 60_000 * 400)
    assert (few.shards, many.shards) == (2, 20)
    # 15 events of each of a million entities are stepped again, 4 µs each.
    assert many.restore_s == pytest.approx(10 + 60 + 3.6)
