"""The rules for one event, whatever format it arrives in, and the reasons for a refusal.

entity_id      text, 1 to 256 bytes of UTF-8
event_time_us  integer, microseconds since 1970, in the years 2000 to 2099, and at most
               `DecodeLimits.future_s_max` after the Kafka timestamp of its message
features       F numbers in schema order, or by name; null = missing

Each rule stands here once. `has_entity_size` and `is_event_time` accept single values and
arrays, and are compiled into the JSON scanner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamgauge.models.errors import EventError
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.schema import Schema

EVENT_TIME_US_MIN = 946_684_800_000_000  # 2000-01-01: seconds and milliseconds fall below
EVENT_TIME_US_MAX = 4_102_444_800_000_000  # 2100-01-01: nanoseconds fall above
ENTITY_BYTES_MAX = 256

# Reasons. They are part of counters and dead letters, and never change.
UNREADABLE = "unreadable"
TOO_LARGE = "too_large"
BAD_ENTITY = "bad_entity_id"
BAD_TIME = "bad_event_time"
FUTURE_TIME = "future_event_time"
BAD_FEATURES = "bad_features"
MISSING_VALUE = "missing_value"


def has_entity_size(size: Any) -> Any:
    """Whether an entity id may have this many bytes; ints or arrays."""
    return (size >= 1) & (size <= ENTITY_BYTES_MAX)


def is_event_time(time_us: Any, latest_us: Any) -> Any:
    """Whether an event time is allowed; ints or arrays.

    Args:
        time_us: event time, microseconds.
        latest_us: by `EventRules.latest_us` of the message.
    """
    return (time_us >= EVENT_TIME_US_MIN) & (time_us < EVENT_TIME_US_MAX) & (time_us <= latest_us)


class Message(msgspec.Struct, frozen=True, gc=False):
    """One Kafka message as the source read it.

    A msgspec struct, because it takes a tenth of the time of a dataclass to create.
    """

    offset: int
    #: Kafka timestamp, microseconds. It is stored in the log, so a replay decides the same.
    timestamp_us: int
    payload: bytes
    #: Key of a tombstone, which has no payload; it erases the entity that the key names.
    erased_key: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class EventColumns:
    """Well-formed events of one or more messages; arrays are (N,)."""

    offset: NDArray[Any]
    #: Index of the event in its message.
    row: NDArray[Any]
    event_time_us: NDArray[Any]
    entity_id: pa.Array
    #: (N, F) float32.
    features: NDArray[Any]

    def where(self, mask: NDArray[Any]) -> EventColumns:
        """Select the events for which `mask` (N,) bool is true."""
        if mask.all():
            return self
        indices = np.flatnonzero(mask)
        return EventColumns(
            offset=self.offset[indices],
            row=self.row[indices],
            event_time_us=self.event_time_us[indices],
            entity_id=self.entity_id.take(pa.array(indices)),
            features=self.features[indices],
        )


class Refusal(NamedTuple):
    """A message, or one event of it, that cannot be processed."""

    #: Index of the message in the run that was decoded.
    message_index: int
    #: Index of the event in its message; -1 for the whole message.
    row: int
    error: EventError
    #: The event alone, if it can be separated from its message.
    payload: bytes | None = None


class EventRules:
    """The rules that depend on the schema or on the limits, and the errors of all rules."""

    def __init__(self, schema: Schema, limits: DecodeLimits) -> None:
        self.schema = schema
        self.limits = limits
        #: How far an event time may be after its Kafka timestamp, microseconds.
        self.ahead_us = limits.future_s_max * 1_000_000
        #: Feature name -> its index in the schema.
        self.index = {name: i for i, name in enumerate(schema.names)}

    def latest_us(self, timestamp_us: int) -> int:
        """Return the latest event time that a message with this Kafka timestamp may hold."""
        return timestamp_us + self.ahead_us

    def refused_values(self, features: NDArray[Any]) -> NDArray[Any]:
        """Find the events whose feature values break a rule.

        A value must be finite in float32. Under the policy "refuse" none may be missing; under
        "allow" at least one must be present.

        Args:
            features: (N, F) float32, NaN where missing.

        Returns:
            (N,) bool, True where the event is refused.
        """
        missing = np.isnan(features)
        refused: NDArray[Any] = np.isinf(features).any(axis=1)
        if self.schema.missing == "refuse":
            refused |= missing.any(axis=1)
        else:
            refused |= missing.all(axis=1)
        return refused

    def value_error(self, features: NDArray[Any]) -> EventError:
        """Explain why `refused_values` refused an event with these features (F,)."""
        names = self.schema.names
        huge = np.flatnonzero(np.isinf(features))
        if len(huge):
            i = int(huge[0])
            return EventError(
                BAD_FEATURES,
                f"features: {names[i]!r} must be finite and within float32; got {features[i]}",
            )
        if self.schema.missing == "allow":
            return EventError(MISSING_VALUE, "features: at least one value must be present")
        i = int(np.flatnonzero(np.isnan(features))[0])
        return EventError(MISSING_VALUE, f"features: {names[i]!r} must be present; it is missing")

    def time_error(self, time_us: int, timestamp_us: int) -> EventError:
        """Explain why `is_event_time` refused this event time."""
        if not EVENT_TIME_US_MIN <= time_us < EVENT_TIME_US_MAX:
            return EventError(
                BAD_TIME,
                f"event_time_us must be microseconds in the years 2000 to 2099; got {time_us}",
            )
        ahead_s = (time_us - timestamp_us) / 1e6
        return EventError(
            FUTURE_TIME,
            f"event_time_us may be {self.limits.future_s_max} s ahead of the Kafka timestamp; "
            f"it is {ahead_s:.0f} s ahead",
        )

    def size_error(self, payload: bytes) -> EventError | None:
        """Return the error for a payload that is too large; None if it is not."""
        allowed = self.limits.message_bytes_max
        if len(payload) <= allowed:
            return None
        return EventError(TOO_LARGE, f"a message may have {allowed} bytes; got {len(payload)}")


def entity_error(entity_id: str | None) -> EventError:
    """Explain why `has_entity_size` refused this entity id."""
    got = "null" if entity_id is None else f"{len(entity_id.encode())} bytes"
    return EventError(BAD_ENTITY, f"entity_id must have 1 to {ENTITY_BYTES_MAX} bytes; got {got}")


def clean(text: str) -> str:
    """Return a printable text of at most 200 characters, for text that may quote a payload."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])
