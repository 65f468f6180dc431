"""How much slower this machine is at the moment than two quiet cores, for deadlines."""

from __future__ import annotations

import functools
import os
import time

#: Seconds that the work takes on a quiet core of the machine on which deadlines were chosen.
_NOMINAL_S = 0.05
_CORES = 2
_FACTOR_MAX = 10.0


def slowness() -> float:
    """Return the factor for deadlines, at least 1 and at most 10.

    It is the larger of two: the time of a fixed piece of work against its nominal time, taken
    once per process, and the current load per core.
    """
    # The load is a mean over the last minute.
    return factor(_work_ratio(), os.getloadavg()[0], os.cpu_count() or 1)


def factor(slow: float, load: float, cores: int) -> float:
    """Combine both measures into the factor for deadlines.

    >>> factor(slow=0.9, load=0.5, cores=8)
    1.0
    >>> factor(slow=1.2, load=5.0, cores=2)
    3.0
    """
    queued = (1 + load) / cores
    one_core = _CORES / min(cores, _CORES)
    return min(_FACTOR_MAX, max(1.0, slow, queued) * one_core)


@functools.cache
def _work_ratio() -> float:
    """Time a fixed piece of interpreted work on one thread against its nominal time."""
    start, total = time.perf_counter(), 0
    for number in range(1_000_000):
        total += number
    return (time.perf_counter() - start) / _NOMINAL_S
