"""JSON telemetry: one event a message, read into columns.

{"entity_id": "web-07", "event_time_us": 1704067200000000, "features": [0.3, null, 12.5]}
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import pyarrow as pa

from streamgauge.models.errors import EventError
from streamgauge.models.events.json_scanner import JsonColumns, read_plain
from streamgauge.models.events.validation import (
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

    def __init__(self, rules: EventRules, *, scans: bool = True) -> None:
        """With `scans` off every message is read here; what comes out is the same."""
        self._rules = rules
        self._scans = scans
        self._decode = msgspec.json.Decoder(_JsonEvent).decode

    def decode(self, run: Sequence[Message]) -> tuple[list[EventColumns], list[Refusal]]:
        """The well-formed events of `run`, and what was refused, in offset order."""
        found, refused = self._read(run)
        bad = self._rules.refused_values(found.features)
        for i in np.flatnonzero(bad).tolist():
            error = self._rules.value_error(found.features[i])
            refused.append((int(found.place[i]), -1, error, None))
        if bad.any():
            refused.sort(key=lambda one: one[0])
        offsets = np.array([message.offset for message in run], np.int64)
        columns = EventColumns(
            offsets[found.place],
            np.zeros(len(found.place), np.int32),
            found.event_time_us,
            found.entity_id,
            found.features,
        )
        return [columns.where(~bad)], refused

    def _read(self, run: Sequence[Message]) -> tuple[JsonColumns, list[Refusal]]:
        """The plain messages by the compiled scan, the others one by one."""
        plain = read_plain(run, self._rules) if self._scans else None
        if plain is None:
            return self._read_each(enumerate(run))
        if len(plain.place) == len(run):
            return plain, []
        left = np.setdiff1d(np.arange(len(run)), plain.place, assume_unique=True)
        others, refused = self._read_each((i, run[i]) for i in left.tolist())
        place = np.concatenate([plain.place, others.place])
        order = np.argsort(place)
        return JsonColumns(
            place[order],
            np.concatenate([plain.event_time_us, others.event_time_us])[order],
            pa.concat_arrays([plain.entity_id, others.entity_id]).take(pa.array(order)),
            np.concatenate([plain.features, others.features])[order],
        ), refused

    def _read_each(
        self, messages: Iterable[tuple[int, Message]]
    ) -> tuple[JsonColumns, list[Refusal]]:
        """Events of messages at places in the run, values unchecked, and what was refused.

        The loop is Python per event: the good way through it is straight, and the numbers of
        all events go into one flat array.
        """
        rules, size, decode = self._rules, self._rules.schema.size, self._decode
        bytes_max, ahead_us = rules.limits.message_bytes_max, rules.latest_us(0)
        refused: list[Refusal] = []
        places, times, entities, flat = array("q"), array("q"), [], array("f")
        for place, message in messages:
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
        columns = JsonColumns(
            np.frombuffer(places, np.int64),
            np.frombuffer(times, np.int64),
            pa.array(entities, pa.string()),
            np.frombuffer(flat, np.float32).reshape(-1, size),
        )
        return columns, refused

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
