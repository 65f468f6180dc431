from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from streamgauge.models.drift import reference as drift
from streamgauge.models.drift.reference import BINS, DriftReference
from streamgauge.models.errors import ArtifactError

NAMES = ("cpu", "mem")


@pytest.fixture(scope="module")
def normal() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(6_000, 2)).astype(np.float32), rng.random(6_000).astype(np.float32)


@pytest.fixture(scope="module")
def reference(normal) -> DriftReference:
    x, score = normal
    return drift.fit(x, score, np.full(len(x), 0.5, np.float32))


def test_events_fall_into_the_bins_of_their_values():
    edges = np.full((2, BINS), np.inf, np.float32)
    edges[:, :2] = [[1.0, 2.0], [10.0, 20.0]]
    reference = DriftReference(edges, np.zeros((2, BINS + 1), np.uint32), 0.0, 1.0)
    x = np.array([[0.0], [1.0], [1.5], [2.5], [np.inf], [np.nan]], np.float32)
    counts = reference.count(x, np.array([5, 15, 15, 25, 25, 25], np.float32))
    assert counts[0, :3].tolist() == [2, 1, 2]  # an infinite value is a large one
    assert counts[0, BINS] == 1  # missing
    assert counts[1, :3].tolist() == [1, 2, 3]
    assert counts.dtype == np.uint32


def test_each_bin_of_the_reference_holds_the_same_share(reference):
    assert np.ptp(reference.counts[:, :BINS].astype(int)) <= 2
    assert reference.counts.sum(axis=1).tolist() == [6_000] * 3


def test_sketches_of_any_split_add_up_to_that_of_the_whole(reference, normal):
    x, score = normal
    cuts = [0, 1, 1_023, 1_024, 4_000, 6_000]
    parts = [reference.count(x[a:b], score[a:b]) for a, b in pairwise(cuts)]
    assert np.array_equal(sum(reversed(parts)), reference.count(x, score))


def test_no_events_count_nothing(reference):
    assert not reference.count(np.empty((0, 2), np.float32), np.empty(0, np.float32)).any()


def test_same_distribution_is_no_drift_and_a_shift_of_one_feature_is(reference, normal):
    x, score = normal
    shifted = x + np.array([0.0, 1.5], np.float32)
    found = drift.report(
        reference, NAMES, reference.count(shifted, score), loss_sum=3e3, events=6_000
    )
    assert found["features"]["cpu"]["psi"] == pytest.approx(0, abs=1e-9)
    assert found["features"]["mem"]["psi"] > 1
    # Two unit normals 1.5 apart: 2 Phi(0.75) - 1
    assert found["features"]["mem"]["ks"] == pytest.approx(0.547, abs=0.03)
    assert found["features"]["mem"]["quantiles"]["p50"] == pytest.approx(1.5, abs=0.15)
    assert found["score"]["ks"] == 0
    assert (found["loss_mean"], found["loss_mean_training"]) == (0.5, 0.5)


def test_missing_values_are_reported_as_a_share(reference, normal):
    x, score = normal[0].copy(), normal[1]
    x[::4, 0] = np.nan
    found = drift.report(reference, NAMES, reference.count(x, score), loss_sum=0.0, events=len(x))
    assert found["features"]["cpu"]["missing"] == 0.25
    assert found["features"]["mem"]["missing"] == 0


def test_empty_window_has_no_figures(reference):
    found = drift.report(reference, NAMES, np.zeros_like(reference.counts), loss_sum=0.0, events=0)
    assert found["loss_mean"] is None
    assert found["features"]["cpu"]["psi"] is None


def test_arrays_round_trip_and_foreign_shapes_are_refused(reference):
    arrays = reference.to_arrays()
    again = DriftReference.from_arrays(arrays, 2)
    assert np.array_equal(again.counts, reference.counts)
    with pytest.raises(ArtifactError, match=r"drift: .* must be"):
        DriftReference.from_arrays(arrays, 3)
