"""The score of the Numenta Anomaly Benchmark, and the likelihood that its best detectors use.

Lavin and Ahmad 2015, "Evaluating Real-time Anomaly Detection Algorithms". One threshold
turns the scores of a whole corpus into detections. In a window only the earliest counts,
the earlier the more; a detection elsewhere costs the less the closer it follows a window;
a window without a detection costs its weight. The first rows of a file are its probation.

    reward   1 ╮
               │╲___
               0────╲───────────────────  row
              -fp    ╲_________________
               ├ window ┤ false: less when it is close behind

The result is 0 for a detector that says nothing and 100 for one that marks the first row
of every window and nothing else. The published rule picks the threshold with the labels in
sight; `Corpus.at` scores a threshold that was fixed before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_ndtr

from streamgauge.pipeline.data.datasets import NAB_PROBATION_ROWS_MAX, NAB_PROBATION_SHARE

FAR = 3.0  # window widths behind a window; from there a false detection costs its full weight
STEEPNESS = 5.0

OUTSIDE, PROBATION = -1, -2  # in place of a window's number

LIKELIHOOD_ROWS = 8_000  # as in nab/detectors/numenta of numenta/NAB
LIKELIHOOD_STD_MIN = 1e-3  # relative to the highest mean: a flat score has no spread
ONSET_ROWS = 100  # 8 hours of most files; between 20 and 200 the total moves by a point


@dataclass(frozen=True, slots=True)
class Profile:
    """What detections and misses weigh; a hit always weighs 1."""

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
    """The threshold of the published rule and the score that it gives."""

    threshold: float
    score: float


class Corpus:
    """Labelled files, scored together.

    Args:
        labels: (T,) per file, runs of 1 are its windows.
        profile: a key of `PROFILES`.
    """

    def __init__(self, labels: Sequence[np.ndarray], profile: str = "standard") -> None:
        self._profile = PROFILES[profile]
        rewards, windows, count = [], [], 0
        for one in labels:
            reward, window = _reward(one, self._profile)
            windows.append(np.where(window >= 0, window + count, window))
            rewards.append(reward)
            count += int(window.max(initial=-1)) + 1
        self._windows_all = count
        self._reward = np.concatenate(rewards)
        self._window = np.concatenate(windows)

    def best(self, scores: Sequence[np.ndarray]) -> Best:
        """Try every threshold on the labels and keep the best: the published rule."""
        thresholds, raw = self._sweep(np.concatenate(list(scores)))
        at = int(np.argmax(raw))
        return Best(float(thresholds[at]), self._normalised(float(raw[at])))

    def at(self, scores: Sequence[np.ndarray], threshold: float) -> float:
        """The score of detecting wherever a score reaches `threshold`."""
        thresholds, raw = self._sweep(np.concatenate(list(scores)))
        # Thresholds fall; the last that is still at or above decides.
        return self._normalised(float(raw[np.flatnonzero(thresholds >= threshold)[-1]]))

    def _sweep(self, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every threshold that matters, falling from infinity, and the raw score at it."""
        scored = np.flatnonzero(self._window != PROBATION)
        score = np.nan_to_num(score[scored], nan=-np.inf, neginf=-np.inf, posinf=np.inf)
        order = np.argsort(-score, kind="stable")
        window, reward = self._window[scored][order], self._reward[scored][order]
        gain = np.where(window == OUTSIDE, reward, 0.0)
        windows = np.unique(window[window >= 0])
        for one in windows:
            rows = np.flatnonzero(window == one)
            found = np.maximum.accumulate(np.maximum(reward[rows], -self._profile.missed))
            gain[rows] = np.diff(found, prepend=-self._profile.missed)
        raw = np.concatenate([[0.0], np.cumsum(gain)]) - self._profile.missed * len(windows)
        falling = np.concatenate([[np.inf], score[order]])
        last = np.append(falling[1:] != falling[:-1], True)  # of equal scores all are detections
        return falling[last], raw[last]

    def _normalised(self, raw: float) -> float:
        null = -self._profile.missed * self._windows_all
        return 100.0 * (raw - null) / (self._windows_all - null) if self._windows_all else 0.0


def probation_rows(rows: int) -> int:
    """How many rows at the beginning of a file are not scored."""
    return min(int(NAB_PROBATION_SHARE * rows), NAB_PROBATION_ROWS_MAX)


def likelihood(score: np.ndarray, rows: int = LIKELIHOOD_ROWS, recent: int = 1) -> np.ndarray:
    """How unlikely each score is, given all before in its file: -log10 of the normal tail.

    Ahmad, Lavin, Purdy and Agha 2017, "Unsupervised real-time anomaly detection for
    streaming data", section 2.3; causal, and what makes scores of files comparable.

    Args:
        score: (T,) of one file, high is anomalous.
        rows: how many scores the rolling normal distribution is made of at most.
        recent: how many scores are averaged; the paper's ten blur a score that is smoothed.
    """
    exact = np.nan_to_num(np.asarray(score, np.float64))
    now = _rolling_mean(exact, recent)
    before = np.concatenate([exact[:1], exact[:-1]])
    mean = _rolling_mean(before, rows)
    centred = before - before[:1]  # or the difference of squares would lose its digits
    spread = np.sqrt(
        np.maximum(_rolling_mean(centred**2, rows) - _rolling_mean(centred, rows) ** 2, 0.0)
    )
    floor = np.maximum(LIKELIHOOD_STD_MIN * np.maximum.accumulate(np.abs(mean)), 1e-12)
    return -log_ndtr(-(now - mean) / np.maximum(spread, floor)) / np.log(10.0)


def onsets(score: np.ndarray, rows: int = ONSET_ROWS) -> np.ndarray:
    """`score` where it exceeds the last `rows`, else -inf: an anomaly is told once.

    The benchmark counts every row above the threshold that lies outside a window, so
    one false alarm of 50 rows would cost as much as 50 false alarms.
    """
    padded = np.concatenate([np.full(rows, -np.inf), score])
    highest = np.lib.stride_tricks.sliding_window_view(padded[:-1], rows).max(axis=1)
    return np.where(score > highest, score, -np.inf)


def _rolling_mean(values: np.ndarray, rows: int) -> np.ndarray:
    """Mean of each value and up to `rows` - 1 before it."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - rows, 0)
    return (total[end] - total[start]) / (end - start)


def _reward(labels: np.ndarray, profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """What a detection at each row (T,) is worth, and the number of its window."""
    rows = np.arange(len(labels))
    edges = np.diff(np.concatenate(([0], labels != 0, [0])).astype(np.int8))
    firsts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    reward, window = np.full(len(rows), -profile.false), np.full(len(rows), OUTSIDE)
    for number, (first, end) in enumerate(zip(firsts, ends, strict=True)):
        width = end - first
        behind = rows >= end
        past = (rows[behind] - (end - 1)) / max(width - 1, 1)
        reward[behind] = profile.false * np.where(past > FAR, -1.0, _scaled(past))
        here = slice(first, end)
        reward[here] = _scaled(-(end - rows[here]) / width) / _scaled(np.array(-1.0))
        window[here] = number
    window[: probation_rows(len(rows))] = PROBATION
    return reward, window


def _scaled(position: np.ndarray) -> np.ndarray:
    """Nearly 1 at the left edge of a window (-1), 0 at its right edge, nearly -1 at 1."""
    return 2.0 * expit(-STEEPNESS * position) - 1.0
