"""Scans JSON telemetry in plain form from bytes to columns, in one compiled loop.

Plain form is what nearly every producer writes: each of the three keys once, an entity id of
ASCII without escapes, and F numbers or nulls. The float32 of each number must follow from one
multiplication or division by a power of ten. The scanner reports only that another message is
not plain. `json_decoder` then decodes that message, and decides whether and why to refuse it.

Compiled code does not check indices: every read follows a comparison with `end`. Functions that
move through the text take an index and return the index after what they read, or `NOT_PLAIN`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from streamgauge.models.events.validation import (
    EventRules,
    Message,
    has_entity_size,
    is_event_time,
)
from streamgauge.models.simd.compile_cache import cached_njit
from streamgauge.models.simd.vectors import Address, begin

# Powers of ten and mantissas up to here are exact in float64, so that one operation between
# them is rounded once (Clinger 1990).
POWERS = np.array([float(f"1e{power}") for power in range(23)])
MANTISSA_MAX = 1 << 53
#: Relative error bound where the mantissa is longer: it is rounded, and the product again.
ROUNDING_ERROR = 2.0**-50
#: A mantissa of more digits, without leading zeros, might not fit an int64.
DIGITS_MAX = 18
EXPONENT_DIGITS_MAX = 4
TIME_DIGITS_MAX = 16
#: Arrow's offsets of entity ids are int32.
ENTITY_IDS_BYTES_MAX = 2**31 - 1
#: Timestamps and limits beyond this might overflow an int64 when they are added.
CLOCK_MAX_US = 2**62

ENTITY_ID = np.frombuffer(b'"entity_id"', np.uint8)
EVENT_TIME_US = np.frombuffer(b'"event_time_us"', np.uint8)
FEATURES = np.frombuffer(b'"features"', np.uint8)
NULL = np.frombuffer(b"null", np.uint8)
# Bits of the keys that were read.
HAS_ENTITY_ID, HAS_EVENT_TIME, HAS_FEATURES = 0b001, 0b010, 0b100
ALL_KEYS = 0b111
NOT_PLAIN = -1
#: Messages at the start of a long run that decide whether the rest is scanned.
PROBED = 16

_has_entity_size = njit(has_entity_size)
_is_event_time = njit(is_event_time)


class JsonColumns(NamedTuple):
    """Events of a run of messages; arrays are (N,), features (N, F)."""

    #: Indices of the messages in the run.
    message_index: NDArray[Any]
    event_time_us: NDArray[Any]
    entity_id: pa.Array
    features: NDArray[Any]


def read_plain(run: Sequence[Message], rules: EventRules) -> JsonColumns | None:
    """Scan the messages in plain form; None if the run was not scanned or holds none.

    A producer that writes another form usually does so always. So a long run is scanned only
    if one of its first messages is plain.
    """
    if len(run) > 4 * PROBED and _read(run[:PROBED], rules) is None:
        return None
    return _read(run, rules)


def _read(run: Sequence[Message], rules: EventRules) -> JsonColumns | None:
    payloads = [message.payload for message in run]
    joined, latest_us = b"".join(payloads), _latest_us(run, rules)
    if not joined or latest_us is None:
        return None
    lengths = np.fromiter(map(len, payloads), np.int64, len(payloads))
    features = np.empty(len(run) * rules.schema.size, np.float32)
    index, times, offsets, names = scan(
        np.frombuffer(joined, np.uint8),
        lengths,
        latest_us,
        features,
        rules.limits.message_bytes_max,
    )
    if not len(index):
        return None
    entities = pa.StringArray.from_buffers(len(index), pa.py_buffer(offsets), pa.py_buffer(names))
    used = features[: len(index) * rules.schema.size]
    return JsonColumns(index, times, entities, features=used.reshape(len(index), -1))


def _latest_us(run: Sequence[Message], rules: EventRules) -> NDArray[Any] | None:
    """Return the latest event time of each message, (N,) int64; None if one might overflow."""
    try:
        timestamps = np.array([message.timestamp_us for message in run], np.int64)
    except OverflowError:  # a producer may set any timestamp
        return None
    farthest = max(
        int(timestamps.max(initial=0)), -int(timestamps.min(initial=0)), abs(rules.ahead_us)
    )
    return None if farthest > CLOCK_MAX_US else timestamps + rules.ahead_us


@njit
def _skip_space(text: Address, at: int, end: int) -> int:
    """Return the index after whitespace."""
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
    """Return the index after one character and the whitespace around it."""
    if at < 0:
        return NOT_PLAIN
    at = _skip_space(text, at, end)
    if at >= end or text[at] != sign:
        return NOT_PLAIN
    at = _skip_space(text, at + 1, end)
    return at


@njit
def _is(text: Address, at: int, end: int, word: NDArray[Any]) -> bool:
    if end - at < len(word):
        return False
    for i in range(len(word)):  # noqa: SIM110  numba compiles no generators
        if text[at + i] != word[i]:
            return False
    return True


@njit
def _digits(text: Address, at: int, end: int, value: int) -> tuple[int, int]:
    """Read digits that continue `value`; returns the index after them and the new value.

    More than 18 digits wrap; the caller refuses them.
    """
    while at < end and ord("0") <= text[at] <= ord("9"):
        value = value * 10 + int(text[at]) - ord("0")
        at += 1
    return at, value


@njit
def _whole(text: Address, at: int, end: int) -> tuple[int, int]:
    """Read an integer as JSON allows it before a point; returns the index after it, and it."""
    first = at
    at, value = _digits(text, at, end, np.int64(0))
    if at == first or (at - first > 1 and text[first] == ord("0")):
        return NOT_PLAIN, value
    return at, value


@njit
def _leading_zeros(text: Address, at: int, end: int) -> int:
    """Count the zeros before the first other digit; a point between them is skipped."""
    count = 0
    while at < end and (text[at] == ord("0") or text[at] == ord(".")):
        count += text[at] == ord("0")
        at += 1
    return count


@njit(error_model="numpy")
def _number(text: Address, at: int, end: int, features: Address, to: int) -> int:
    """Read one number into `features[to]`; returns the index after it."""
    negative = at < end and text[at] == ord("-")
    first = at + 1 if negative else at
    at, mantissa = _whole(text, first, end)
    if at < 0:
        return NOT_PLAIN
    start, count, exponent = first, at - first, 0
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
        count -= _leading_zeros(text, start, at)
    if count > DIGITS_MAX or abs(exponent) >= len(POWERS):
        return NOT_PLAIN
    if negative and mantissa == 0:  # "-0" and "-0.0" have different signs
        return NOT_PLAIN
    value = np.float64(-mantissa if negative else mantissa)
    value = value / POWERS[-exponent] if exponent < 0 else value * POWERS[exponent]
    if mantissa >= MANTISSA_MAX:
        # The exact value is between these two; if both give one float32, so does it.
        low, high = (
            np.float32(value * (1 - ROUNDING_ERROR)),
            np.float32(value * (1 + ROUNDING_ERROR)),
        )
        if low != high:
            return NOT_PLAIN
    features[to] = np.float32(value)
    return at


@njit
def _features(text: Address, at: int, end: int, features: Address, to: int, size: int) -> int:
    """Read an array of `size` numbers or nulls into `features[to:]`; returns the index after it."""
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
    at = _after(text, at, end, ord("]"))
    return at


@njit
def _entity_id(text: Address, at: int, end: int) -> int:
    """Read an entity id of plain ASCII after its opening quote; returns the index after both."""
    first = at
    while at < end and ord(" ") <= text[at] < 0x80 and text[at] != ord('"'):
        if text[at] == ord("\\"):
            return NOT_PLAIN
        at += 1
    if at >= end or text[at] != ord('"') or not _has_entity_size(at - first):
        return NOT_PLAIN
    return at + 1


@njit
def _event(
    text: Address,
    at: int,
    end: int,
    latest_us: int,
    features: Address,
    to: int,
    size: int,
) -> tuple[Any, Any, int, int]:
    """Read one message; its features go to `features[to:]`.

    Returns:
        Whether it is plain, its event time, and where its entity id begins and ends.
    """
    keys, time_us, first, last, nothing = 0, np.int64(0), 0, 0, (False, np.int64(0), 0, 0)
    at = _after(text, at, end, ord("{"))
    while at >= 0 and keys != ALL_KEYS:
        if keys:
            at = _after(text, at, end, ord(","))
            if at < 0:
                return nothing
        if not keys & HAS_ENTITY_ID and _is(text, at, end, ENTITY_ID):
            keys |= HAS_ENTITY_ID
            at = _after(text, at + len(ENTITY_ID), end, ord(":"))
            if at < 0 or at >= end or text[at] != ord('"'):
                return nothing
            first, at = at + 1, _entity_id(text, at + 1, end)
            last = at - 1
        elif not keys & HAS_EVENT_TIME and _is(text, at, end, EVENT_TIME_US):
            keys |= HAS_EVENT_TIME
            start = _after(text, at + len(EVENT_TIME_US), end, ord(":"))
            if start < 0:
                return nothing
            at, time_us = _whole(text, start, end)
            if at - start > TIME_DIGITS_MAX:
                return nothing
        elif not keys & HAS_FEATURES and _is(text, at, end, FEATURES):
            keys |= HAS_FEATURES
            at = _after(text, at + len(FEATURES), end, ord(":"))
            at = _features(text, at, end, features, to, size)
        else:
            return nothing
    at = _after(text, at, end, ord("}"))
    return at == end and _is_event_time(time_us, latest_us), time_us, first, last


@cached_njit()
def scan(
    text: NDArray[Any],
    lengths: NDArray[Any],
    latest_us: NDArray[Any],
    features: NDArray[Any],
    bytes_max: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Read the messages in plain form among N that `text` holds one after another.

    Args:
        text: uint8, the payloads.
        lengths: (N,) int64, bytes of each payload; N > 0.
        latest_us: (N,) int64, the latest event time that each may hold.
        features: (N * F,) float32; receives the features of the M plain messages.
        bytes_max: the largest payload that is read.

    Returns:
        Their indices (M,) and event times (M,), where each entity id begins and ends (M + 1,)
        int32, and the bytes of all entity ids.
    """
    size = len(features) // len(lengths)
    index, times = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    firsts = np.empty(len(lengths), np.int64)
    offsets = np.zeros(len(lengths) + 1, np.int32)
    count, end, used = 0, 0, 0
    source, target = begin(text), begin(features)
    for i in range(len(lengths)):
        start, end = end, end + lengths[i]
        if lengths[i] > bytes_max:
            continue
        plain, time_us, first, last = _event(
            source, start, end, latest_us[i], target, count * size, size
        )
        if plain and used + last - first <= ENTITY_IDS_BYTES_MAX:
            used += last - first
            index[count], times[count], firsts[count] = i, time_us, first
            count += 1
            offsets[count] = used
    names = np.empty(used, np.uint8)
    for i in range(count):
        for k in range(offsets[i + 1] - offsets[i]):
            names[offsets[i] + k] = source[firsts[i] + k]
    return index[:count], times[:count], offsets[: count + 1], names
