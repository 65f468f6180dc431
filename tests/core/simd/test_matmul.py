"""The bits of a product depend on its row of the matrix and its event alone."""

from __future__ import annotations

import numpy as np
import pytest

from streamgauge.models.simd.matmul import COLUMNS, LANES, pack, product

SHAPES = [(1, 1), (COLUMNS, 7), (COLUMNS + 1, 38), (268, 64)]


def products(matrix: np.ndarray, events: np.ndarray, count: int) -> np.ndarray:
    """The result of `product` for `count` events (LANES, K), stored in reverse order."""
    packed, (lanes, depth) = pack(matrix), events.shape
    out = np.zeros((lanes, packed.shape[0] * COLUMNS), np.float32)
    starts = np.arange(lanes)[::-1] * depth
    product(packed, events[::-1].reshape(-1).copy(), starts, count, out.reshape(-1))
    return out[:count, : len(matrix)]


def operands(outputs: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(outputs + depth)
    matrix, events = rng.normal(size=(outputs, depth + 1)), rng.normal(size=(LANES, depth))
    return matrix.astype(np.float32), events.astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_a_matrix_product_with_biases(shape: tuple[int, int]) -> None:
    matrix, events = operands(*shape)
    expected = events.astype(np.float64) @ matrix[:, :-1].T.astype(np.float64) + matrix[:, -1]
    np.testing.assert_allclose(products(matrix, events, LANES), expected, rtol=0, atol=1e-4)


def test_a_sum_is_rounded_once_per_input_from_first_to_last_and_the_bias_comes_last() -> None:
    t = 2.0**-12  # (1 + t)^2 = 1 + 2t + t^2, whose last term is lost where it is rounded
    matrix = np.array([[-(1 + 2 * t), 1 + t, 0]], np.float32)
    events = np.tile(np.array([1, 1 + t], np.float32), (LANES, 1))
    assert products(matrix, events, 1)[0, 0] == np.float32(t * t)

    matrix = np.array([[1, -1, 2.0**-40]], np.float32)  # lost if it is added to a 1
    assert products(matrix, np.ones((LANES, 2), np.float32), 1)[0, 0] == np.float32(2.0**-40)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3, 4, 5, LANES])
def test_bits_depend_neither_on_lane_nor_on_neighbours(shape: tuple[int, int], count: int) -> None:
    matrix, events = operands(*shape)
    alone = products(matrix, np.roll(events, -2, axis=0), 1)[0]
    events[3:] = np.nan
    events[count - 1] = np.roll(operands(*shape)[1], -2, axis=0)[0]
    assert products(matrix, events, count)[count - 1].tobytes() == alone.tobytes()
