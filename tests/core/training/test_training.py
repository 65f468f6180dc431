from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from streamgauge.models.artifacts import artifact
from streamgauge.models.errors import ConfigError, TrainingError
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.series import Series
from streamgauge.models.forecast import linear
from streamgauge.models.forecast.spec import ForecasterSpec
from streamgauge.models.training import fit
from streamgauge.models.training.offline import score_series
from streamgauge.models.training.trainer import (
    NON_FINITE_MAX,
    Progress,
    Step,
    Trainer,
    TrainingSettings,
    cut,
    mixes_precision,
)

SETTINGS = TrainingSettings(
    hidden=8, epochs=6, rows=8, chunk=16, learning_rate=1e-2, channel_drop=0.0, noise=0.0
)
SPEC = ForecasterSpec(hidden=8)
SCHEMA = Schema((Feature("cause"), Feature("effect")))


def coupled(entity_id: str, events: int = 1_200, seed: int = 0) -> Series:
    """The effect is the last cause squared: nothing for a linear part, easy for a GRU."""
    rng = np.random.default_rng(seed)
    cause = rng.normal(size=events).astype(np.float32)
    effect = np.concatenate([[0], np.square(cause[:-1])]).astype(np.float32)
    noise = 0.05 * rng.normal(size=events).astype(np.float32)
    times = 60_000_000 * np.arange(events, dtype=np.int64)
    return Series(entity_id, times, np.stack([cause, effect + noise], axis=1))


@pytest.fixture(scope="module")
def series() -> list[Series]:
    return [coupled("a", seed=1), coupled("b", seed=2)]


@pytest.fixture(scope="module")
def prepared(series) -> fit.Prepared:
    return fit.prepare(SCHEMA, series, SPEC, held_out=0.25)


def trainer(prepared: fit.Prepared, settings: TrainingSettings = SETTINGS) -> Trainer:
    learned = cut(prepared.train_z, prepared.train_linear, settings.rows, 32)
    held_out = cut(prepared.held_out_z, prepared.held_out_linear, 2, 32)
    return Trainer(settings, learned, held_out)


def finish(one: Trainer) -> dict[str, np.ndarray]:
    while not one.is_done:
        one.run_epoch()
    return one.best_weights()


def test_series_are_cut_into_equal_pieces_with_padding_and_missing_values_masked():
    z = np.arange(10, dtype=np.float32).reshape(5, 2)
    z[1, 0] = np.nan
    pieces = cut([z, z[:2]], [np.full_like(z, 9), np.full_like(z[:2], 9)], rows=3, length_min=1)
    assert pieces.z.shape == (3, 3, 2)  # 7 events over 3 rows
    assert pieces.z[0].tolist() == [[0, 1], [9, 3], [4, 5]]
    assert pieces.mask[0].tolist() == [[1, 1], [0, 1], [1, 1]]
    assert pieces.mask[1].tolist() == [[1, 1], [1, 1], [0, 0]]


def test_network_learns_what_the_linear_part_cannot(prepared):
    one = trainer(prepared, replace(SETTINGS, epochs=30, patience=30))
    finish(one)
    losses = [held_out for _, held_out in one.progress.history]
    assert losses[-1] < losses[0] - 0.3


def test_same_seed_gives_the_same_weights_and_another_seed_others(prepared):
    short = replace(SETTINGS, epochs=2, noise=0.1, channel_drop=0.2)
    one, two = finish(trainer(prepared, short)), finish(trainer(prepared, short))
    other = finish(trainer(prepared, replace(short, seed=1)))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["gru.weight_ih"], other["gru.weight_ih"])


def test_resumed_training_equals_an_undisturbed_one(prepared):
    settings = replace(SETTINGS, epochs=4, noise=0.1, channel_drop=0.2)
    whole = finish(trainer(prepared, settings))
    first = trainer(prepared, settings)
    first.run_epoch()
    first.run_epoch()
    second = trainer(prepared, settings)
    second.restore(first.tensors(), Progress.from_json(first.progress.to_json()))
    resumed = finish(second)
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_training_stops_when_the_held_out_loss_no_longer_falls(prepared):
    settings = replace(SETTINGS, epochs=500, patience=1, learning_rate=0.3)
    one = trainer(prepared, settings)
    finish(one)
    assert one.progress.epoch < 500
    assert one.progress.epoch == one.progress.best_epoch + 2


def test_steps_that_are_not_finite_are_skipped_and_counted(prepared):
    one = trainer(prepared)
    before = one.network.weights()
    one._train[0][:, 5] = np.inf  # in the first chunk only
    steps: list[Step] = []
    one.run_epoch(steps.append)
    assert [step.is_skipped for step in steps] == [True] + [False] * (len(steps) - 1)
    assert one.progress.skipped == 1
    assert one.progress.skipped_in_a_row == 0
    assert all(np.isfinite(array).all() for array in one.network.weights().values())
    assert not np.array_equal(before["gru.weight_hh"], one.network.weights()["gru.weight_hh"])


def test_the_watcher_gets_every_step(prepared):
    one = trainer(prepared)
    steps: list[Step] = []
    one.run_epoch(steps.append)
    one.run_epoch(steps.append)
    half = len(steps) // 2
    assert [step.number for step in steps] == list(range(1, 2 * half + 1))
    assert [step.share for step in steps[:half]] == [(i + 1) / half for i in range(half)]
    assert steps[0].learning_rate < steps[1].learning_rate  # warming up
    assert np.mean([step.loss for step in steps[half:]]) == one.progress.history[1][0]
    assert all(step.gradient_norm > 0 for step in steps)


def test_loss_on_unseen_events_is_that_of_the_best_weights(prepared):
    one = trainer(prepared, replace(SETTINGS, epochs=500, patience=1, learning_rate=0.3))
    while not one.is_done:
        one.run_epoch()
    assert one.progress.history[-1][1] > one.progress.best_loss
    held_out = cut(prepared.held_out_z, prepared.held_out_linear, 2, 32)
    assert one.best_loss_on(held_out) == one.progress.best_loss


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "mixes"),
    [("cpu", True, False), ("cuda", True, True), ("cuda", False, False)],
)
def test_precision_is_mixed_only_on_a_gpu_that_has_bfloat16(
    monkeypatch, device, has_bfloat16, mixes
):
    def answer(including_emulation: bool) -> bool:
        return has_bfloat16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", answer)
    assert mixes_precision(torch.device(device)) is mixes


def test_mixed_precision_learns_alike_and_keeps_losses_and_weights_in_float32(prepared):
    exact, mixed = trainer(prepared), trainer(prepared)
    mixed._is_mixed = True  # a CPU can run in bfloat16 too, if it is made to
    assert (exact.precision, mixed.precision) == ("float32", "bfloat16")
    one, two = finish(exact), finish(mixed)
    assert {array.dtype for array in two.values()} == {np.dtype(np.float32)}
    assert not np.array_equal(one["gru.weight_hh"], two["gru.weight_hh"])
    assert mixed.progress.best_loss == pytest.approx(exact.progress.best_loss, abs=0.05)


def test_training_gives_up_when_steps_stay_not_finite(prepared):
    one = trainer(prepared)
    one._train[0][:] = np.inf
    with pytest.raises(TrainingError, match=r"20 steps in a row .* lower learning_rate"):
        finish(one)
    assert one.progress.skipped == NON_FINITE_MAX


def test_nothing_is_learned_from_the_held_out_tail(series, prepared):
    spoiled = [replace(one, values=one.values.copy()) for one in series]
    for one in spoiled:
        one.values[len(one.values) * 3 // 4 :] = 1e9
    again = fit.prepare(SCHEMA, spoiled, SPEC, held_out=0.25)
    assert np.array_equal(again.priors.entity_mean, prepared.priors.entity_mean)
    assert np.array_equal(again.linear.entity, prepared.linear.entity)
    pairs = zip(again.train_z, prepared.train_z, strict=True)
    assert all(np.array_equal(one, two) for one, two in pairs)


def test_calibration_of_a_trained_model_meets_its_rate_on_unseen_events(prepared):
    forecaster = fit.build(prepared, SPEC, finish(trainer(prepared)))
    forecaster, calibration, _, reference = fit.calibrate(prepared, forecaster)
    unseen = [coupled("a", 6_000, seed=11), coupled("b", 6_000, seed=12)]
    scores = np.concatenate([one.score[100:] for one in score_series(forecaster, unseen)])
    assert 0.04 < np.mean(calibration.rarity_1_in_n(scores) > 10) < 0.25
    assert reference.counts.sum(axis=1).min() > 400
    assert forecaster.score_priors.score == pytest.approx(np.median(scores), rel=0.2)


def test_two_starting_states_agree_after_the_washout(prepared):
    forecaster = fit.build(prepared, SPEC, finish(trainer(prepared)))
    washout = fit.washout_events(prepared, forecaster, seed=0)
    # The slow smoothing alone forgets at 0.98 an event: 1e-3 after 342.
    assert 50 < washout < 600


def test_autoregression_is_recovered_per_feature_and_entity():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(20_000, 2))
    z = np.zeros((20_000, 2))
    for t in range(2, len(z)):
        z[t] = np.array([0.6, -0.3]) * z[t - 1] + np.array([0.2, 0.5]) * z[t - 2] + noise[t]
    fitted = linear.fit([z.astype(np.float32), noise.astype(np.float32)], lags=2)
    assert fitted.entity[0] == pytest.approx(np.array([[0.6, -0.3], [0.2, 0.5]]), abs=0.03)
    assert fitted.entity[1] == pytest.approx(np.zeros((2, 2)), abs=0.03)


def test_series_too_short_to_learn_from_are_refused():
    with pytest.raises(TrainingError, match="at least 100 events; got 1 series, the longest of 9"):
        fit.prepare(SCHEMA, [coupled("a", 9)], SPEC, held_out=0.25)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"hidden": 5_000},
        {"held_out": 1.0},
        {"held_out": 0.0},
        {"learning_rate": 0.0},
        {"learning_rate": math.inf},
        {"noise": math.nan},
        {"channel_drop": -0.1},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_unusable_settings_are_refused_by_name(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        TrainingSettings(**bad)


def test_trained_artifact_is_loaded_without_torch(prepared, tmp_path):
    forecaster = fit.build(prepared, SPEC, finish(trainer(prepared)))
    parts = fit.calibrate(prepared, forecaster)
    final = fit.rebuild_on_all(prepared, parts[0])
    _, fitted, starts, reference = parts
    digest = artifact.write(
        tmp_path / "a",
        final,
        fitted,
        thresholds=starts,
        drift_reference=reference,
        washout_events=10,
        training={"seed": 0},
    )
    assert artifact.load(tmp_path / "a", digest).forecaster.priors.entity_ids == ("a", "b")
    names = itertools.chain(vars(artifact), vars(fit))
    assert "torch" not in names
