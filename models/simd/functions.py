"""Elementary functions with equal bits on every machine."""

from __future__ import annotations

import numpy as np
from numba import njit

from streamgauge.models.simd.vectors import Wide, power_of_two

_ONE = np.float32(1.0)


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
