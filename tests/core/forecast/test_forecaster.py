from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fixtures.artifacts import KNOWN_ENTITIES, make_forecaster
from streamgauge.models.errors import ArtifactError, ConfigError
from streamgauge.models.forecast import self_test
from streamgauge.models.forecast.forecaster import Forecaster, Scores
from streamgauge.models.forecast.normaliser import NormaliserSpec
from streamgauge.models.forecast.spec import ForecasterSpec
from streamgauge.models.kernel.season import DAY_US
from streamgauge.models.training.offline import ROWS, new_rows

TIMES = np.zeros(ROWS, np.int64)
LEARN = np.ones(ROWS, np.bool_)
IDENTITY = NormaliserSpec(rate_min=1e-9)  # known entities keep their statistics


def run(
    forecaster: Forecaster, events: np.ndarray, slot: int = 0, learn: bool = True, entity: str = "x"
) -> tuple[list[Scores], np.ndarray]:
    """Step one entity through `events` (T, F) in `slot`; the rest are others."""
    rows = new_rows(forecaster, [entity] * ROWS)
    results = []
    for event in events:
        x = np.full((ROWS, events.shape[1]), np.nan, np.float32)
        x[slot] = event
        results.append(forecaster.step(x, rows, TIMES, LEARN & learn))
    return results, rows


def events(length: int = 40, features: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(length, features)).astype(np.float32)


def standard(forecaster: Forecaster) -> Forecaster:
    """The same with statistics 0 and 1 for the known entities: z is x."""
    priors = forecaster.priors
    priors = replace(
        priors,
        entity_mean=np.zeros_like(priors.entity_mean),
        entity_var=np.ones_like(priors.entity_var),
    )
    return Forecaster(
        forecaster.schema,
        forecaster.spec,
        forecaster.weights,
        linear=forecaster.linear,
        priors=priors,
        score_priors=forecaster.score_priors,
    )


def published_gru(weights: dict[str, np.ndarray], z: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Cho et al. 2014 as in torch.nn.GRUCell, one event, float64, gate by gate."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    size = len(h)
    from_z = w["gru.weight_ih"] @ z + w["gru.bias_ih"]
    from_h = w["gru.weight_hh"] @ h + w["gru.bias_hh"]

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    reset = sigmoid(from_z[:size] + from_h[:size])
    update = sigmoid(from_z[size : 2 * size] + from_h[size : 2 * size])
    new = np.tanh(from_z[2 * size :] + reset * from_h[2 * size :])
    return (1 - update) * new + update * h


def torch_gru(forecaster: Forecaster) -> torch.nn.GRU:
    gru = torch.nn.GRU(forecaster.schema.size, forecaster.spec.hidden, batch_first=True)
    named = {
        n[4:] + "_l0": torch.from_numpy(a) for n, a in forecaster.weights.items() if "gru" in n
    }
    gru.load_state_dict(named)
    return gru


def test_hidden_follows_the_published_equations_event_by_event():
    forecaster = standard(make_forecaster(hidden=8, normaliser=IDENTITY))
    x, hidden = events(), np.zeros(8)
    rows = new_rows(forecaster, [KNOWN_ENTITIES[0]] * ROWS)
    for event in x:
        forecaster.step(np.tile(event, (ROWS, 1)), rows, TIMES, LEARN)
        hidden = published_gru(forecaster.weights, event.astype(np.float64), hidden)
        assert np.abs(rows["hidden"] - hidden).max() < 1e-5


def test_hidden_follows_torch_over_a_whole_sequence():
    forecaster = standard(make_forecaster(hidden=8, normaliser=IDENTITY))
    x = events(200)
    with torch.no_grad():
        whole, _ = torch_gru(forecaster)(torch.from_numpy(x)[None])
    _, rows = run(forecaster, x, entity=KNOWN_ENTITIES[0])
    assert np.abs(rows["hidden"][0] - whole[0, -1].numpy()).max() < 1e-5


def test_expected_value_is_the_linear_forecast_plus_the_head_on_hidden():
    forecaster = standard(make_forecaster(hidden=8, lags=2, normaliser=IDENTITY))
    x, w = events(12).astype(np.float64), forecaster.weights
    results, _ = run(forecaster, x.astype(np.float32), entity=KNOWN_ENTITIES[0])
    hidden = np.zeros(8)
    for event in x[:-1]:
        hidden = published_gru(w, event, hidden)
    linear = 0.5 * x[-2] + 0.25 * x[-3]  # the coefficients of make_forecaster
    expected = linear + w["mean.weight"] @ hidden + w["mean.bias"]
    assert results[-1].expected[0] == pytest.approx(expected, abs=1e-5)


def test_score_is_the_root_of_both_smoothed_means_of_the_smaller_residual():
    forecaster = standard(make_forecaster(normaliser=IDENTITY))
    spec, x = forecaster.spec, events(3)
    rows = new_rows(forecaster, [KNOWN_ENTITIES[0]] * ROWS)
    for event in x[:-1]:
        forecaster.step(np.tile(event, (ROWS, 1)), rows, TIMES, LEARN)
    before = np.array([rows["smoothed_fast"][0], rows["smoothed_slow"][0]])
    scale = rows["scale"][0].copy()
    baseline = rows["season"][0, 0].copy()
    results = forecaster.step(np.tile(x[-1], (ROWS, 1)), rows, TIMES, LEARN)
    ratio = results.residuals[0] / scale
    level = spec.level_weight / 3**0.8 * (x[-1] - baseline) ** 2
    parts = np.minimum(ratio.min(axis=0), spec.cap) + level
    smoothed = before + np.array(spec.alphas) * (parts.mean() - before)
    assert results.score[0] == pytest.approx(np.sqrt(smoothed.mean()), rel=1e-5)
    assert results.parts[0] == pytest.approx(parts, rel=1e-4)


def test_usual_level_of_a_part_of_the_day_is_the_mean_of_what_was_learned_in_it():
    forecaster = standard(make_forecaster(normaliser=IDENTITY))
    rows = new_rows(forecaster, [KNOWN_ENTITIES[0]] * ROWS)
    learned = LEARN.copy()
    learned[1] = False
    monday, saturday = 19_996, 20_001  # days since 1970
    learnt = [(monday, 0, [1.0, 2.0, 0.5]), (monday, 3, [-1.0, -2.0]), (saturday, 1, [4.0])]
    for day, quarter, values in learnt:
        when = np.full(ROWS, day * DAY_US + quarter * DAY_US // 4, np.int64)
        for value in values:
            forecaster.step(np.full((ROWS, 3), value, np.float32), rows, when, learned)
    assert rows["season"][0, :, 0] == pytest.approx([3.5 / 3, 0, 0, -1.5, 0, 4, 0, 0])
    assert rows["season_weight"][0].tolist() == [3, 0, 0, 2, 0, 1, 0, 0]
    assert not rows["season"][1].any()


def test_a_daily_wave_is_normal_once_it_is_known_and_anomalous_at_the_wrong_hour():
    forecaster = standard(make_forecaster(normaliser=IDENTITY))
    rows = new_rows(forecaster, [KNOWN_ENTITIES[0]] * ROWS)
    minutes = np.arange(0, 6 * 1_440, 10)
    wave = np.where(minutes % 1_440 < 720, 1.5, -1.5).astype(np.float32)
    wave[-36:] *= -1  # the last six hours: the other half of the day
    results = [
        forecaster.step(
            np.full((ROWS, 3), value, np.float32),
            rows,
            np.full(ROWS, minute * 60_000_000),
            LEARN,
        ).score[0]
        for minute, value in zip(minutes.tolist(), wave, strict=True)
    ]
    baseline = np.array(results)[-400:-36]
    assert np.median(results[-20:]) > 1.5 * np.median(baseline)
    assert np.median(baseline) < np.median(results[20:100])


def test_change_is_the_capped_mean_square_of_the_step_from_the_last_event():
    forecaster = standard(make_forecaster(normaliser=IDENTITY))
    x = np.array([[0.5, 1.0, 0.0], [1.5, np.nan, 10.0]], np.float32)
    results, _ = run(forecaster, x, entity=KNOWN_ENTITIES[0])
    assert results[0].change[0] == 0.0
    assert results[1].change[0] == pytest.approx((1.0 + 9.0) / 2)


def test_first_event_of_an_entity_is_not_surprising():
    forecaster = make_forecaster()
    results, _ = run(forecaster, np.full((1, 3), 1e6, np.float32))
    assert results[0].score[0] == pytest.approx(forecaster.score_priors.score)
    assert not results[0].parts[0].any()
    assert results[0].loss[0] == 0


def test_step_of_one_feature_is_scored_and_explained_by_that_feature():
    x = 0.1 * events(60)
    x[50:, 1] += 8
    results, _ = run(make_forecaster(), x)
    assert results[50].score[0] > 2 * results[49].score[0]
    assert results[50].parts[0].argmax() == 1
    assert results[50].parts[0, 1] > 0.9 * results[50].parts[0].sum()


@pytest.mark.parametrize("features", [1, 3, 8, 9, 38, 64, 65, 130])
def test_parts_add_up_to_what_the_score_smooths(features):
    forecaster = make_forecaster(features)
    results, rows = run(forecaster, events(20, features), slot=21)
    fast = forecaster.score_priors.score**2
    for one in results[1:]:
        fast += forecaster.spec.alphas[0] * (one.parts[21].mean() - fast)
    assert rows["smoothed_fast"][21] == pytest.approx(fast, rel=1e-5)


def test_the_first_event_is_the_mean_and_says_nothing_of_the_variance():
    forecaster, x = make_forecaster(), events(1)
    _, rows = run(forecaster, x)
    np.testing.assert_array_equal(rows["mean"][0], x[0])
    np.testing.assert_array_equal(rows["var"][0], forecaster.priors.var)


def test_missing_value_is_not_anomalous_and_leaves_the_statistics():
    forecaster, x = make_forecaster(), events(20)
    _, before = run(forecaster, x)
    x_missing = np.concatenate([x, np.full((1, 3), np.nan, np.float32)])
    results, after = run(forecaster, x_missing)
    assert results[-1].score[0] == results[-2].score[0]
    assert np.isfinite(results[-1].expected[0]).all()
    for name in ("mean", "var", "scale"):
        assert np.array_equal(before[name][0], after[name][0]), name
    assert np.isfinite(after["hidden"][0]).all()
    # Hidden and lags advance as if the forecast had been observed.
    filled = (results[-1].expected[0] - before["mean"][0]) / np.sqrt(before["var"][0])
    assert after["lags"][0, 0] == pytest.approx(filled, abs=1e-5)


def test_frozen_learning_keeps_statistics_while_memory_advances():
    forecaster = make_forecaster()
    start = new_rows(forecaster, [KNOWN_ENTITIES[1]])
    _, rows = run(forecaster, events(), learn=False, entity=KNOWN_ENTITIES[1])
    for name in ("mean", "var", "scale", "statistics_weight"):
        assert np.array_equal(rows[name][0], start[name][0]), name
    assert rows["hidden"][0].any()
    assert rows["event_count"][0] == 40


def test_known_entity_starts_from_its_own_statistics_and_a_new_one_from_the_pool():
    forecaster = make_forecaster()
    rows = new_rows(forecaster, [KNOWN_ENTITIES[1], "never seen"])
    assert np.array_equal(rows["mean"][0], forecaster.priors.entity_mean[1])
    assert np.array_equal(rows["mean"][1], forecaster.priors.mean)
    assert rows["prior_index"].tolist() == [2, 0]
    assert rows["statistics_weight"].tolist() == [1 / NormaliserSpec().rate_min, 0]


def test_scores_do_not_depend_on_slot_or_neighbours():
    forecaster, x = make_forecaster(features=5, hidden=24), events(30, 5)
    rng = np.random.default_rng(0)
    alone, rows_alone = run(forecaster, x)
    for slot in (0, 7, 16, 41, 63):
        rows = new_rows(forecaster, [f"e{i}" for i in range(ROWS)])
        for t, event in enumerate(x):
            crowd = rng.normal(scale=1e3, size=(ROWS, 5)).astype(np.float32)
            crowd[rng.random((ROWS, 5)) < 0.2] = np.nan
            crowd[slot] = event
            results = forecaster.step(crowd, rows, TIMES, LEARN)
            assert results.score[slot].tobytes() == alone[t].score[0].tobytes()
        assert rows[slot].tobytes() == rows_alone[0].tobytes()


def test_rows_of_padding_may_hold_anything():
    forecaster, x = make_forecaster(), events(10)
    alone, _ = run(forecaster, x)
    rows = new_rows(forecaster, ["x"] * ROWS)
    garbage = np.random.default_rng(0).integers(0, 256, rows[1:].nbytes, np.uint8)
    for t, event in enumerate(x):
        rows[1:] = np.frombuffer(garbage.tobytes(), rows.dtype)
        tile = np.full((ROWS, 3), np.inf, np.float32)
        tile[0] = event
        results = forecaster.step(tile, rows, TIMES, LEARN)
        assert results.score[0].tobytes() == alone[t].score[0].tobytes()


def test_scores_stay_single_precision():
    results, rows = run(make_forecaster(), events(2))
    for array in (results[0].score, results[0].parts, results[0].expected, results[0].loss):
        assert array.dtype == np.float32
    assert {rows.dtype[n].base for n in ("hidden", "lags", "scale")} == {np.dtype("<f4")}


def test_self_test_gives_the_same_digest_every_time_and_another_for_other_weights():
    one, two = make_forecaster(seed=0), make_forecaster(seed=1)
    assert self_test.self_test(one) == self_test.self_test(one)
    assert self_test.self_test(one) != self_test.self_test(two)


def test_self_test_refuses_a_kernel_whose_lanes_differ(monkeypatch):
    forecaster, before = make_forecaster(), Forecaster.step

    def uneven(self, x, rows, *args):
        results = before(self, x, rows, *args)
        rows["hidden"][9:10] *= np.float32(1 + 1e-6)
        return results

    monkeypatch.setattr(Forecaster, "step", uneven)
    with pytest.raises(ArtifactError, match="slot 9 of 16 must give the bits of slot 0"):
        self_test.self_test(forecaster)


def test_weights_that_do_not_fit_are_refused_by_name():
    good = make_forecaster()
    for name, array, text in (
        ("mean.bias", np.zeros(4, np.float32), r"'mean.bias' must have shape \(3,\); got \(4,\)"),
        ("mean.bias", np.full(3, np.nan, np.float32), "not finite"),
        ("extra", np.zeros(1, np.float32), r"also got \['extra'\]"),
    ):
        with pytest.raises(ArtifactError, match=text):
            Forecaster(
                good.schema,
                good.spec,
                {**good.weights, name: array},
                linear=good.linear,
                priors=good.priors,
                score_priors=good.score_priors,
            )


@pytest.mark.parametrize("bad", [{"hidden": 0}, {"alphas": (0.1,)}, {"cap": 0}])
def test_unusable_settings_are_refused_by_name(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ForecasterSpec(**bad)
