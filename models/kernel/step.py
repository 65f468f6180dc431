"""The arithmetic of one group: one event each of up to `LANES` entities, compiled by numba.

Entities are processed one after the other, sixteen features or hidden units at a time
(`models.simd.vectors`). The matrix products take all events of the group at once
(`models.simd.matmul`). No operation mixes two events, and the order of all operations is
fixed here: without fast-math LLVM neither regroups a sum nor fuses a multiplication with an
addition that is not written as one, and the exponential is our own. So the bits of a score
depend neither on neighbours nor on the machine. `models.forecast.self_test` checks at start-up
that neighbours do not matter, in every lane, and that the bits equal those in the artifact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamgauge.models.kernel.buffers import EventGroup, ModelParams, PackedNetwork, Scratch
from streamgauge.models.kernel.season import season_bin
from streamgauge.models.simd.functions import exp
from streamgauge.models.simd.matmul import LANES, product
from streamgauge.models.simd.prefetch import LINE_FLOATS, prefetch
from streamgauge.models.simd.vectors import (
    WIDTH,
    Address,
    Wide,
    begin,
    load,
    root,
    spread,
    store,
    total,
    where_number,
)
from streamgauge.models.state.entity_row import Record, Vectors

# Bounds of the network's sigma, in standard units. Without the floor, a constant channel would
# reward unlimited certainty. Without the ceiling, the forecast could explain every value.
LOG_SIGMA_MIN = np.float32(np.log(1e-2))
LOG_SIGMA_MAX = np.float32(3.0)

# Lower bound of the mean squares of residuals. A channel that was constant in training has
# residual 0; without the bound a rounding error would be anomalous.
SCALE_MIN = np.float32(1e-2)
CHANGE_CAP = np.float32(9.0)  # bounds the effect of a single level shift on the step size

# Features of one folded sum: the second half is added to the first, and so on.
CHUNK = 4 * WIDTH

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_NAN = np.float32(np.nan)


class _Addresses(NamedTuple):
    """Where the arrays of table, block, network and scratch begin, and some lengths."""

    floats: Address
    x: Address
    coefficients: Address
    var_floors: Address
    lower: Address
    upper: Address
    event: Address
    from_hidden: Address
    from_event: Address
    part: Address
    expected: Address
    residuals: Address
    features: int
    hidden: int
    priors: int
    #: Floats per event in `from_hidden` and `from_event`.
    hidden_stride: int
    event_stride: int
    keeps_residuals: bool


class _Event(NamedTuple):
    """One event: where its inputs begin, and its learning rates."""

    x: int
    row: int
    seasonal_baseline: int
    prior_index: int
    lane: int
    is_first: bool  # no event was learned from before
    has_past: bool
    learns: bool
    season_rate: np.float32
    rate: np.float32
    var_rate: np.float32
    scale_rate: np.float32


@njit(error_model="numpy")
def step_group(
    heads: NDArray[Any],
    floats: NDArray[Any],
    x: NDArray[Any],
    event_time_us: NDArray[Any],
    group: EventGroup,
    count: int,
    width: int,
    network: PackedNetwork,
    scratch: Scratch,
) -> None:
    """Score an event of each of `count` entities, then advance their rows past it, in place.

    Args:
        heads: (N,) heads of a table's rows.
        floats: (N * W,) the same rows as floats.
        x: (M * F,) float32 in raw units, NaN = missing.
        event_time_us: (M,) int64, not negative; selects the part of the day.
        group: entities and events.
        count: number of lanes that hold an event.
        width: W, floats in a row.
        network: of the model.
        scratch: takes the results.
    """
    vectors, params = network.vectors, network.params
    memory = _addresses_of(floats, x, network, scratch)
    rows, events, learn, next_rows = group.rows, group.events, group.learn, group.next_rows
    hidden_at, season = scratch.hidden_at, scratch.season
    score, loss, change = scratch.score, scratch.loss, scratch.change
    for lane in range(LANES):  # nothing reads the products of lanes without an event
        hidden_at[lane] = rows[lane if lane < count else 0] * width + vectors.hidden
    for lane in range(count):
        season[lane] = season_bin(event_time_us[events[lane]], params.season_parts)
        _prefetch_season(memory, vectors, rows[lane] * width, season[lane])
    product(network.from_hidden, floats, hidden_at, count, scratch.from_hidden)
    for lane in range(count):
        _prefetch_row(memory, vectors, next_rows[lane] * width)
        head, row = heads[rows[lane]], rows[lane] * width
        event = _event_of(
            head, events[lane], row, lane, season[lane], learn[lane], memory, vectors, params
        )
        sums = _features(event, memory, vectors, params)
        score[lane], loss[lane], change[lane] = _smooth(head, sums, params)
        if learn[lane]:
            head.statistics_weight += _ONE
        head.event_count += np.uint32(1)
    product(network.from_event, scratch.event, scratch.event_at, count, scratch.from_event)
    for lane in range(count):
        _advance(hidden_at[lane], lane, memory)


@njit(error_model="numpy", inline="always")
def _addresses_of(
    floats: NDArray[Any], x: NDArray[Any], network: PackedNetwork, scratch: Scratch
) -> _Addresses:
    """Return the addresses of the arrays; numba would count references to arrays per event."""
    features = len(scratch.lower)
    return _Addresses(
        begin(floats),
        begin(x),
        begin(network.coefficients),
        begin(network.var_floors),
        begin(scratch.lower),
        begin(scratch.upper),
        begin(scratch.event),
        begin(scratch.from_hidden),
        begin(scratch.from_event),
        begin(scratch.part),
        begin(scratch.expected),
        begin(scratch.residuals),
        features,
        network.from_hidden.shape[1] - 1,
        len(network.var_floors) // features,
        len(scratch.from_hidden) // LANES,
        len(scratch.from_event) // LANES,
        len(scratch.residuals) > 0,
    )


@njit(error_model="numpy", inline="always")
def _prefetch_row(memory: _Addresses, vectors: Vectors, row: int) -> None:
    """Prefetch a row up to its seasonal baselines.

    One row per event: the rows of a whole group at once exceed the processor's queue.
    """
    for index in range(row, row + vectors.season, LINE_FLOATS):
        prefetch(memory.floats, index)


@njit(error_model="numpy", inline="always")
def _prefetch_season(memory: _Addresses, vectors: Vectors, row: int, season: int) -> None:
    """Prefetch the seasonal baseline, which is unknown when the row is prefetched."""
    first = row + vectors.season + season * memory.features
    for index in range(first, first + memory.features, LINE_FLOATS):
        prefetch(memory.floats, index)
    prefetch(memory.floats, first + memory.features - 1)
    prefetch(memory.floats, row + vectors.season_weight + season)


@njit(error_model="numpy", inline="always")
def _event_of(
    head: Record,
    index: int,
    row: int,
    lane: int,
    season: int,
    learns: bool,
    memory: _Addresses,
    vectors: Vectors,
    params: ModelParams,
) -> _Event:
    """Return an event with its learning rates; counts it for its seasonal baseline."""
    floats, weight, season_rate = memory.floats, head.statistics_weight, _ZERO
    if learns:
        season_weight = floats[row + vectors.season_weight + season] + _ONE
        floats[row + vectors.season_weight + season] = season_weight
        season_rate = max(_ONE / max(season_weight, _ONE), params.season_rate_min)
    scale_rate = max(_ONE / (weight + params.prior_events), params.rate_min)
    return _Event(
        index * memory.features,
        row,
        row + vectors.season + season * memory.features,
        # A damaged row must not cause a read outside of the arrays.
        min(int(head.prior_index), memory.priors - 1),
        lane,
        weight < _ONE,
        head.event_count > 0,
        learns,
        season_rate,
        max(_ONE / (weight + _ONE), params.rate_min),
        # The first event has no mean to deviate from.
        scale_rate if weight >= _ONE else _ZERO,
        scale_rate,
    )


@njit(error_model="numpy", inline="always")
def _smooth(
    head: Record, sums: tuple[np.float32, np.float32, np.float32, np.float32], params: ModelParams
) -> tuple[np.float32, np.float32, np.float32]:
    """Return score, loss and change of an event from the sums over its features."""
    parts, count, losses, changes = sums
    compared = max(count, _ONE)
    if count > _ZERO:  # without a comparison the smoothed scores do not change
        fresh = parts / compared
        head.smoothed_fast += params.alpha_fast * (fresh - head.smoothed_fast)
        head.smoothed_slow += params.alpha_slow * (fresh - head.smoothed_slow)
    score = np.sqrt((head.smoothed_fast + head.smoothed_slow) * _HALF)
    return score, losses / compared, changes / compared


@njit(error_model="numpy", inline="always")
def _features(
    event: _Event, memory: _Addresses, vectors: Vectors, params: ModelParams
) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Score and learn all features; returns sums of parts, comparisons, losses and changes."""
    parts = counts = losses = changes = _ZERO
    for start in range(0, memory.features, CHUNK):
        # Vectors are added alternately to two partial sums: a chunk is folded in halves.
        zero = spread(_ZERO)
        part, other_part, count, other_count = zero, zero, zero, zero
        loss, other_loss, change, other_change = zero, zero, zero, zero
        for j in range(start, min(start + CHUNK, memory.features), WIDTH):
            left = memory.features - j
            if left >= WIDTH:  # compiled twice: before AVX-512, partial vectors are slow to write
                summands = _compare(j, WIDTH, event, memory, vectors, params)
            else:
                summands = _compare(j, left, event, memory, vectors, params)
            part, other_part = other_part, part + summands[0]
            count, other_count = other_count, count + summands[1]
            loss, other_loss = other_loss, loss + summands[2]
            change, other_change = other_change, change + summands[3]
        parts += total(part + other_part)
        counts += total(count + other_count)
        losses += total(loss + other_loss)
        changes += total(change + other_change)
    return parts, counts, losses, changes


@njit(error_model="numpy", inline="always")
def _compare(
    j: int, left: int, event: _Event, memory: _Addresses, vectors: Vectors, params: ModelParams
) -> tuple[Wide, Wide, Wide, Wide]:
    """Standardise features, compare them with forecast and seasonal baseline, and learn."""
    floats, clip, cap, size = memory.floats, params.clip, params.cap, memory.features
    row = event.row + j
    raw = load(memory.x, event.x + j, left, _NAN)
    bounded = min(max(raw, load(memory.lower, j, left, _ZERO)), load(memory.upper, j, left, _ZERO))
    mean, var = (
        load(floats, row + vectors.mean, left, _ZERO),
        load(floats, row + vectors.var, left, _ONE),
    )
    scale = load(floats, row + vectors.scale, left, _ONE)
    scale_linear = load(floats, row + vectors.scale + size, left, _ONE)
    seasonal_baseline = load(floats, event.seasonal_baseline + j, left, _ZERO)
    last = load(floats, row + vectors.lags, left, _ZERO)
    linear = _linear(j, left, event, memory, vectors, params)
    output = event.lane * memory.hidden_stride + j
    network_mean = load(memory.from_hidden, output, left, _ZERO)
    network_sigma = load(memory.from_hidden, output + size, left, _ZERO)

    if event.is_first:
        mean = where_number(raw, bounded, mean)
    std = root(var)
    forecast = min(max(linear + network_mean, -clip), clip)
    linear = min(max(linear, -clip), clip)
    log_sigma = min(max(network_sigma, LOG_SIGMA_MIN), LOG_SIGMA_MAX)
    # A missing value is replaced by its forecast, so hidden and lags still advance.
    z = where_number(raw, min(max((bounded - mean) / std, -clip), clip), forecast)
    gain = where_number(raw, _ONE, _ZERO)
    mask = gain if event.has_past else spread(_ZERO)
    off, off_linear = (z - forecast) * exp(-log_sigma), z - linear
    off, off_linear = off * off, off_linear * off_linear
    ratio, ratio_linear = min(off / scale, cap), min(off_linear / scale_linear, cap)
    level, step = z - seasonal_baseline, z - last
    part = (min(ratio, ratio_linear) + min(level * level, cap) * params.level_weight) * mask

    first = event.lane * size
    store(memory.event, first + j, left, z)
    store(memory.part, first + j, left, part)
    store(memory.expected, first + j, left, forecast * std + mean)
    if memory.keeps_residuals:
        store(memory.residuals, 2 * first + j, left, off)
        store(memory.residuals, 2 * first + size + j, left, off_linear)
    store(floats, row + vectors.lags, left, z)
    if not event.has_past:  # the first event stands for all earlier ones
        for lag in range(1, params.lags):
            store(floats, row + vectors.lags + lag * size, left, z)
    if event.learns:  # see `models.forecast.normaliser`
        store(
            floats,
            event.seasonal_baseline + j,
            left,
            seasonal_baseline + level * gain * event.season_rate,
        )
        mean = mean + z * std * gain * event.rate
        wider = (z * z - _ONE) * gain * event.var_rate + _ONE
        floor = load(memory.var_floors, event.prior_index * size + j, left, _ZERO)
        store(floats, row + vectors.var, left, max(var * wider, floor))
        compared = mask * event.scale_rate
        wider = (ratio - _ONE) * compared + _ONE
        store(floats, row + vectors.scale, left, max(scale * wider, SCALE_MIN))
        wider = (ratio_linear - _ONE) * compared + _ONE
        store(floats, row + vectors.scale + size, left, max(scale_linear * wider, SCALE_MIN))
    store(floats, row + vectors.mean, left, mean)
    loss = (min(off, cap) * _HALF + log_sigma) * mask
    return part, mask, loss, min(step * step, CHANGE_CAP) * mask


@njit(error_model="numpy", inline="always")
def _linear(
    j: int, left: int, event: _Event, memory: _Addresses, vectors: Vectors, params: ModelParams
) -> Wide:
    """Forecast features from their lags, and shift the lags by one event."""
    size, lags, floats = memory.features, params.lags, memory.floats
    sums = spread(_ZERO)
    for lag in range(lags - 1, -1, -1):  # oldest first, so that each can be overwritten
        old = event.row + vectors.lags + lag * size + j
        value = load(floats, old, left, _ZERO)
        weight = (event.prior_index * lags + lag) * size + j
        sums = sums + load(memory.coefficients, weight, left, _ZERO) * value
        if lag + 1 < lags:
            store(floats, old + size, left, value)
    return sums


@njit(error_model="numpy", inline="always")
def _advance(hidden_at: int, lane: int, memory: _Addresses) -> None:
    """Advance the hidden vector that begins at `hidden_at` by an event."""
    for k in range(0, memory.hidden, WIDTH):
        left = memory.hidden - k
        if left >= WIDTH:
            _gate(k, WIDTH, hidden_at, lane, memory)
        else:
            _gate(k, left, hidden_at, lane, memory)


@njit(error_model="numpy", inline="always")
def _gate(k: int, left: int, hidden_at: int, lane: int, memory: _Addresses) -> None:
    """Advance hidden units by an event; sigmoid(v) = 1 / (1 + exp(-v))."""
    now, past, size = memory.from_event, memory.from_hidden, memory.hidden
    a = lane * memory.event_stride + k
    b = lane * memory.hidden_stride + 2 * memory.features + k
    reset = load(now, a, left, _ZERO) + load(past, b, left, _ZERO)
    reset = _ONE / (_ONE + exp(-reset))
    update = load(now, a + size, left, _ZERO) + load(past, b + size, left, _ZERO)
    update = _ONE / (_ONE + exp(-update))
    new = load(now, a + 2 * size, left, _ZERO)
    new = new + reset * load(past, b + 2 * size, left, _ZERO)
    new = _ONE - (_ONE + _ONE) / (_ONE + exp(new + new))  # its tanh
    hidden = load(memory.floats, hidden_at + k, left, _ZERO)
    store(memory.floats, hidden_at + k, left, new + update * (hidden - new))
