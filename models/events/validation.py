"""What an event must be, whatever format it comes in.

entity_id      text, 1 to 256 bytes of UTF-8
event_time_us  integer, microseconds since 1970, in the years 2000 to 2099
features       F numbers in schema order, or by name; null = missing
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from streamgauge.models.errors import EventError
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.schema import Schema

EVENT_TIME_US_MIN = 946_684_800_000_000  # 2000-01-01: seconds and milliseconds fall below
EVENT_TIME_US_MAX = 4_102_444_800_000_000  # 2100-01-01: nanoseconds fall above
ENTITY_BYTES_MAX = 256

# Reasons, constant because counters and dead letters carry them.
UNREADABLE = "unreadable"
TOO_LARGE = "too_large"
BAD_ENTITY = "bad_entity_id"
BAD_TIME = "bad_event_time"
FUTURE_TIME = "future_event_time"
BAD_FEATURES = "bad_features"
MISSING_VALUE = "missing_value"


class Message(msgspec.Struct, frozen=True, gc=False):
    """One Kafka message as the source read it; a tenth of a dataclass's time to make."""

    offset: int
    #: Kafka timestamp, microseconds. The log's own clock, so a replay decides the same.
    timestamp_us: int
    payload: bytes
    #: Key of a tombstone, which has no payload: in Kafka, the erasure of what the key names.
    erased_key: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class EventColumns:
    """Well-formed events of one or more messages; arrays are (N,)."""

    offset: np.ndarray
    #: Index of the event in its message.
    row: np.ndarray
    event_time_us: np.ndarray
    entity_id: pa.Array
    #: (N, F) float32.
    features: np.ndarray

    def where(self, kept: np.ndarray) -> EventColumns:
        """The events at which `kept` (N,) bool is true."""
        if kept.all():
            return self
        at = np.flatnonzero(kept)
        return EventColumns(
            self.offset[at],
            self.row[at],
            self.event_time_us[at],
            self.entity_id.take(pa.array(at)),
            self.features[at],
        )


#: Place of the message in its run, row in the message or -1 for all of it, why, and the
#: refused row's own bytes where there are such.
Refusal = tuple[int, int, EventError, bytes | None]


class EventRules:
    """The rules for one schema, for single values and for columns."""

    def __init__(self, schema: Schema, limits: DecodeLimits) -> None:
        self.schema = schema
        self.limits = limits
        #: Feature name -> its place in the schema.
        self.place = {name: i for i, name in enumerate(schema.names)}

    def latest_us(self, timestamp_us: int) -> int:
        """The latest event time of a message with this Kafka timestamp."""
        return timestamp_us + self.limits.future_s_max * 1_000_000

    def refused_values(self, features: np.ndarray) -> np.ndarray:
        """(N,) bool: events with a value float32 cannot hold, or missing ones under "refuse"."""
        missing = np.isnan(features)
        refused = np.isinf(features).any(axis=1)
        if self.schema.missing == "refuse":
            refused |= missing.any(axis=1)
        else:
            refused |= missing.all(axis=1)
        return refused

    def value_error(self, features: np.ndarray) -> EventError:
        """Why `refused_values` refused this event, features (F,)."""
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
        """Why this event time was refused."""
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
        """Why this payload is too large, if it is."""
        allowed = self.limits.message_bytes_max
        if len(payload) <= allowed:
            return None
        return EventError(TOO_LARGE, f"a message may have {allowed} bytes; got {len(payload)}")


def entity_error(entity_id: str | None) -> EventError:
    """Why this entity id was refused."""
    got = "null" if entity_id is None else f"{len(entity_id.encode())} bytes"
    return EventError(BAD_ENTITY, f"entity_id must have 1 to {ENTITY_BYTES_MAX} bytes; got {got}")


def clean(text: str) -> str:
    """Bounded and printable: a stranger's bytes may be quoted in a library's message."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]
