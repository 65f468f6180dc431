"""Compiled functions of single values and vectors: season bin and exponential."""

from __future__ import annotations

import numpy as np
from numba import njit

from streamgauge.models.simd.vectors import Wide, power_of_two

DAY_US = 86_400_000_000
FIRST_WEEKDAY = 3  # 1970-01-01 was a Thursday

_ONE = np.float32(1.0)


@njit
def season_bin(event_time_us: int, parts: int) -> int:
    """Return the part of the day (UTC) of an event; the parts of weekends follow those of weekdays.

    >>> [season_bin(time_us, 4) for time_us in (0, DAY_US // 4, DAY_US - 1, 2 * DAY_US)]
    [0, 1, 3, 4]
    """
    is_weekend = (event_time_us // DAY_US + FIRST_WEEKDAY) % 7 >= 5
    return event_time_us % DAY_US * parts // DAY_US + (parts if is_weekend else 0)


# exp(v) = 2^n e^r with n the integer nearest to v / ln 2. So |r| <= ln(2) / 2, where the
# error of the series up to r^6 is 2e-7. Adding and subtracting 1.5 * 2^23 rounds to an integer.
_PER_LN2, _LN2, _ROUND = np.float32(1 / np.log(2)), np.float32(np.log(2)), np.float32(1.5 * 2**23)
_EXP_MAX = np.float32(80.0)
_C2, _C3, _C4, _C5, _C6 = (np.float32(1 / n) for n in (2, 6, 24, 120, 720))


@njit(error_model="numpy")
def exp(value: Wide) -> Wide:
    """Return the exponential of `value`, which is clipped to [-80, 80].

    The relative error is at most 3e-7 + 6e-8 * abs(value).
    """
    bounded = min(max(value, -_EXP_MAX), _EXP_MAX)
    shifted = bounded * _PER_LN2 + _ROUND
    r = bounded - (shifted - _ROUND) * _LN2
    series = _ONE + r * (_ONE + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))))
    # n is in the lowest bits of the mantissa of `shifted`.
    return series * power_of_two(shifted)
