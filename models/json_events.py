"""JSON telemetry: one event a message, read into columns.

{"entity_id": "web-07", "event_time_us": 1704067200000000, "features": [0.3, null, 12.5]}
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa

from models.errors import EventError
from models.event_rules import (
    BAD_FEATURES,
    ENTITY_BYTES_MAX,
    EVENT_TIME_US_MAX,
    EVENT_TIME_US_MIN,
    UNREADABLE,
    EventColumns,
    EventRules,
    Message,
    Refusal,
    clean,
    entity_error,
)


class _JsonEvent(msgspec.Struct, gc=False):
    entity_id: str
    event_time_us: int
    features: list[float | None] | dict[str, float | None]


class JsonEvents:
    """Decodes runs of JSON messages."""

    def __init__(self, rules: EventRules) -> None:
        self._rules = rules
        self._decode = msgspec.json.Decoder(_JsonEvent).decode

    def decode(self, run: Sequence[Message]) -> tuple[list[EventColumns], list[Refusal]]:
        """The well-formed events of `run`, and what was refused, in offset order.

        The loop is the only per-event Python on the hot path: the good way through it is
        straight, and the numbers of all events go into one flat array.
        """
        rules, size, decode = self._rules, self._rules.schema.size, self._decode
        bytes_max, ahead_us = rules.limits.message_bytes_max, rules.latest_us(0)
        refused: list[Refusal] = []
        places, times, entities, flat = array("q"), array("q"), [], array("f")
        for place, message in enumerate(run):
            try:
                if len(message.payload) > bytes_max:
                    raise rules.size_error(message.payload)  # type: ignore[misc]
                event = decode(message.payload)
                time_us, entity_id = event.event_time_us, event.entity_id
                if not (
                    EVENT_TIME_US_MIN <= time_us < EVENT_TIME_US_MAX
                    and time_us <= message.timestamp_us + ahead_us
                ):
                    raise rules.time_error(time_us, message.timestamp_us)
                text = entity_id if entity_id.isascii() else entity_id.encode()
                if not 1 <= len(text) <= ENTITY_BYTES_MAX:
                    raise entity_error(entity_id)
                given = event.features
                if type(given) is list and len(given) == size:
                    try:
                        flat.fromlist(given)  # type: ignore[arg-type]
                    except TypeError:  # a null; nothing was added
                        flat.fromlist(self._arrange(given))
                else:
                    flat.fromlist(self._arrange(given))
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                refused.append((place, -1, EventError(UNREADABLE, clean(str(error))), None))
            except EventError as error:
                refused.append((place, -1, error, None))
            else:
                places.append(place)
                times.append(time_us)
                entities.append(entity_id)
        features = np.frombuffer(flat, np.float32).reshape(-1, size)
        place_of = np.frombuffer(places, np.int64)
        bad = rules.refused_values(features)
        for i in np.flatnonzero(bad).tolist():
            refused.append((int(place_of[i]), -1, rules.value_error(features[i]), None))
        if bad.any():
            refused.sort(key=lambda one: one[0])
        offsets = np.array([message.offset for message in run], np.int64)
        columns = EventColumns(
            offsets[place_of],
            np.zeros(len(place_of), np.int32),
            np.frombuffer(times, np.int64),
            pa.array(entities, pa.string()),
            features,
        )
        return [columns.where(~bad)], refused

    def _arrange(self, values: list[float | None] | dict[str, float | None]) -> list[float]:
        """Features in schema order with NaN for missing; unknown names are ignored."""
        place, size, nan = self._rules.place, self._rules.schema.size, float("nan")
        if isinstance(values, dict):
            known = place.keys() & values.keys()
            if not known:
                raise EventError(
                    BAD_FEATURES,
                    f"features must name at least one of the model's {size} features; "
                    f"got {clean(str(sorted(values)[:5]))}",
                )
            arranged = [nan] * size
            for name in known:
                value = values[name]
                arranged[place[name]] = nan if value is None else value
            return arranged
        if len(values) != size:
            raise EventError(BAD_FEATURES, f"features must be {size} numbers; got {len(values)}")
        return [nan if value is None else value for value in values]
