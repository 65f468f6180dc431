from __future__ import annotations

import numpy as np
import pytest

from streamgauge.pipeline.data.labels import label_runs
from streamgauge.pipeline.evaluation.metrics import (
    fading,
    mean,
    message_metrics,
    random_recall,
    ranking,
    vus_pr,
    widened,
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


#: VUS-PR, AUC-PR and F1 of `stream(seed)`, recorded with TSB_AD 1.5 and scikit-learn 1.9.1:
#: generate_curve(labels, score, 100, "opt", 250)[-1], metric_PR, metric_PointF1.
RECORDED = [
    (0.711864867374209, 0.68968298297272, 0.6896506540129564),
    (0.8790550054274792, 0.8147454554880598, 0.690471198385803),
    (0.9224777438104674, 0.8011342545186342, 0.6666620708698214),
    (0.886056280937597, 0.8136327418015089, 0.6796070746844048),
    (0.8848897675272026, 0.8279538370278217, 0.7178282710536281),
    (0.7331596395225034, 0.6749110512309187, 0.6128983559179868),
]


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_those_of_the_published_code(seed):
    ours = ranking(*stream(seed))
    assert (ours.vus_pr, ours.auc_pr, ours.best_f1) == pytest.approx(RECORDED[seed], abs=1e-12)


def test_a_label_fades_out_beside_its_run_and_never_exceeds_one():
    labels = np.array([0, 0, 1, 0, 0, 1, 0])
    near, far = np.sqrt(3 / 4), np.sqrt(2 / 4)
    expected = [far, near, 1, 1, 1, 1, near]  # between the runs two labels add up
    np.testing.assert_allclose(fading(labels, [(2, 3), (5, 6)], 4), expected)
    assert fading(labels, [(2, 3), (5, 6)], 0).tolist() == labels.tolist()


def test_runs_that_share_a_row_when_widened_are_one_area():
    assert widened([(2, 3), (5, 6)], 2, 9) == [(1, 4), (4, 7)]
    assert widened([(2, 3), (5, 6)], 4, 9) == [(0, 8)]
    assert widened([(0, 1), (8, 9)], 2, 9) == [(0, 2), (7, 9)]


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
