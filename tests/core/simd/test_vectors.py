"""Operations on sixteen float32 give the bits that NumPy gives for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

from streamgauge.models.simd.functions import exp
from streamgauge.models.simd.vectors import (
    WIDTH,
    begin,
    load,
    root,
    spread,
    store,
    total,
    where_number,
)

ZERO, ONE, SEVEN = np.float32(0), np.float32(1), np.float32(7)
FUNCTIONS: list[tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = [
    (lambda a, b: a + b, lambda a, b: a + b),
    (lambda a, b: a - b, lambda a, b: a - b),
    (lambda a, b: a * b, lambda a, b: a * b),
    (lambda a, b: a / b, lambda a, b: a / b),
    (lambda a, b: min(a, b), np.fmin),
    (lambda a, b: max(a, b), np.fmax),
    (lambda a, b: -a * ONE, lambda a, b: -a),
    (lambda a, b: ONE - a, lambda a, b: 1 - a),
    (lambda a, b: a * SEVEN, lambda a, b: a * 7),
    (lambda a, b: root(a * a), lambda a, b: np.sqrt(a * a)),
]


def values(seed: int, count: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


@njit
def copied(source: Any, to: Any, left: Any) -> None:
    store(begin(to), 1, left, load(begin(source), 2, left, SEVEN))


@njit
def filled(source: Any, to: Any, left: Any) -> None:
    store(begin(to), 0, WIDTH, load(begin(source), 0, left, SEVEN))


@njit
def summed(source: Any) -> Any:
    return total(load(begin(source), 0, WIDTH, ZERO))


@njit
def exponential(source: Any, to: Any) -> None:
    for j in range(0, len(source), WIDTH):
        store(begin(to), j, len(to) - j, exp(load(begin(source), j, len(source) - j, ZERO)))


@njit
def chosen(source: Any, to: Any) -> None:
    here = load(begin(source), 0, WIDTH, ZERO)
    store(begin(to), 0, WIDTH, where_number(here, here, spread(SEVEN)))


@pytest.mark.parametrize("number", range(len(FUNCTIONS)))
def test_each_lane_has_the_bits_of_a_single_number(number: int) -> None:
    compute, expected = njit(FUNCTIONS[number][0]), FUNCTIONS[number][1]

    @njit
    def run(one: Any, two: Any, to: Any) -> None:
        first, second = (load(begin(one), 0, WIDTH, ZERO), load(begin(two), 0, WIDTH, ZERO))
        store(begin(to), 0, WIDTH, compute(first, second))

    one, two, to = values(1), values(2), np.zeros(WIDTH, np.float32)
    run(one, two, to)
    assert to.tobytes() == expected(one, two).astype(np.float32).tobytes()


@pytest.mark.parametrize("left", [1, 5, WIDTH, WIDTH + 3])
def test_only_what_is_left_is_written(left: int) -> None:
    source, to = values(3, 24), np.full(24, -1, np.float32)
    copied(source, to, left)
    here = min(left, WIDTH)
    assert to[1 : 1 + here].tolist() == source[2 : 2 + here].tolist()
    assert to[0] == -1 and (to[1 + here :] == -1).all()


def test_lanes_from_left_on_hold_the_default() -> None:
    source, to = values(4), np.zeros(WIDTH, np.float32)
    filled(source, to, 5)
    assert to.tolist() == [*source[:5].tolist(), *[7.0] * 11]


def test_a_sum_adds_its_second_half_to_its_first_until_one_is_left() -> None:
    source = values(5) * np.float32(10) ** values(6)
    folded = source
    while len(folded) > 1:
        folded = folded[: len(folded) // 2] + folded[len(folded) // 2 :]
    assert summed(source) == folded[0] != np.cumsum(source)[-1]


def test_missing_values_are_replaced() -> None:
    source, to = values(7), np.zeros(WIDTH, np.float32)
    source[[0, 9]] = np.nan
    chosen(source, to)
    assert to[0] == to[9] == 7 and to[1] == source[1]


def test_the_exponential_is_as_exact_as_it_says() -> None:
    source = np.linspace(-80, 80, 1 << 16).astype(np.float32)
    to, expected = np.zeros_like(source), np.exp(source.astype(np.float64))
    exponential(source, to)
    assert (abs(to / expected - 1) <= 3e-7 + 6e-8 * abs(source)).all()


def test_the_exponential_stays_at_its_bounds() -> None:
    to, bounds = np.zeros(2, np.float32), np.zeros(2, np.float32)
    exponential(np.array([-np.inf, np.inf], np.float32), to)
    exponential(np.array([-80, 80], np.float32), bounds)
    assert to.tolist() == bounds.tolist() and 0 < to[0] < to[1] < np.inf
