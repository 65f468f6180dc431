"""At the end of a run: the drift reports of all shards must add up to all scored events."""

from __future__ import annotations

import numpy as np

from simulator.expected_state import SCORED, Book, Violation
from simulator.reference import BITS, Reference
from simulator.topic import Topic
from streamgauge.models.drift.reference import BINS
from streamgauge.models.drift.windows import LOSS_MAX, LOSS_SCALE


def check_drift(book: Book, shards: int, topic: Topic, reference: Reference, window_s: int) -> None:
    """Compare the sums of all reports with counts over all scored events.

    Raises:
        Violation: a window has other events, losses or counts, or is none.
    """
    reported = _reported(book, shards)
    here = [event for event, fate in enumerate(book.fate) if fate == SCORED]
    results = np.frombuffer(b"".join(book.results[e] for e in here), BITS)
    number = np.array([topic.time_us[e] for e in here], np.int64) // (window_s * 1_000_000)
    loss = np.clip(np.nan_to_num(results["loss"]), -LOSS_MAX, LOSS_MAX).astype(np.float64)
    fixed = np.rint(loss * LOSS_SCALE).astype(np.int64)
    starts = [start * window_s * 1_000_000 for start in np.unique(number).tolist()]
    if starts != sorted(reported):
        raise Violation(f"drift: windows {sorted(reported)}, events in {starts}")
    played = [(reference.scripts[topic.script[e]], topic.place[e]) for e in here]
    for start in starts:
        inside = np.flatnonzero(number == start // (window_s * 1_000_000))
        x = np.stack([played[i][0].features[played[i][1]] for i in inside.tolist()])
        counts = _counts(reference, np.column_stack([x, results["score"][inside]]))
        events, loss_sum, found = reported[start]
        is_same = (events, loss_sum) == (len(inside), int(fixed[inside].sum()))
        if not (is_same and np.array_equal(found, counts)):
            raise Violation(f"drift: window {start} sums to {events} events, holds {len(inside)}")


def _reported(book: Book, shards: int) -> dict[int, tuple[int, int, np.ndarray]]:
    """Window start -> (events, loss, counts) over all shards."""
    total: dict[int, tuple[int, int, np.ndarray]] = {}
    for shard in range(shards):
        for start, (events, loss, counts) in book.read(shard).windows.items():
            before = total.get(start, (0, 0, 0))
            total[start] = (before[0] + events, before[1] + loss, before[2] + counts)
    return total


def _counts(reference: Reference, values: np.ndarray) -> np.ndarray:
    """Drift counts of `values` (N, F + 1), by binary search: another way than the core's."""
    counts = np.zeros((values.shape[1], BINS + 1), np.int64)
    for i, edges in enumerate(reference.artifact.drift_reference.edges):
        bins = np.searchsorted(edges[:-1], values[:, i], side="left")
        bins[np.isnan(values[:, i])] = BINS
        counts[i] = np.bincount(bins, minlength=BINS + 1)
    return counts
