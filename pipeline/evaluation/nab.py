"""The score of the Numenta Anomaly Benchmark, and the likelihood that its best detectors use.

Lavin and Ahmad 2015, "Evaluating Real-time Anomaly Detection Algorithms". One threshold
turns the scores of a whole corpus into detections. In a window only the earliest detection
counts, and it earns more the earlier it is. A detection outside all windows costs points, but
fewer shortly after a window. A window without a detection costs points. The first rows of a
file are its probation and are not scored.

    reward   1 ╮
               │╲___
               0────╲───────────────────  row
              -fp    ╲_________________
               ├ window ┤ false: costs less shortly after

A detector without detections scores 0. A detector that marks the first row of every window
and nothing else scores 100. The published rule chooses the threshold by the labels;
`Corpus.at` scores a threshold that was fixed before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_ndtr

from streamgauge.pipeline.data.datasets import NAB_PROBATION_ROWS_MAX, NAB_PROBATION_SHARE
from streamgauge.pipeline.data.labels import label_runs

FAR = 3.0  # window widths after a window; from there a false detection costs its full weight
STEEPNESS = 5.0

OUTSIDE, PROBATION = -1, -2  # instead of the number of a window

LIKELIHOOD_ROWS = 8_000  # as in nab/detectors/numenta of numenta/NAB
LIKELIHOOD_STD_MIN = 1e-3  # relative to the highest mean: a flat score has no spread
ONSET_ROWS = 100  # 8 hours of most files; between 20 and 200 the total moves by a point


@dataclass(frozen=True, slots=True)
class Profile:
    """The weights of false detections and missed windows; a detected window weighs 1."""

    false: float
    missed: float


#: `config/profiles.json` of the benchmark.
PROFILES = {
    "standard": Profile(false=0.11, missed=1.0),
    "reward_low_FP_rate": Profile(false=0.22, missed=1.0),
    "reward_low_FN_rate": Profile(false=0.11, missed=2.0),
}


@dataclass(frozen=True, slots=True)
class Best:
    """The threshold that the published rule chooses, and the score at it."""

    threshold: float
    score: float


class Corpus:
    """Labelled files, scored together.

    Args:
        labels: (T,) per file; each run of 1 is a window.
        profile: a key of `PROFILES`.
    """

    def __init__(self, labels: Sequence[NDArray[Any]], profile: str = "standard") -> None:
        self._profile = PROFILES[profile]
        rewards, windows, count = [], [], 0
        for file_labels in labels:
            reward, window = _reward(file_labels, self._profile)
            windows.append(np.where(window >= 0, window + count, window))
            rewards.append(reward)
            count += int(window.max(initial=-1)) + 1
        self._windows_all = count
        self._reward = np.concatenate(rewards)
        self._window = np.concatenate(windows)

    def best(self, scores: Sequence[NDArray[Any]]) -> Best:
        """The best score over all thresholds: the published rule, which uses the labels."""
        thresholds, raw = self._sweep(np.concatenate(list(scores)))
        at = int(np.argmax(raw))
        return Best(float(thresholds[at]), self._normalised(float(raw[at])))

    def at(self, scores: Sequence[NDArray[Any]], threshold: float) -> float:
        """The score if every row with a score of at least `threshold` is a detection."""
        thresholds, raw = self._sweep(np.concatenate(list(scores)))
        # Thresholds are in descending order: take the last one that is high enough.
        return self._normalised(float(raw[np.flatnonzero(thresholds >= threshold)[-1]]))

    def _sweep(self, score: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """All distinct thresholds in descending order from infinity, and the raw score at each."""
        scored = np.flatnonzero(self._window != PROBATION)
        score = np.nan_to_num(score[scored], nan=-np.inf, neginf=-np.inf, posinf=np.inf)
        order = np.argsort(-score, kind="stable")
        window, reward = self._window[scored][order], self._reward[scored][order]
        gain = np.where(window == OUTSIDE, reward, 0.0)
        windows = np.unique(window[window >= 0])
        for number in windows:
            rows = np.flatnonzero(window == number)
            best = np.maximum.accumulate(np.maximum(reward[rows], -self._profile.missed))
            gain[rows] = np.diff(best, prepend=-self._profile.missed)
        raw = np.concatenate([[0.0], np.cumsum(gain)]) - self._profile.missed * len(windows)
        falling = np.concatenate([[np.inf], score[order]])
        last = np.append(falling[1:] != falling[:-1], True)  # equal scores are detected together
        return falling[last], raw[last]

    def _normalised(self, raw: float) -> float:
        null = -self._profile.missed * self._windows_all
        return 100.0 * (raw - null) / (self._windows_all - null) if self._windows_all else 0.0


def probation_rows(rows: int) -> int:
    """The number of rows at the start of a file that are not scored."""
    return min(int(NAB_PROBATION_SHARE * rows), NAB_PROBATION_ROWS_MAX)


def likelihood(score: NDArray[Any], rows: int = LIKELIHOOD_ROWS, recent: int = 1) -> NDArray[Any]:
    """How unlikely each score is given the scores before it: -log10 of the normal tail.

    Ahmad, Lavin, Purdy and Agha 2017, "Unsupervised real-time anomaly detection for
    streaming data", section 2.3. It is causal, and it makes the scores of files comparable.

    Args:
        score: (T,) of one file, high is anomalous.
        rows: the rolling normal distribution is fitted to at most this many scores.
        recent: number of scores that are averaged. The paper averages ten, which blurs a
            score that is smoothed already.
    """
    exact = np.nan_to_num(np.asarray(score, np.float64))
    now = _rolling_mean(exact, recent)
    before = np.concatenate([exact[:1], exact[:-1]])
    mean = _rolling_mean(before, rows)
    centred = before - before[:1]  # else the difference of squares would lose its digits
    spread = np.sqrt(
        np.maximum(_rolling_mean(centred**2, rows) - _rolling_mean(centred, rows) ** 2, 0.0)
    )
    floor = np.maximum(LIKELIHOOD_STD_MIN * np.maximum.accumulate(np.abs(mean)), 1e-12)
    unlikely: NDArray[Any] = -log_ndtr(-(now - mean) / np.maximum(spread, floor)) / np.log(10.0)
    return unlikely


def onsets(score: NDArray[Any], rows: int = ONSET_ROWS) -> NDArray[Any]:
    """`score` where it exceeds the previous `rows` scores, else -inf: one detection per anomaly.

    The benchmark counts every row above the threshold outside a window. Without this step one
    false alarm of 50 rows would cost as much as 50 false alarms.
    """
    padded = np.concatenate([np.full(rows, -np.inf), score])
    highest = np.lib.stride_tricks.sliding_window_view(padded[:-1], rows).max(axis=1)
    return np.where(score > highest, score, -np.inf)


def _rolling_mean(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """The mean of each value and up to `rows` - 1 values before it."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - rows, 0)
    mean: NDArray[Any] = (total[end] - total[start]) / (end - start)
    return mean


def _reward(labels: NDArray[Any], profile: Profile) -> tuple[NDArray[Any], NDArray[Any]]:
    """The reward (T,) of a detection at each row, and the number (T,) of its window."""
    rows = np.arange(len(labels))
    reward, window = np.full(len(rows), -profile.false), np.full(len(rows), OUTSIDE)
    for number, (first, end) in enumerate(label_runs(labels)):
        width = end - first
        after = rows >= end
        past = (rows[after] - (end - 1)) / max(width - 1, 1)
        reward[after] = profile.false * np.where(past > FAR, -1.0, _scaled(past))
        here = slice(first, end)
        reward[here] = _scaled(-(end - rows[here]) / width) / _scaled(np.array(-1.0))
        window[here] = number
    window[: probation_rows(len(rows))] = PROBATION
    return reward, window


def _scaled(position: NDArray[Any]) -> NDArray[Any]:
    """Nearly 1 at the left edge of a window (-1), 0 at its right edge (0), nearly -1 at 1."""
    scaled: NDArray[Any] = 2.0 * expit(-STEEPNESS * position) - 1.0
    return scaled
