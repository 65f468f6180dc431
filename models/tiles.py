"""Cutting a block into waves, and waves into tiles; see `models.scorer`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.kernel import TILES

# A wave of so few rows costs more as a tile than its events do as parts of sequences.
SEQUENCES_MAX = 6
SEQUENCE_EVENTS_MIN = 8  # shorter ones do not pay for being set up

FEW_EVENTS = 64  # below this plain Python is faster than a dozen calls of numpy


def waves(place: np.ndarray, events: np.ndarray) -> Iterator[np.ndarray]:
    """Split `events` so that each wave holds every row at most once, in offset order."""
    if len(events) <= FEW_EVENTS:
        yield from _few_waves(place[events].tolist(), events.tolist())
        return
    by_row = events[np.argsort(place[events], kind="stable")]
    rows = place[by_row]
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]]) if len(rows) else rows
    lengths = np.diff(np.r_[starts, len(rows)])
    rank = np.arange(len(rows)) - np.repeat(starts, lengths)
    order = np.argsort(rank, kind="stable")
    cuts = np.flatnonzero(np.diff(rank[order])) + 1
    yield from (np.sort(wave) for wave in np.split(by_row[order], cuts) if len(wave))


def _few_waves(rows: list[int], events: list[int]) -> Iterator[np.ndarray]:
    found: list[list[int]] = []
    turns: dict[int, int] = {}
    for row, event in zip(rows, events, strict=True):
        turn = turns[row] = turns.get(row, -1) + 1
        if turn == len(found):
            found.append([])
        found[turn].append(event)
    yield from map(np.array, found)


def sequences(place: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Take out of `events` what few entities have more of than all others.

    Returns:
        The events left for waves, and for each of at most `SEQUENCES_MAX` entities its events
        after those, in offset order.
    """
    rows, counts = np.unique(place[events], return_counts=True)
    if not len(counts) or counts.max() < SEQUENCE_EVENTS_MIN:
        return events, []
    most = np.argsort(-counts, kind="stable")[: SEQUENCES_MAX + 1]
    common = int(counts[most[-1]]) if len(most) > SEQUENCES_MAX else 0
    deep = []
    for row in rows[most[counts[most] - common >= SEQUENCE_EVENTS_MIN]].tolist():
        deep.append(events[place[events] == row][common:])
    if not deep:
        return events, []
    return np.setdiff1d(events, np.concatenate(deep), assume_unique=True), deep


def tile_size(count: int) -> int:
    """The smallest tile that holds `count` events."""
    return next(size for size in TILES if size >= count)


def tiles(events: np.ndarray) -> Iterator[np.ndarray]:
    """Split a wave into tiles; a large tile is worth its price from half full on."""
    small, large = TILES[-2:]
    while len(events):
        size = large if len(events) > large // 2 else small
        yield events[:size]
        events = events[size:]
