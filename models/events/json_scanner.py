"""JSON telemetry in its plain form, read from bytes to columns by one compiled loop.

Plain is what nearly every sender writes: the three keys once each, a name without escapes, F
numbers or nulls whose float32 one multiplication or division by a power of ten settles. Of
anything else it says only that it is not plain. `models.events.json_decoder` then reads it and
decides what is refused and why.

Compiled code does not check its indices: every read stands behind a comparison with `end`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from streamgauge.models.events.validation import (
    ENTITY_BYTES_MAX,
    EVENT_TIME_US_MAX,
    EVENT_TIME_US_MIN,
    EventRules,
    Message,
)
from streamgauge.models.simd.compile_cache import cached_njit
from streamgauge.models.simd.vectors import Address, begin

# Both exact in float64, so one operation between them is rounded once (Clinger 1990).
POWERS = np.array([float(f"1e{power}") for power in range(23)])
MANTISSA_MAX = 1 << 53
#: A longer mantissa is rounded, and its product again: by less than this of the value in all.
ROUNDED_BY = 2.0**-50
#: More, without zeros in front, might not fit an int64.
DIGITS_MAX = 18
EXPONENT_DIGITS_MAX = 4
TIME_DIGITS_MAX = 16
#: Where Arrow's offsets of names end.
NAMES_BYTES_MAX = 2**31 - 1

ENTITY_ID = np.frombuffer(b'"entity_id"', np.uint8)
EVENT_TIME_US = np.frombuffer(b'"event_time_us"', np.uint8)
FEATURES = np.frombuffer(b'"features"', np.uint8)
NULL = np.frombuffer(b"null", np.uint8)
ALL_KEYS = 0b111
NOT_PLAIN = -1
#: Messages by which a long run is judged.
PROBED = 16


class JsonColumns(NamedTuple):
    """Events of a run of messages: places in it, times, names and features, (N,) or (N, F)."""

    place: np.ndarray
    event_time_us: np.ndarray
    entity_id: pa.Array
    features: np.ndarray


class _Limits(NamedTuple):
    """Of the rules, what compiled code asks for; kept code must not hold old ones."""

    message_bytes: int
    entity_bytes: int
    first_us: int
    end_us: int
    ahead_us: int


def read_plain(run: Sequence[Message], rules: EventRules) -> JsonColumns | None:
    """The events of messages in the plain form, in their order; None if none is looked for.

    A sender who writes otherwise mostly does so always: a long run is read if its beginning
    has something plain.
    """
    if len(run) > 4 * PROBED and _read(run[:PROBED], rules) is None:
        return None
    return _read(run, rules)


def _read(run: Sequence[Message], rules: EventRules) -> JsonColumns | None:
    payloads = [message.payload for message in run]
    joined, ahead_us = b"".join(payloads), rules.latest_us(0)
    if not joined or abs(ahead_us) > 2**62:
        return None
    try:
        timestamps = np.array([message.timestamp_us for message in run], np.int64)
    except OverflowError:  # a sender's clock may say anything
        return None
    limits = _Limits(
        rules.limits.message_bytes_max,
        ENTITY_BYTES_MAX,
        EVENT_TIME_US_MIN,
        EVENT_TIME_US_MAX,
        ahead_us,
    )
    lengths = np.fromiter(map(len, payloads), np.int64, len(payloads))
    features = np.empty(len(run) * rules.schema.size, np.float32)
    place, times, offsets, names = scan(
        np.frombuffer(joined, np.uint8), lengths, timestamps, features, limits
    )
    if not len(place):
        return None
    entities = pa.StringArray.from_buffers(len(place), pa.py_buffer(offsets), pa.py_buffer(names))
    used = features[: len(place) * rules.schema.size]
    return JsonColumns(place, times, entities, used.reshape(len(place), -1))


@njit
def _skip(text: Address, at: int, end: int) -> int:
    """Past whitespace."""
    while at < end and (
        text[at] == ord(" ")
        or text[at] == ord("\n")
        or text[at] == ord("\r")
        or text[at] == ord("\t")
    ):
        at += 1
    return at


@njit
def _after(text: Address, at: int, end: int, sign: int) -> int:
    """Past one sign and the whitespace around it."""
    if at < 0:
        return NOT_PLAIN
    at = _skip(text, at, end)
    if at >= end or text[at] != sign:
        return NOT_PLAIN
    return _skip(text, at + 1, end)


@njit
def _is(text: Address, at: int, end: int, word: np.ndarray) -> bool:
    if end - at < len(word):
        return False
    for i in range(len(word)):  # noqa: SIM110  numba compiles no generators
        if text[at + i] != word[i]:
            return False
    return True


@njit
def _digits(text: Address, at: int, end: int, value: int) -> tuple[int, int]:
    """Past digits, and the number that they make behind `value`; too many of them wrap."""
    while at < end and ord("0") <= text[at] <= ord("9"):
        value = value * 10 + int(text[at]) - ord("0")
        at += 1
    return at, value


@njit
def _whole(text: Address, at: int, end: int) -> tuple[int, int]:
    """Past digits as JSON has them before a point, and their number."""
    first = at
    at, value = _digits(text, at, end, np.int64(0))
    if at == first or (at - first > 1 and text[first] == ord("0")):
        return NOT_PLAIN, value
    return at, value


@njit
def _leading_zeros(text: Address, at: int, end: int) -> int:
    """Zeros before the first other digit, with a point or without."""
    count = 0
    while at < end and (text[at] == ord("0") or text[at] == ord(".")):
        count += text[at] == ord("0")
        at += 1
    return count


@njit(error_model="numpy")
def _number(text: Address, at: int, end: int, features: Address, to: int) -> int:
    """Past one number, which goes to `features[to]`."""
    negative = at < end and text[at] == ord("-")
    first = at + 1 if negative else at
    at, mantissa = _whole(text, first, end)
    if at < 0:
        return NOT_PLAIN
    begins, count, exponent = first, at - first, 0
    if at < end and text[at] == ord("."):
        point = at + 1
        at, mantissa = _digits(text, point, end, mantissa)
        if at == point:
            return NOT_PLAIN
        exponent = point - at
        count -= exponent
    if at < end and (text[at] == ord("e") or text[at] == ord("E")):
        at += 1
        shrinks = at < end and text[at] == ord("-")
        if shrinks or (at < end and text[at] == ord("+")):
            at += 1
        first = at
        at, power = _digits(text, first, end, np.int64(0))
        if not 1 <= at - first <= EXPONENT_DIGITS_MAX:
            return NOT_PLAIN
        exponent += -power if shrinks else power
    if count > DIGITS_MAX:
        count -= _leading_zeros(text, begins, at)
    if count > DIGITS_MAX or abs(exponent) >= len(POWERS):
        return NOT_PLAIN
    if negative and mantissa == 0:  # whose sign depends on how it is spelled
        return NOT_PLAIN
    value = np.float64(-mantissa if negative else mantissa)
    value = value / POWERS[-exponent] if exponent < 0 else value * POWERS[exponent]
    if mantissa >= MANTISSA_MAX:
        # The nearest double lies between these, and so does its float32.
        low, high = np.float32(value * (1 - ROUNDED_BY)), np.float32(value * (1 + ROUNDED_BY))
        if low != high:
            return NOT_PLAIN
    features[to] = np.float32(value)
    return at


@njit
def _features(text: Address, at: int, end: int, features: Address, to: int, size: int) -> int:
    """Past an array of `size` numbers or nulls, which go to `features` from `to` on."""
    at = _after(text, at, end, ord("["))
    for i in range(size):
        if i:
            at = _after(text, at, end, ord(","))
        if at < 0:
            return NOT_PLAIN
        if at < end and text[at] == ord("n"):
            if not _is(text, at, end, NULL):
                return NOT_PLAIN
            features[to + i] = np.float32(np.nan)
            at += len(NULL)
        else:
            at = _number(text, at, end, features, to + i)
    return _after(text, at, end, ord("]"))


@njit
def _name(text: Address, at: int, end: int, bytes_max: int) -> int:
    """Past a name of plain ASCII behind its opening quote, and its closing one."""
    first = at
    while at < end and ord(" ") <= text[at] < 0x80 and text[at] != ord('"'):
        if text[at] == ord("\\"):
            return NOT_PLAIN
        at += 1
    if at >= end or text[at] != ord('"') or not 1 <= at - first <= bytes_max:
        return NOT_PLAIN
    return at + 1


@njit
def _event(
    text: Address,
    at: int,
    end: int,
    timestamp_us: int,
    features: Address,
    to: int,
    size: int,
    limits: _Limits,
) -> tuple[Any, Any, int, int]:
    """Whether a message is plain; its event time, and where its name begins and ends."""
    seen, time_us, first, last, nothing = 0, np.int64(0), 0, 0, (False, np.int64(0), 0, 0)
    at = _after(text, at, end, ord("{"))
    while at >= 0 and seen != ALL_KEYS:
        if seen:
            at = _after(text, at, end, ord(","))
            if at < 0:
                return nothing
        if not seen & 1 and _is(text, at, end, ENTITY_ID):
            seen |= 1
            at = _after(text, at + len(ENTITY_ID), end, ord(":"))
            if at < 0 or at >= end or text[at] != ord('"'):
                return nothing
            first, at = at + 1, _name(text, at + 1, end, limits.entity_bytes)
            last = at - 1
        elif not seen & 2 and _is(text, at, end, EVENT_TIME_US):
            seen |= 2
            begins = _after(text, at + len(EVENT_TIME_US), end, ord(":"))
            if begins < 0:
                return nothing
            at, time_us = _whole(text, begins, end)
            if at - begins > TIME_DIGITS_MAX:
                return nothing
        elif not seen & 4 and _is(text, at, end, FEATURES):
            seen |= 4
            at = _after(text, at + len(FEATURES), end, ord(":"))
            at = _features(text, at, end, features, to, size)
        else:
            return nothing
    at = _after(text, at, end, ord("}"))
    in_time = limits.first_us <= time_us < limits.end_us
    in_time = in_time and time_us - limits.ahead_us <= timestamp_us
    return at == end and in_time, time_us, first, last


@cached_njit()
def scan(
    text: np.ndarray,
    lengths: np.ndarray,
    timestamps: np.ndarray,
    features: np.ndarray,
    limits: _Limits,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read the messages in plain form among N that `text` holds one after another.

    Args:
        text: uint8, the payloads.
        lengths: (N,) int64, bytes of each payload; N > 0.
        timestamps: (N,) int64, Kafka timestamps in microseconds.
        features: (N * F,) float32; receives the features of the M plain messages.
        limits: the rules.

    Returns:
        Their indices (M,) and event times (M,), where each entity id begins and ends (M + 1,)
        int32, and the bytes of all entity ids.
    """
    size = len(features) // len(lengths)
    place, times = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    firsts = np.empty(len(lengths), np.int64)
    offsets = np.zeros(len(lengths) + 1, np.int32)
    count, end, used = 0, 0, 0
    source, target = begin(text), begin(features)
    for i in range(len(lengths)):
        start, end = end, end + lengths[i]
        if lengths[i] > limits.message_bytes:
            continue
        plain, time_us, first, last = _event(
            source, start, end, timestamps[i], target, count * size, size, limits
        )
        if plain and used + last - first <= NAMES_BYTES_MAX:
            used += last - first
            place[count], times[count], firsts[count] = i, time_us, first
            count += 1
            offsets[count] = used
    names = np.empty(used, np.uint8)
    for i in range(count):
        for k in range(offsets[i + 1] - offsets[i]):
            names[offsets[i] + k] = source[firsts[i] + k]
    return place[:count], times[:count], offsets[: count + 1], names
