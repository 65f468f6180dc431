"""Formats numbers, times and text from outside for people."""

from __future__ import annotations

import math
import unicodedata
from datetime import UTC, datetime

_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"))
RARITY_MAX = 1e12  # a larger number has no meaning
NAME_CHARACTERS_MAX, SENTENCE_CHARACTERS_MAX = 120, 600


def number(value: float | None) -> str:
    """A number with at most four significant digits.

    >>> [number(value) for value in (0.123456, 12345.6, 2_500_000, 0, None)]
    ['0.1235', '12.35k', '2.5M', '0', 'missing']
    """
    if value is None or math.isnan(value):
        return "missing"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    for size, suffix in _SUFFIXES:
        if size <= abs(value) < 1e15:
            scale = 1e3 if suffix == "k" else size
            return f"{value / scale:.4g}{suffix}"
    return f"{value:.4g}"


def rarity(rarity_1_in_n: float) -> str:
    """A rarity with two digits; no calibration is more precise.

    >>> rarity(12_345), rarity(7.2), rarity(float("inf"))
    ('once in 12,000', 'once in 7', 'once in 1,000,000,000,000 or rarer')
    """
    if math.isnan(rarity_1_in_n):
        return "rarity unknown"
    if rarity_1_in_n >= RARITY_MAX:
        return f"once in {RARITY_MAX:,.0f} or rarer"
    if rarity_1_in_n < 10:
        return f"once in {max(1.0, rarity_1_in_n):.0f}"
    digits = 1 - math.floor(math.log10(rarity_1_in_n))
    return f"once in {round(rarity_1_in_n, digits):,.0f}"


def moment(time_us: int) -> str:
    """A time in UTC to the second.

    >>> moment(1_704_067_200_000_000)
    '2024-01-01 00:00:00'
    """
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(time_us: int) -> str:
    """A duration in its two largest units.

    >>> duration(90_000_000), duration(7_260_000_000), duration(200_000_000_000)
    ('1 min 30 s', '2 h 1 min', '2 d 7 h')
    """
    seconds = time_us // 1_000_000
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    parts = []
    for name, size in units:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {name}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def plain(text: object, characters_max: int = NAME_CHARACTERS_MAX) -> str:
    r"""Text from outside, safe to print: no control characters, limited length.

    >>> plain("web-1\x1b[31m\u202e")
    'web-1?[31m?'
    """
    clean = "".join("?" if unicodedata.category(c)[0] == "C" else c for c in str(text))
    return clean if len(clean) <= characters_max else clean[:characters_max] + "…"
