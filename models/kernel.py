"""The arithmetic of a group: one event each of up to `LANES` entities, compiled by numba.

What recurs per feature works on eight features of one event at a time, what recurs per
hidden unit on all lanes of the group, and the matrices meet all lanes at once
(`models.product`). No operation crosses from one lane to another, and none is left to a
compiler or library to order: without fast-math LLVM neither regroups a sum nor fuses a
multiply-add that is not written as one, and the exponential is our own. So a score's bits
depend neither on neighbours nor on the machine. `models.selftest` proves the first at
start-up in every lane, and holds the second to the artifact's digest.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from models.elementary import exp, season_bin
from models.memory import copy
from models.product import LANES, product
from models.row import Record
from models.workspace import (
    AREA,
    CHANGE,
    CHUNK,
    COUNT,
    EXPECTED,
    FLOOR,
    GAIN,
    HEAD,
    LAG,
    LEVEL,
    LINEAR,
    LOG_SIGMA,
    LOSS,
    LOWER,
    MASK,
    MEAN,
    OFF,
    OFF_LINEAR,
    PART,
    RATIO,
    RATIO_LINEAR,
    SCALE,
    SCALE_LINEAR,
    TOTAL,
    UPPER,
    USUAL,
    VAR,
    Network,
    Scratch,
    X,
    Z,
)

# The head's sigma in standard units: a floor, since a constant channel would otherwise
# reward any certainty, and a ceiling, since a forecaster must not excuse everything.
LOG_SIGMA_MIN = np.float32(np.log(1e-2))
LOG_SIGMA_MAX = np.float32(3.0)

# Mean squares of residuals are never taken smaller: a channel that was constant in
# training has residual 0, and any scale would make a rounding error a surprise.
SCALE_MIN = np.float32(1e-2)
CHANGE_CAP = np.float32(9.0)  # one step of a whole level must not pass for unrest

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_TINY = np.float32(1e-12)

_STEP = 8  # features beyond the last one count as missing, up to a multiple of this


@njit(error_model="numpy")
def step_group(
    heads: np.ndarray,
    floats: np.ndarray,
    x: np.ndarray,
    event_time_us: np.ndarray,
    rows: np.ndarray,
    events: np.ndarray,
    learn: np.ndarray,
    count: int,
    width: int,
    network: Network,
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
        count: how many of the lanes hold an event.
        width: W, floats in a row.
        network: of the model.
        scratch: takes what is said of the events.
    """
    size, hidden = network.from_event.shape[1] - 1, network.from_hidden.shape[1] - 1
    at, work = network.at, scratch.work
    _to_lanes(scratch.hidden, floats, rows, count, at.hidden, width)
    product(network.from_hidden, scratch.hidden, scratch.from_hidden)
    for lane in range(count):
        base, event = rows[lane] * width, events[lane]
        head = heads[rows[lane]]
        season = season_bin(event_time_us[event], network.season_parts)
        usual = base + at.season + season * size
        # A damaged row must not lead out of memory.
        prior = min(int(head.prior), len(network.var_floors) // size - 1)
        _fetch(prior, floats, base, usual, x, event * size, size, network, work)
        _take_lane(work, scratch.from_hidden, lane, size)
        _compare(head, work, size, network)
        _smooth(head, lane, size, network, scratch)
        _say(scratch.part, scratch.expected, scratch.residuals, lane, size, work)
        _give_lane(scratch.event, work, lane, size)
        if learn[lane]:
            weighed = floats[base + at.season_weight + season] + _ONE
            floats[base + at.season_weight + season] = weighed
            rate = max(_ONE / max(weighed, _ONE), network.season_rate_min)
            _learn(head.weight, work, size, rate, network.rate_min, network.prior_events)
            head.weight += _ONE
        _keep(head.seen == 0, learn[lane], floats, base, usual, size, network, work)
        head.seen += np.uint32(1)
    product(network.from_event, scratch.event, scratch.from_event)
    _advance(scratch.hidden, scratch.from_hidden, scratch.from_event, size, hidden)
    _from_lanes(scratch.hidden, floats, rows, count, at.hidden, width)


@njit(error_model="numpy", inline="always")
def _to_lanes(
    hidden: np.ndarray, floats: np.ndarray, rows: np.ndarray, count: int, place: int, width: int
) -> None:
    """Bring hidden vectors: events become columns."""
    for lane in range(count):
        base = rows[lane] * width + place
        for k in range(hidden.shape[0] - 1):
            hidden[k, lane] = floats[np.uint64(base + k)]


@njit(error_model="numpy", inline="always")
def _from_lanes(
    hidden: np.ndarray, floats: np.ndarray, rows: np.ndarray, count: int, place: int, width: int
) -> None:
    """Put hidden vectors back."""
    for lane in range(count):
        base = rows[lane] * width + place
        for k in range(hidden.shape[0] - 1):
            floats[np.uint64(base + k)] = hidden[k, lane]


@njit(error_model="numpy", inline="always")
def _take_lane(work: np.ndarray, from_hidden: np.ndarray, lane: int, size: int) -> None:
    """Bring what the network says of one event."""
    area = 0
    for start in range(0, size, CHUNK):
        for j in range(min(CHUNK, size - start)):
            work[area + HEAD + j] = from_hidden[np.uint64(start + j), lane]
            work[area + LOG_SIGMA + j] = from_hidden[np.uint64(size + start + j), lane]
        area += AREA


@njit(error_model="numpy", inline="always")
def _give_lane(event: np.ndarray, work: np.ndarray, lane: int, size: int) -> None:
    """Give the network one event."""
    area = 0
    for start in range(0, size, CHUNK):
        for j in range(min(CHUNK, size - start)):
            event[np.uint64(start + j), lane] = work[area + Z + j]
        area += AREA


@njit(error_model="numpy", inline="always")
def _fetch(
    prior: int,
    floats: np.ndarray,
    base: int,
    usual: int,
    x: np.ndarray,
    place: int,
    size: int,
    network: Network,
    work: np.ndarray,
) -> None:
    """Bring what an event is compared with, forecast it linearly, and make room in its lags."""
    at, area, lags = network.at, 0, network.lags
    coefficients, floors = network.coefficients, network.var_floors
    for start in range(0, size, CHUNK):
        here, row = min(CHUNK, size - start), base + start
        copy(work, area + X, x, place + start, here)
        copy(work, area + MEAN, floats, row + at.mean, here)
        copy(work, area + VAR, floats, row + at.var, here)
        copy(work, area + SCALE, floats, row + at.scale, here)
        copy(work, area + SCALE_LINEAR, floats, row + at.scale + size, here)
        copy(work, area + USUAL, floats, usual + start, here)
        copy(work, area + FLOOR, floors, prior * size + start, here)
        for j in range(CHUNK):
            work[area + LINEAR + j] = _ZERO
        for lag in range(lags - 1, -1, -1):  # the oldest first, so each can make room for the next
            old = row + at.lags + lag * size
            weights = (prior * lags + lag) * size + start
            _add_product(work, area + LINEAR, coefficients, weights, floats, old, here)
            if lag + 1 < lags:
                copy(floats, old + size, floats, old, here)
        copy(work, area + LAG, floats, row + at.lags, here)
        area += AREA


@njit(error_model="numpy", inline="always")
def _add_product(
    to: np.ndarray,
    place: int,
    one: np.ndarray,
    at_one: int,
    two: np.ndarray,
    at_two: int,
    count: int,
) -> None:
    """Add `count` products to what lies at a place."""
    for j in range(count):
        term = one[np.uint64(at_one + j)] * two[np.uint64(at_two + j)]
        to[np.uint64(place + j)] += term


@njit(error_model="numpy", inline="always")
def _compare(head: Record, work: np.ndarray, size: int, network: Network) -> None:
    """Standardise an event, and hold it to forecasts, mean squares and usual levels."""
    clip, cap, level_weight = network.clip, network.cap, network.level_weight
    is_first, has_past, area = head.weight < _ONE, head.seen > 0, 0
    for start in range(0, size, CHUNK):
        for j in range(_steps(size - start) * _STEP):
            x = work[area + X + j]
            observed = x == x  # False for NaN
            bounded = min(max(x, work[area + LOWER + j]), work[area + UPPER + j])
            mean = bounded if is_first and observed else work[area + MEAN + j]
            std = np.sqrt(work[area + VAR + j])
            linear = work[area + LINEAR + j]
            forecast = min(max(linear + work[area + HEAD + j], -clip), clip)
            linear = min(max(linear, -clip), clip)
            log_sigma = min(max(work[area + LOG_SIGMA + j], LOG_SIGMA_MIN), LOG_SIGMA_MAX)
            # A missing value is taken for what was forecast: no surprise, and memory goes on.
            z = min(max((bounded - mean) / std, -clip), clip) if observed else forecast
            mask = _ONE if observed and has_past else _ZERO
            off, off_linear = (z - forecast) * exp(-log_sigma), z - linear
            off, off_linear = off * off, off_linear * off_linear
            ratio = min(off / work[area + SCALE + j], cap)
            ratio_linear = min(off_linear / work[area + SCALE_LINEAR + j], cap)
            level, step = z - work[area + USUAL + j], z - work[area + LAG + j]
            part = (min(ratio, ratio_linear) + min(level * level, cap) * level_weight) * mask
            work[area + MEAN + j] = mean
            work[area + Z + j] = z
            work[area + GAIN + j] = _ONE if observed else _ZERO
            work[area + MASK + j] = work[area + COUNT + j] = mask
            work[area + RATIO + j] = ratio
            work[area + RATIO_LINEAR + j] = ratio_linear
            work[area + LEVEL + j] = level
            work[area + PART + j] = work[area + TOTAL + j] = part
            work[area + EXPECTED + j] = forecast * std + mean
            work[area + OFF + j] = off
            work[area + OFF_LINEAR + j] = off_linear
            work[area + LOSS + j] = (min(off, cap) * _HALF + log_sigma) * mask
            work[area + CHANGE + j] = min(step * step, CHANGE_CAP) * mask
        area += AREA


@njit(error_model="numpy", inline="always")
def _steps(left: int) -> int:
    """How many steps the next chunk takes with as many features left."""
    return (min(CHUNK, left) + _STEP - 1) // _STEP


@njit(error_model="numpy", inline="always")
def _sum(work: np.ndarray, place: int, size: int) -> np.float32:
    """The sum over all features of what lies at a place of each chunk; overwrites it."""
    total = _ZERO
    for _ in range(0, size, CHUNK):
        at = np.uint64(place)
        _fold(work, at, np.uint64(32))
        _fold(work, at, np.uint64(16))
        _fold(work, at, np.uint64(8))
        _fold(work, at, np.uint64(4))
        _fold(work, at, np.uint64(2))
        total += work[at] + work[at + np.uint64(1)]
        place += AREA
    return total


@njit(error_model="numpy", inline="always")
def _fold(work: np.ndarray, place: np.uint64, half: np.uint64) -> None:
    """Add the second half of values to the first."""
    for j in range(half):
        work[place + j] += work[place + half + j]


@njit(error_model="numpy", inline="always")
def _smooth(head: Record, lane: int, size: int, network: Network, scratch: Scratch) -> None:
    """Fold features into one smoothed number."""
    work = scratch.work
    total, count = _sum(work, TOTAL, size), _sum(work, COUNT, size)
    here = max(count, _ONE)
    if count > _ZERO:  # an event without a comparison leaves the smoothed scores as they are
        fresh = total / here
        head.smoothed_fast += network.alpha_fast * (fresh - head.smoothed_fast)
        head.smoothed_slow += network.alpha_slow * (fresh - head.smoothed_slow)
    scratch.score[lane] = np.sqrt((head.smoothed_fast + head.smoothed_slow) * _HALF)
    scratch.loss[lane] = _sum(work, LOSS, size) / here
    scratch.change[lane] = _sum(work, CHANGE, size) / here


@njit(error_model="numpy", inline="always")
def _say(
    part: np.ndarray,
    expected: np.ndarray,
    residuals: np.ndarray,
    lane: int,
    size: int,
    work: np.ndarray,
) -> None:
    """Put down what explains a score."""
    area, place = 0, lane * size
    for start in range(0, size, CHUNK):
        here = min(CHUNK, size - start)
        copy(part, place + start, work, area + PART, here)
        copy(expected, place + start, work, area + EXPECTED, here)
        if len(residuals):
            copy(residuals, 2 * place + start, work, area + OFF, here)
            copy(residuals, 2 * place + size + start, work, area + OFF_LINEAR, here)
        area += AREA


@njit(error_model="numpy", inline="always")
def _learn(
    weight: np.float32,
    work: np.ndarray,
    size: int,
    season_rate: np.float32,
    rate_min: np.float32,
    prior_events: np.float32,
) -> None:
    """Move statistics, usual levels and scales; see `models.normaliser`."""
    rate = max(_ONE / (weight + _ONE), rate_min)
    spread = max(_ONE / (weight + prior_events), rate_min)
    # The first event has no mean to deviate from.
    var_rate = spread if weight >= _ONE else _ZERO
    area = 0
    for start in range(0, size, CHUNK):
        for j in range(_steps(size - start) * _STEP):
            gain, z, var = work[area + GAIN + j], work[area + Z + j], work[area + VAR + j]
            compared = work[area + MASK + j] * spread
            work[area + USUAL + j] += work[area + LEVEL + j] * gain * season_rate
            work[area + MEAN + j] += z * np.sqrt(var) * gain * rate
            wider = (z * z - _ONE) * gain * var_rate + _ONE
            work[area + VAR + j] = max(var * wider, work[area + FLOOR + j])
            wider = (work[area + RATIO + j] - _ONE) * compared + _ONE
            work[area + SCALE + j] = max(work[area + SCALE + j] * wider, SCALE_MIN)
            wider = (work[area + RATIO_LINEAR + j] - _ONE) * compared + _ONE
            work[area + SCALE_LINEAR + j] = max(work[area + SCALE_LINEAR + j] * wider, SCALE_MIN)
        area += AREA


@njit(error_model="numpy", inline="always")
def _keep(
    is_first: bool,
    learned: bool,
    floats: np.ndarray,
    base: int,
    usual: int,
    size: int,
    network: Network,
    work: np.ndarray,
) -> None:
    """Put what an event changed back into the entity's row."""
    at, area = network.at, 0
    for start in range(0, size, CHUNK):
        here, row = min(CHUNK, size - start), base + start
        copy(floats, row + at.mean, work, area + MEAN, here)
        copy(floats, row + at.lags, work, area + Z, here)
        if is_first:  # an entity is taken to have been before as it is first seen
            for lag in range(1, network.lags):
                copy(floats, row + at.lags + lag * size, work, area + Z, here)
        if learned:
            copy(floats, row + at.var, work, area + VAR, here)
            copy(floats, row + at.scale, work, area + SCALE, here)
            copy(floats, row + at.scale + size, work, area + SCALE_LINEAR, here)
            copy(floats, usual + start, work, area + USUAL, here)
        area += AREA


@njit(error_model="numpy")
def _advance(hidden: np.ndarray, past: np.ndarray, given: np.ndarray, size: int, h: int) -> None:
    """Let hidden take in the event, in all lanes; sigmoid(v) = 1 / (1 + exp(-v))."""
    for k in range(h):
        at = 2 * size + k
        for lane in range(LANES):
            reset = _ONE / (_ONE + exp(-(given[k, lane] + past[at, lane])))
            update = _ONE / (_ONE + exp(-(given[h + k, lane] + past[at + h, lane])))
            new = given[2 * h + k, lane] + reset * past[at + 2 * h, lane]
            new = _ONE - (_ONE + _ONE) / (_ONE + exp(new + new))  # its tanh
            hidden[k, lane] = new + update * (hidden[k, lane] - new)
