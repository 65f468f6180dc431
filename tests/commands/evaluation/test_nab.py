from __future__ import annotations

import json

import numpy as np
import pytest

from fixtures.paths import GOLDEN
from streamgauge.pipeline.evaluation import nab
from streamgauge.pipeline.evaluation.nab import Corpus, likelihood, onsets, probation_rows

DETECTIONS = GOLDEN / "nab" / "detections.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(DETECTIONS.read_text())


def labels_of(rows: int, *windows: tuple[int, int]) -> np.ndarray:
    labels = np.zeros(rows, np.uint8)
    for first, end in windows:
        labels[first:end] = 1
    return labels


def marks(rows: int, *at: int) -> np.ndarray:
    score = np.zeros(rows)
    score[list(at)] = 1.0
    return score


@pytest.mark.parametrize(("detector", "expected"), [("numenta", 66.5), ("windowedGaussian", 21.9)])
def test_published_detections_get_the_benchmarks_score(golden, detector, expected):
    labels, scores = [], []
    for file in golden["files"]:
        labels.append(labels_of(file["rows"], *file["windows"]))
        at, values = file[detector]
        score = np.zeros(file["rows"])
        score[at] = values
        scores.append(score)
    corpus = Corpus(labels)
    threshold = golden["detectors"][detector]["threshold"]
    assert sum(len(file["windows"]) for file in golden["files"]) == 55
    assert corpus.at(scores, threshold) == pytest.approx(expected, abs=0.06)
    assert corpus.best(scores).score >= corpus.at(scores, threshold)


def test_marking_every_left_edge_scores_100_and_no_detection_scores_0():
    labels = [labels_of(1_000, (300, 400), (700, 800)), labels_of(500, (200, 250))]
    perfect = [marks(1_000, 300, 700), marks(500, 200)]
    for profile in nab.PROFILES:
        corpus = Corpus(labels, profile)
        assert corpus.best(perfect).score == pytest.approx(100.0)
        assert corpus.at(perfect, 2.0) == 0.0


def test_the_earliest_detection_in_a_window_counts_and_counts_once():
    corpus = Corpus([labels_of(1_000, (300, 400))])
    early, late = corpus.at([marks(1_000, 310)], 0.5), corpus.at([marks(1_000, 390)], 0.5)
    assert late < early < 100.0
    assert corpus.at([marks(1_000, 310, 350, 390)], 0.5) == early


def test_false_detections_cost_less_shortly_after_a_window():
    corpus = Corpus([labels_of(2_000, (500, 600))])
    hit = corpus.at([marks(2_000, 500)], 0.5)
    # The whole weight .11 of a false positive, out of the 2 between nothing and perfect.
    assert hit - corpus.at([marks(2_000, 500, 1_500)], 0.5) == pytest.approx(5.5)
    assert hit - corpus.at([marks(2_000, 400, 500)], 0.5) == pytest.approx(5.5)
    assert hit - corpus.at([marks(2_000, 500, 605)], 0.5) < 1.5


def test_nothing_in_the_probation_counts():
    assert probation_rows(1_000) == 150
    assert probation_rows(20_000) == 750
    corpus = Corpus([labels_of(1_000, (300, 400))])
    assert corpus.at([marks(1_000, 20, 149, 300)], 0.5) == pytest.approx(100.0)
    assert corpus.at([marks(1_000, 150, 300)], 0.5) < 100.0


def test_one_threshold_serves_all_files():
    labels = [labels_of(1_000, (300, 400)), labels_of(1_000, (300, 400))]
    loud, quiet = marks(1_000, 300) * 10 + 5, marks(1_000, 300)
    # What finds the window of the quiet file marks every row of the loud one.
    assert Corpus(labels).best([loud, quiet]).score == pytest.approx(50.0)


def test_profiles_weigh_false_alarms_and_misses():
    labels = [labels_of(1_000, (300, 400), (600, 700))]
    one_of_two = [marks(1_000, 300, 450, 900)]
    scores = {name: Corpus(labels, name).at(one_of_two, 0.5) for name in nab.PROFILES}
    assert scores["reward_low_FP_rate"] < scores["standard"]
    assert scores["reward_low_FN_rate"] != scores["standard"]


def test_a_score_that_is_no_number_detects_nothing():
    score = marks(1_000, 300)
    score[500:600] = np.nan
    assert Corpus([labels_of(1_000, (300, 400))]).at([score], 0.5) == pytest.approx(100.0)


def test_likelihood_is_causal():
    score = np.random.default_rng(0).normal(size=600)
    changed = score.copy()
    changed[400:] += 5.0
    np.testing.assert_array_equal(likelihood(score)[:400], likelihood(changed)[:400])


def test_likelihood_is_high_for_rare_scores():
    rng = np.random.default_rng(0)
    told = likelihood(rng.normal(size=2_000))
    assert (told[500:2_000] > 2.0).mean() == pytest.approx(0.01, abs=0.006)
    ordinary = rng.normal(size=100)
    ordinary = (ordinary - ordinary.mean()) / ordinary.std()
    # A normal value exceeds 6 once in 1e9; the value itself is not among those before it.
    assert likelihood(np.append(ordinary, 6.0))[-1] == pytest.approx(9.0, abs=0.1)


def test_likelihood_knows_no_units():
    score = np.random.default_rng(0).normal(size=500)
    np.testing.assert_allclose(likelihood(score * 1e6 + 1e3), likelihood(score + 1e-3), rtol=1e-6)


def test_likelihood_of_a_constant_score_is_even():
    assert likelihood(np.full(300, 0.7)) == pytest.approx(np.full(300, np.log10(2.0)))


def test_an_anomaly_has_one_onset_and_another_when_it_gets_worse():
    score = np.array([1.0, 3.0, 3.0, 2.0, 4.0, 2.0, 1.0, 2.0])
    told = np.flatnonzero(np.isfinite(onsets(score, rows=2)))
    assert told.tolist() == [0, 1, 4]
    assert np.flatnonzero(np.isfinite(onsets(score, rows=1))).tolist() == [0, 1, 4, 7]
