"""Episodes: k of n to open, calm in a row to close."""

import numpy as np
import pytest

from models import alerting, calibration
from models.alerting import ANOMALOUS, EVENT, NORMAL, WARMING, AlertPolicy, Judge
from models.errors import ConfigError

HIGH, LOW = 1e6, -1e6
POLICY = AlertPolicy(once_in=100, close_once_in=10, n=5, k=3, close_after=4)


@pytest.fixture(scope="module")
def fitted():
    return calibration.fit(np.random.default_rng(0).normal(1, 0.2, 5_000).astype(np.float32))


def play(fitted, scores, policy=POLICY, warming=()):
    """Verdicts and the events at which one entity's episodes opened and closed."""
    judge = Judge(policy, fitted)
    rows = np.zeros(1, np.dtype(list(alerting.FIELDS)))
    event = np.zeros(1, EVENT)
    verdicts, opened, closed = [], [], []
    for i, score in enumerate(scores):
        event["offset"] = i
        verdict, o, c = judge.judge(
            rows, np.array([score], np.float32), np.array([i in warming]), event
        )
        verdicts.append(int(verdict[0]))
        opened += [i] if o[0] else []
        closed += [i] if c[0] else []
        alerting.close(rows, c)
    return verdicts, opened, closed


def test_one_spike_is_anomalous_but_opens_nothing(fitted):
    verdicts, opened, _ = play(fitted, [LOW, HIGH, LOW, LOW])
    assert verdicts == [NORMAL, ANOMALOUS, NORMAL, NORMAL]
    assert opened == []


def test_k_of_n_opens_once_and_stays_open(fitted):
    _, opened, closed = play(fitted, [HIGH] * 1_000)
    assert (opened, closed) == ([2], [])


def test_k_outside_n_does_not_open(fitted):
    assert play(fitted, [HIGH, LOW, LOW, HIGH, LOW, LOW, HIGH])[1] == []
    assert play(fitted, [HIGH, LOW, HIGH, LOW, HIGH])[1] == [4]


def test_calm_in_a_row_closes(fitted):
    scores = [HIGH] * 5 + [LOW] * 3 + [HIGH] + [LOW] * 4 + [HIGH] * 3
    assert play(fitted, scores)[1:] == ([2, 15], [12])


def test_between_the_thresholds_an_episode_stays_open(fitted):
    between = fitted.threshold(40)
    assert play(fitted, [HIGH] * 3 + [between] * 100)[1:] == ([2], [])


def test_warming_entities_open_nothing(fitted):
    verdicts, opened, _ = play(fitted, [HIGH] * 6, warming=range(4))
    assert verdicts[:4] == [WARMING] * 4
    assert opened == []
    assert play(fitted, [HIGH] * 7, warming=range(4))[1] == [6]


def test_padding_rows_may_hold_anything(fitted):
    rows = np.zeros(2, np.dtype(list(alerting.FIELDS)))
    rows[1] = np.frombuffer(b"\xff" * rows.dtype.itemsize, rows.dtype)[0]
    score = np.array([HIGH, np.nan], np.float32)
    Judge(POLICY, fitted).judge(rows, score, np.zeros(2, bool), np.zeros(2, EVENT))
    assert rows["recent"][0] == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"k": 6}, "1 <= k <= n <= 64; got k = 6, n = 5"),
        ({"n": 65, "k": 1}, "got k = 1, n = 65"),
        ({"close_once_in": 1e9}, "close_once_in <= once_in"),
        ({"close_after": 0}, "close_after must be at least 1; got 0"),
    ],
)
def test_impossible_policies_are_refused(change, text):
    with pytest.raises(ConfigError, match=text):
        AlertPolicy(**change)
