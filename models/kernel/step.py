"""The arithmetic of a group: one event each of up to `LANES` entities, compiled by numba.

Entities are worked on one behind the other, sixteen features or hidden units at a time
(`models.simd.vectors`), and the matrices meet all events of the group at once
(`models.simd.matmul`). No
operation crosses from one event to another, and none is left to a compiler or library to
order: without fast-math LLVM neither regroups a sum nor fuses a multiply-add that is not
written as one, and the exponential is our own. So a score's bits depend neither on
neighbours nor on the machine. `models.forecast.self_test` proves the first at start-up in every
lane, and holds the second to the artifact's digest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from streamgauge.models.kernel.buffers import ModelParams, PackedNetwork, Scratch
from streamgauge.models.simd.functions import exp, season_bin
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

# The head's sigma in standard units: a floor, since a constant channel would otherwise
# reward any certainty, and a ceiling, since a forecaster must not excuse everything.
LOG_SIGMA_MIN = np.float32(np.log(1e-2))
LOG_SIGMA_MAX = np.float32(3.0)

# Mean squares of residuals are never taken smaller: a channel that was constant in
# training has residual 0, and any scale would make a rounding error a surprise.
SCALE_MIN = np.float32(1e-2)
CHANGE_CAP = np.float32(9.0)  # one step of a whole level must not pass for unrest

# Features that are summed by folding: their second half is added to the first, and so on.
CHUNK = 4 * WIDTH

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_NAN = np.float32(np.nan)


class _Memory(NamedTuple):
    """Where arrays of table, block, network and scratch begin, and how long some are."""

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
    #: Floats of one event in `from_hidden` and `from_event`.
    past: int
    given: int
    keeps_residuals: bool


class _Event(NamedTuple):
    """One event: places of what it meets, and how far it is believed."""

    x: int
    row: int
    seasonal_baseline: int
    prior_index: int
    lane: int
    is_first: bool  # that anything is learned from
    has_past: bool
    learns: bool
    season_rate: np.float32
    rate: np.float32
    var_rate: np.float32
    scale_rate: np.float32


@njit(error_model="numpy")
def step_group(
    heads: np.ndarray,
    floats: np.ndarray,
    x: np.ndarray,
    event_time_us: np.ndarray,
    rows: np.ndarray,
    events: np.ndarray,
    learn: np.ndarray,
    following: np.ndarray,
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
        event_time_us: (M,) int64, not negative; the time of day is taken from it.
        rows: (LANES,) places of the entities in the table, all different.
        events: (LANES,) places of their events in `x`.
        learn: (LANES,) bool; False leaves statistics and scales as they are.
        following: (LANES,) places to ask memory for meanwhile, those of the next group.
        count: how many of the lanes hold an event.
        width: W, floats in a row.
        network: of the model.
        scratch: takes what is said of the events.
    """
    at, terms, memory = network.at, network.terms, _memory_of(floats, x, network, scratch)
    hidden_at, season = scratch.hidden_at, scratch.season
    score, loss, change = scratch.score, scratch.loss, scratch.change
    for lane in range(LANES):  # what is multiplied in lanes without an event, nobody reads
        hidden_at[lane] = rows[lane if lane < count else 0] * width + at.hidden
    for lane in range(count):
        season[lane] = season_bin(event_time_us[events[lane]], terms.season_parts)
        _ask_for_usual(memory, at, rows[lane] * width, season[lane])
    product(network.from_hidden, floats, hidden_at, count, scratch.from_hidden)
    for lane in range(count):
        _ask_for_row(memory, at, following[lane] * width)
        head, row = heads[rows[lane]], rows[lane] * width
        event = _event_of(
            head, events[lane], row, lane, season[lane], learn[lane], memory, at, terms
        )
        sums = _features(event, memory, at, terms)
        score[lane], loss[lane], change[lane] = _smooth(head, sums, terms)
        if learn[lane]:
            head.statistics_weight += _ONE
        head.event_count += np.uint32(1)
    product(network.from_event, scratch.event, scratch.event_at, count, scratch.from_event)
    for lane in range(count):
        _advance(hidden_at[lane], lane, memory)


@njit(error_model="numpy", inline="always")
def _memory_of(
    floats: np.ndarray, x: np.ndarray, network: PackedNetwork, scratch: Scratch
) -> _Memory:
    """The arrays as addresses: references to arrays would be counted at each event."""
    features = len(scratch.lower)
    return _Memory(
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
def _ask_for_row(memory: _Memory, at: Vectors, row: int) -> None:
    """Ask for a row up to its usual levels; for all of a group at once is more than can wait."""
    for place in range(row, row + at.season, LINE_FLOATS):
        prefetch(memory.floats, place)


@njit(error_model="numpy", inline="always")
def _ask_for_usual(memory: _Memory, at: Vectors, row: int, season: int) -> None:
    """Ask for usual levels: which they are, nobody knew when the row was asked for."""
    first = row + at.season + season * memory.features
    for place in range(first, first + memory.features, LINE_FLOATS):
        prefetch(memory.floats, place)
    prefetch(memory.floats, first + memory.features - 1)
    prefetch(memory.floats, row + at.season_weight + season)


@njit(error_model="numpy", inline="always")
def _event_of(
    head: Record,
    place: int,
    row: int,
    lane: int,
    season: int,
    learns: bool,
    memory: _Memory,
    at: Vectors,
    terms: ModelParams,
) -> _Event:
    """How far an event is believed; counts it where the usual levels of its season learn."""
    floats, weight, season_rate = memory.floats, head.statistics_weight, _ZERO
    if learns:
        weighed = floats[row + at.season_weight + season] + _ONE
        floats[row + at.season_weight + season] = weighed
        season_rate = max(_ONE / max(weighed, _ONE), terms.season_rate_min)
    scale_rate = max(_ONE / (weight + terms.prior_events), terms.rate_min)
    return _Event(
        place * memory.features,
        row,
        row + at.season + season * memory.features,
        # A damaged row must not lead out of memory.
        min(int(head.prior_index), memory.priors - 1),
        lane,
        weight < _ONE,
        head.event_count > 0,
        learns,
        season_rate,
        max(_ONE / (weight + _ONE), terms.rate_min),
        # The first event has no mean to deviate from.
        scale_rate if weight >= _ONE else _ZERO,
        scale_rate,
    )


@njit(error_model="numpy", inline="always")
def _smooth(
    head: Record, sums: tuple[np.float32, np.float32, np.float32, np.float32], terms: ModelParams
) -> tuple[np.float32, np.float32, np.float32]:
    """Fold features into one smoothed number; the score, loss and change."""
    parts, count, losses, changes = sums
    here = max(count, _ONE)
    if count > _ZERO:  # an event without a comparison leaves the smoothed scores as they are
        fresh = parts / here
        head.smoothed_fast += terms.alpha_fast * (fresh - head.smoothed_fast)
        head.smoothed_slow += terms.alpha_slow * (fresh - head.smoothed_slow)
    score = np.sqrt((head.smoothed_fast + head.smoothed_slow) * _HALF)
    return score, losses / here, changes / here


@njit(error_model="numpy", inline="always")
def _features(
    event: _Event, memory: _Memory, at: Vectors, terms: ModelParams
) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Score and learn all features; the sums of parts, comparisons, losses and changes."""
    parts = counts = losses = changes = _ZERO
    for start in range(0, memory.features, CHUNK):
        # Of a sum, vectors by turns go to one half and the other: a chunk is folded in halves.
        zero = spread(_ZERO)
        part, other_part, count, other_count = zero, zero, zero, zero
        loss, other_loss, change, other_change = zero, zero, zero, zero
        for j in range(start, min(start + CHUNK, memory.features), WIDTH):
            left = memory.features - j
            if left >= WIDTH:  # compiled twice: parts of vectors are slow to write before AVX-512
                found = _compare(j, WIDTH, event, memory, at, terms)
            else:
                found = _compare(j, left, event, memory, at, terms)
            part, other_part = other_part, part + found[0]
            count, other_count = other_count, count + found[1]
            loss, other_loss = other_loss, loss + found[2]
            change, other_change = other_change, change + found[3]
        parts += total(part + other_part)
        counts += total(count + other_count)
        losses += total(loss + other_loss)
        changes += total(change + other_change)
    return parts, counts, losses, changes


@njit(error_model="numpy", inline="always")
def _compare(
    j: int, left: int, event: _Event, memory: _Memory, at: Vectors, terms: ModelParams
) -> tuple[Wide, Wide, Wide, Wide]:
    """Standardise features, hold them to forecasts, mean squares and usual levels, and learn."""
    floats, clip, cap, size = memory.floats, terms.clip, terms.cap, memory.features
    row = event.row + j
    raw = load(memory.x, event.x + j, left, _NAN)
    bounded = min(max(raw, load(memory.lower, j, left, _ZERO)), load(memory.upper, j, left, _ZERO))
    mean, var = load(floats, row + at.mean, left, _ZERO), load(floats, row + at.var, left, _ONE)
    scale = load(floats, row + at.scale, left, _ONE)
    scale_linear = load(floats, row + at.scale + size, left, _ONE)
    seasonal_baseline = load(floats, event.seasonal_baseline + j, left, _ZERO)
    last = load(floats, row + at.lags, left, _ZERO)
    linear = _linear(j, left, event, memory, at, terms)
    said = event.lane * memory.past + j
    said_mean = load(memory.from_hidden, said, left, _ZERO)
    said_sigma = load(memory.from_hidden, said + size, left, _ZERO)

    if event.is_first:
        mean = where_number(raw, bounded, mean)
    std = root(var)
    forecast = min(max(linear + said_mean, -clip), clip)
    linear = min(max(linear, -clip), clip)
    log_sigma = min(max(said_sigma, LOG_SIGMA_MIN), LOG_SIGMA_MAX)
    # A missing value is taken for what was forecast: no surprise, and memory goes on.
    z = where_number(raw, min(max((bounded - mean) / std, -clip), clip), forecast)
    gain = where_number(raw, _ONE, _ZERO)
    mask = gain if event.has_past else spread(_ZERO)
    off, off_linear = (z - forecast) * exp(-log_sigma), z - linear
    off, off_linear = off * off, off_linear * off_linear
    ratio, ratio_linear = min(off / scale, cap), min(off_linear / scale_linear, cap)
    level, step = z - seasonal_baseline, z - last
    part = (min(ratio, ratio_linear) + min(level * level, cap) * terms.level_weight) * mask

    place = event.lane * size
    store(memory.event, place + j, left, z)
    store(memory.part, place + j, left, part)
    store(memory.expected, place + j, left, forecast * std + mean)
    if memory.keeps_residuals:
        store(memory.residuals, 2 * place + j, left, off)
        store(memory.residuals, 2 * place + size + j, left, off_linear)
    store(floats, row + at.lags, left, z)
    if not event.has_past:  # an entity is taken to have been before as it is first seen
        for lag in range(1, terms.lags):
            store(floats, row + at.lags + lag * size, left, z)
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
        store(floats, row + at.var, left, max(var * wider, floor))
        compared = mask * event.scale_rate
        wider = (ratio - _ONE) * compared + _ONE
        store(floats, row + at.scale, left, max(scale * wider, SCALE_MIN))
        wider = (ratio_linear - _ONE) * compared + _ONE
        store(floats, row + at.scale + size, left, max(scale_linear * wider, SCALE_MIN))
    store(floats, row + at.mean, left, mean)
    loss = (min(off, cap) * _HALF + log_sigma) * mask
    return part, mask, loss, min(step * step, CHANGE_CAP) * mask


@njit(error_model="numpy", inline="always")
def _linear(
    j: int, left: int, event: _Event, memory: _Memory, at: Vectors, terms: ModelParams
) -> Wide:
    """Forecast features from their lags, and make room for the next."""
    size, lags, floats = memory.features, terms.lags, memory.floats
    sums = spread(_ZERO)
    for lag in range(lags - 1, -1, -1):  # the oldest first, so each can make room for the next
        old = event.row + at.lags + lag * size + j
        value = load(floats, old, left, _ZERO)
        weight = (event.prior_index * lags + lag) * size + j
        sums = sums + load(memory.coefficients, weight, left, _ZERO) * value
        if lag + 1 < lags:
            store(floats, old + size, left, value)
    return sums


@njit(error_model="numpy", inline="always")
def _advance(place: int, lane: int, memory: _Memory) -> None:
    """Let the hidden vector at a place take in an event."""
    for k in range(0, memory.hidden, WIDTH):
        left = memory.hidden - k
        if left >= WIDTH:
            _gate(k, WIDTH, place, lane, memory)
        else:
            _gate(k, left, place, lane, memory)


@njit(error_model="numpy", inline="always")
def _gate(k: int, left: int, place: int, lane: int, memory: _Memory) -> None:
    """Let hidden units take in an event; sigmoid(v) = 1 / (1 + exp(-v))."""
    given, past, size = memory.from_event, memory.from_hidden, memory.hidden
    a = lane * memory.given + k
    b = lane * memory.past + 2 * memory.features + k
    reset = load(given, a, left, _ZERO) + load(past, b, left, _ZERO)
    reset = _ONE / (_ONE + exp(-reset))
    update = load(given, a + size, left, _ZERO) + load(past, b + size, left, _ZERO)
    update = _ONE / (_ONE + exp(-update))
    new = load(given, a + 2 * size, left, _ZERO)
    new = new + reset * load(past, b + 2 * size, left, _ZERO)
    new = _ONE - (_ONE + _ONE) / (_ONE + exp(new + new))  # its tanh
    hidden = load(memory.floats, place + k, left, _ZERO)
    store(memory.floats, place + k, left, new + update * (hidden - new))
