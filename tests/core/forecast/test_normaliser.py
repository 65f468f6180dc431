from __future__ import annotations

import numpy as np
import pytest

from streamgauge.models.errors import ConfigError
from streamgauge.models.forecast.normaliser import Normaliser, NormaliserSpec, fit_priors

UNBOUNDED = (np.full(1, -np.inf, np.float32), np.full(1, np.inf, np.float32))


class Entity:
    """One entity with one feature, fed value by value."""

    def __init__(
        self, mean: float, var: float, weight: float, spec: NormaliserSpec, bounds=UNBOUNDED
    ) -> None:
        self.mean, self.var = (np.full((1, 1), v, np.float32) for v in (mean, var))
        self.weight = np.full((1, 1), weight, np.float32)
        self.normaliser = Normaliser(spec, bounds, 1)

    def see(self, value: float, learn: bool = True) -> float:
        z, std = np.empty((2, 1, 1), np.float32)
        x = np.full((1, 1), value, np.float32)
        self.normaliser.standardise(x, self.mean, self.var, weight=self.weight, z=z, std=std)
        gain = np.full((1, 1), float(learn and np.isfinite(value)), np.float32)
        finite = np.nan_to_num(z, nan=7.0)
        floor = np.full((1, 1), 1e-6, np.float32)
        self.normaliser.learn(
            finite, std, gain, mean=self.mean, var=self.var, weight=self.weight, var_floor=floor
        )
        self.weight += gain
        return float(z[0, 0])


def test_event_is_compared_before_it_is_learned():
    entity = Entity(mean=10.0, var=4.0, weight=3.0, spec=NormaliserSpec(prior_events=1))
    assert entity.see(14.0) == 2.0
    assert entity.mean[0, 0] == pytest.approx(10 + 4 / 4)
    assert entity.var[0, 0] == pytest.approx(4 * (1 + 3 / 4))


def test_first_event_of_a_new_entity_is_its_mean_whatever_the_unit():
    entity = Entity(mean=0.0, var=1.0, weight=0.0, spec=NormaliserSpec())
    assert entity.see(4e9) == 0.0
    assert entity.mean[0, 0] == np.float32(4e9)
    assert entity.var[0, 0] == 1.0


def test_new_entity_with_another_unit_is_standard_after_a_few_hundred_events():
    rng = np.random.default_rng(0)
    entity = Entity(mean=0.0, var=1.0, weight=0.0, spec=NormaliserSpec())
    z = [entity.see(5e6 + 1e4 * value) for value in rng.normal(size=800)]
    assert abs(np.mean(z[400:])) < 0.2
    assert 0.8 < np.std(z[400:]) < 1.2


def test_change_of_unit_is_clipped_and_then_caught_up_with():
    spec = NormaliserSpec(rate_min=1e-3)
    rng = np.random.default_rng(0)
    entity = Entity(mean=1.0, var=0.01, weight=1e3, spec=spec)
    z = np.array([entity.see(1000 * (1 + 0.1 * value)) for value in rng.normal(size=3_000)])
    assert z[0] == spec.clip
    assert entity.see(-1e9, learn=False) == -spec.clip
    assert np.abs(z[2_000:]).max() < spec.clip / 2


def test_missing_value_changes_nothing():
    entity = Entity(mean=3.0, var=2.0, weight=5.0, spec=NormaliserSpec())
    assert np.isnan(entity.see(np.nan))
    assert (entity.mean[0, 0], entity.var[0, 0]) == (3.0, 2.0)


def test_values_are_clipped_to_the_bounds_of_the_schema():
    bounds = (np.zeros(1, np.float32), np.full(1, 8.0, np.float32))
    entity = Entity(mean=4.0, var=4.0, weight=5.0, spec=NormaliserSpec(), bounds=bounds)
    assert entity.see(100.0, learn=False) == 2.0
    assert entity.see(-100.0, learn=False) == -2.0


def test_constant_feature_keeps_a_floor_and_its_jump_is_the_largest_standard_value():
    priors = fit_priors(["a"], [np.zeros((50, 1), np.float32)])
    assert priors.std_floor.tolist() == [[np.float32(1e-3)], [np.float32(1e-3)]]
    entity = Entity(0.0, float(priors.entity_var[0, 0]), 1e4, NormaliserSpec())
    assert entity.see(0.5) == NormaliserSpec().clip


def test_priors_are_the_moments_of_each_entity_without_missing_values():
    values = np.array([[1.0, 1e9], [3.0, np.nan], [5.0, 1e9 + 600]], np.float32)
    priors = fit_priors(["a", "b"], [values, values + 2])
    assert priors.entity_mean[:, 0].tolist() == [3.0, 5.0]
    assert priors.entity_var[0, 0] == pytest.approx(8 / 3)
    assert priors.mean[0] == 4.0
    assert priors.entity_ids == ("a", "b")


@pytest.mark.parametrize("bad", [{"clip": 0}, {"rate_min": 0}, {"prior_events": 0.5}])
def test_unusable_settings_are_refused_by_name(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        NormaliserSpec(**bad)


def test_the_floor_of_an_entity_follows_from_its_own_spread_and_only_if_it_moved():
    rng = np.random.default_rng(0)
    large, small = rng.normal(1e8, 1e7, (500, 1)), rng.normal(5.0, 1.0, (500, 1))
    priors = fit_priors(["large", "small", "flat"], [large, small, np.full((500, 1), 3.0)])
    floors = dict(zip(["pool", "large", "small", "flat"], priors.std_floor[:, 0], strict=True))
    assert floors["large"] == pytest.approx(1e5, rel=0.1)
    assert floors["small"] == pytest.approx(1e-2, rel=0.1)
    assert floors["flat"] == floors["pool"] > 1e4
