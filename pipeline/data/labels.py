"""Runs of labelled events, and the share of them that random alerts would find."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def label_runs(labels: NDArray[Any]) -> list[tuple[int, int]]:
    """The runs of labelled events, each as its first row and one past its last row.

    Args:
        labels: (T,), 0 = normal.

    >>> label_runs(np.array([1, 1, 0, 1]))
    [(0, 2), (3, 4)]
    """
    edges = np.diff(np.concatenate(([0], labels != 0, [0])).astype(np.int8))
    firsts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return list(zip(firsts.tolist(), ends.tolist(), strict=True))


def recall_by_chance(shares: Iterable[NDArray[Any]]) -> float | None:
    """The expected recall of alerts that are placed at random.

    Args:
        shares: per labelled run an array (A,), one value per alert: the share of all possible
            positions at which that alert finds the run. A value above 1 counts as 1.

    Returns:
        The expected share of runs that at least one alert finds; None without a run.

    >>> recall_by_chance([np.array([0.5, 0.5]), np.array([])])
    0.375
    """
    missed = [float(np.prod(1 - np.minimum(1.0, share))) for share in shares]
    return 1 - float(np.mean(missed)) if missed else None
