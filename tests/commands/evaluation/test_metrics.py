from __future__ import annotations

import numpy as np
import pytest
from TSB_AD.evaluation.basic_metrics import basic_metricor, generate_curve

from streamgauge.pipeline.data.labels import label_runs
from streamgauge.pipeline.evaluation.metrics import (
    mean,
    message_metrics,
    random_recall,
    ranking,
    vus_pr,
)

MINUTE_US = 60_000_000


def stream(seed: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Labels with runs of all lengths, at the edges too, and scores that know a little of them."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(rows, np.uint8)
    for _ in range(1 + seed % 5):
        first = rng.integers(0, rows - 1)
        labels[first : first + rng.integers(1, 90)] = 1
    if seed == 2:
        labels[:3] = labels[-4:] = 1
    score = rng.random(rows) + 0.5 * labels
    return (np.round(score, 1) if seed > 3 else score), labels  # with ties, too


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_those_of_the_library(seed):
    score, labels = stream(seed)
    theirs, ours = basic_metricor(), ranking(score, labels)
    volume = generate_curve(labels.astype(int), score, 100, "opt", 250)[-1]
    assert ours.vus_pr == pytest.approx(volume, abs=1e-9)
    assert ours.auc_pr == theirs.metric_PR(labels, score)
    assert ours.best_f1 == theirs.metric_PointF1(labels, score)


def test_vus_forgives_what_lies_just_beside_a_label():
    labels = np.zeros(1_000, np.uint8)
    labels[500:520] = 1
    near, far = np.zeros(1_000), np.zeros(1_000)
    near[485:500] = far[100:115] = 1.0
    assert vus_pr(near, labels) > 3 * vus_pr(far, labels)
    assert ranking(near, labels).auc_pr == pytest.approx(ranking(far, labels).auc_pr, abs=0.01)


@pytest.mark.parametrize("labels", [np.zeros(50, np.uint8), np.ones(50, np.uint8)])
def test_without_both_kinds_of_events_nothing_is_ranked(labels):
    found = ranking(np.arange(50.0), labels)
    assert (found.auc_pr, found.vus_pr, found.best_f1) == (None, None, None)


def test_messages_are_compared_with_labels():
    labels = np.zeros(1_441, np.uint8)  # a day of minutes
    labels[100:200] = labels[300:400] = labels[500:600] = 1
    sent = np.zeros(1_441, bool)
    sent[[50, 110, 150, 330, 700]] = True
    found = message_metrics(sent, labels, MINUTE_US * np.arange(1_441, dtype=np.int64))
    assert (found.messages, found.false) == (5.0, 2.0)
    assert found.recall == pytest.approx(2 / 3)
    assert found.delay_s == 20 * 60.0  # median of 10 and 30 minutes


def test_days_before_judging_begins_count_and_their_labels_do_not():
    labels = np.zeros(2_881, np.uint8)
    labels[10:20] = labels[2_000:2_010] = 1
    sent = np.zeros(2_881, bool)
    sent[[12, 2_005, 2_500]] = True
    found = message_metrics(
        sent, labels, MINUTE_US * np.arange(2_881, dtype=np.int64), from_row=1_000
    )
    assert (found.recall, found.messages, found.false) == (1.0, 1.0, 0.5)


def test_chance_level_is_what_random_messages_find():
    labels = np.zeros(1_000, np.uint8)
    labels[100:200] = labels[300:320] = 1
    rng, found = np.random.default_rng(0), []
    for _ in range(3_000):
        at = rng.integers(0, 1_000, 8)
        hits = [((at >= first) & (at < end)).any() for first, end in label_runs(labels)]
        found.append(np.mean(hits))
    assert random_recall(labels, 8) == pytest.approx(np.mean(found), abs=0.02)
    assert random_recall(labels, 0) == 0.0
    assert random_recall(np.zeros(9, np.uint8), 3) is None


def test_a_mean_is_over_entities_that_have_a_figure():
    assert mean([0.2, None, 0.4]) == pytest.approx(0.3)
    assert mean([None, None]) is None
