"""Scores a batch with one event per row: for training, self-test and offline scoring.

The live scorer steps blocks instead, in which entities repeat (`models.scoring.waves`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from streamgauge.models.kernel.buffers import EventGroup, PackedNetwork, Scratch
from streamgauge.models.kernel.step import step_group
from streamgauge.models.simd.compile_cache import cached_njit
from streamgauge.models.simd.matmul import LANES


class BatchResults(NamedTuple):
    """The results of B events, as in `Scratch`; float32."""

    #: (B,) each.
    score: NDArray[Any]
    loss: NDArray[Any]
    change: NDArray[Any]
    #: (B, F) flat each.
    part: NDArray[Any]
    expected: NDArray[Any]
    #: (B, RESIDUALS, F) flat.
    residuals: NDArray[Any]


@cached_njit(error_model="numpy")
def score_rows(
    heads: NDArray[Any],
    floats: NDArray[Any],
    x: NDArray[Any],
    event_time_us: NDArray[Any],
    learn: NDArray[Any],
    network: PackedNetwork,
    scratch: Scratch,
    group: EventGroup,
    results: BatchResults,
) -> None:
    """Score event i against row i and advance the rows, in place.

    Args:
        heads: (B,) heads of the rows.
        floats: (B * W,) the same rows as floats.
        x: (B * F,) float32 in raw units, NaN = missing.
        event_time_us: (B,) int64, not negative.
        learn: (B,) bool; False leaves statistics and scales unchanged.
        network: of the model.
        scratch: memory for one group, with residuals.
        group: memory for one group.
        results: output.
    """
    width, size = len(floats) // len(heads), len(x) // len(heads)
    for start in range(0, len(heads), LANES):
        count = min(LANES, len(heads) - start)
        for lane in range(count):
            group.rows[lane] = group.events[lane] = start + lane
            group.learn[lane] = learn[start + lane]
            group.next_rows[lane] = min(start + lane + LANES, len(heads) - 1)
        step_group(heads, floats, x, event_time_us, group, count, width, network, scratch)
        here = slice(start, start + count)
        results.score[here] = scratch.score[:count]
        results.loss[here] = scratch.loss[:count]
        results.change[here] = scratch.change[:count]
        first, end = start * size, (start + count) * size
        results.part[first:end] = scratch.part[: count * size]
        results.expected[first:end] = scratch.expected[: count * size]
        results.residuals[2 * first : 2 * end] = scratch.residuals[: 2 * count * size]
