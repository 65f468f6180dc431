"""The part of the day that an event belongs to, which selects its seasonal baseline."""

from __future__ import annotations

from numba import njit

DAY_US = 86_400_000_000
FIRST_WEEKDAY = 3  # 1970-01-01 was a Thursday


@njit
def season_bin(event_time_us: int, parts: int) -> int:
    """Return the part of its day (UTC) that an event belongs to; parts of weekends come last.

    >>> [season_bin(time_us, 4) for time_us in (0, DAY_US // 4, DAY_US - 1, 2 * DAY_US)]
    [0, 1, 3, 4]
    """
    is_weekend = (event_time_us // DAY_US + FIRST_WEEKDAY) % 7 >= 5
    return event_time_us % DAY_US * parts // DAY_US + (parts if is_weekend else 0)
