"""Decodes JSON telemetry, one event per message, into columns.

{"entity_id": "web-07", "event_time_us": 1704067200000000, "features": [0.3, null, 12.5]}

The compiled scanner decodes messages in plain form. All others, and all that break a rule, are
decoded here one by one, and refused here with a reason.
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
    UNREADABLE,
    EventColumns,
    EventRules,
    Message,
    Refusal,
    clean,
    entity_error,
    has_entity_size,
    is_event_time,
)


class _JsonEvent(msgspec.Struct, gc=False):
    entity_id: str
    event_time_us: int
    features: list[float | None] | dict[str, float | None]


class JsonEvents:
    """Decodes runs of JSON messages."""

    def __init__(self, rules: EventRules, *, scans: bool = True) -> None:
        """With `scans` off, the compiled scanner is not used; the result is the same."""
        self._rules = rules
        self._scans = scans
        self._decode = msgspec.json.Decoder(_JsonEvent).decode

    def decode(self, run: Sequence[Message]) -> tuple[list[EventColumns], list[Refusal]]:
        """Return the well-formed events of `run`, and the refusals in offset order."""
        events, refused = self._read(run)
        bad = self._rules.refused_values(events.features)
        for i in np.flatnonzero(bad).tolist():
            error = self._rules.value_error(events.features[i])
            refused.append(Refusal(int(events.message_index[i]), -1, error))
        if bad.any():
            refused.sort(key=lambda refusal: refusal.message_index)
        offsets = np.array([message.offset for message in run], np.int64)
        columns = EventColumns(
            offset=offsets[events.message_index],
            row=np.zeros(len(events.message_index), np.int32),
            event_time_us=events.event_time_us,
            entity_id=events.entity_id,
            features=events.features,
        )
        return [columns.where(~bad)], refused

    def _read(self, run: Sequence[Message]) -> tuple[JsonColumns, list[Refusal]]:
        """Scan the messages in plain form, and decode the others one by one."""
        plain = read_plain(run, self._rules) if self._scans else None
        if plain is None:
            return self._read_each(enumerate(run))
        if len(plain.message_index) == len(run):
            return plain, []
        left = np.setdiff1d(np.arange(len(run)), plain.message_index, assume_unique=True)
        others, refused = self._read_each((i, run[i]) for i in left.tolist())
        return _in_order(plain, others), refused

    def _read_each(
        self, messages: Iterable[tuple[int, Message]]
    ) -> tuple[JsonColumns, list[Refusal]]:
        """Decode messages with their indices in the run; feature values are not checked yet.

        The loop is Python per event, so well-formed events take a straight path through it, and
        the numbers of all events go into one flat array.
        """
        rules, size = self._rules, self._rules.schema.size
        refused: list[Refusal] = []
        indices, times, entities, flat = array("q"), array("q"), [], array("f")
        for index, message in messages:
            try:
                event = self._event(message)
                values = event.features
                if type(values) is list and len(values) == size:
                    try:
                        flat.fromlist(values)  # type: ignore[arg-type]
                    except TypeError:  # a null; nothing was added
                        flat.fromlist(self._arrange(values))
                else:
                    flat.fromlist(self._arrange(values))
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                refused.append(Refusal(index, -1, EventError(UNREADABLE, clean(str(error)))))
            except EventError as error:
                refused.append(Refusal(index, -1, error))
            else:
                indices.append(index)
                times.append(event.event_time_us)
                entities.append(event.entity_id)
        columns = JsonColumns(
            message_index=np.frombuffer(indices, np.int64),
            event_time_us=np.frombuffer(times, np.int64),
            entity_id=pa.array(entities, pa.string()),
            features=np.frombuffer(flat, np.float32).reshape(-1, rules.schema.size),
        )
        return columns, refused

    def _event(self, message: Message) -> _JsonEvent:
        """Decode one message and check everything but its features."""
        rules = self._rules
        if error := rules.size_error(message.payload):
            raise error
        event = self._decode(message.payload)
        time_us, entity_id = event.event_time_us, event.entity_id
        if not is_event_time(time_us, message.timestamp_us + rules.ahead_us):
            raise rules.time_error(time_us, message.timestamp_us)
        if not has_entity_size(len(entity_id if entity_id.isascii() else entity_id.encode())):
            raise entity_error(entity_id)
        return event

    def _arrange(self, values: list[float | None] | dict[str, float | None]) -> list[float]:
        """Put features in schema order, NaN where missing; unknown names are ignored."""
        index, size, nan = self._rules.index, self._rules.schema.size, float("nan")
        if isinstance(values, dict):
            known = index.keys() & values.keys()
            if not known:
                raise EventError(
                    BAD_FEATURES,
                    f"features must name at least one of the model's {size} features; "
                    f"got {clean(str(sorted(values)[:5]))}",
                )
            arranged = [nan] * size
            for name in known:
                value = values[name]
                arranged[index[name]] = nan if value is None else value
            return arranged
        if len(values) != size:
            raise EventError(BAD_FEATURES, f"features must be {size} numbers; got {len(values)}")
        return [nan if value is None else value for value in values]


def _in_order(plain: JsonColumns, others: JsonColumns) -> JsonColumns:
    """Merge the events of two readers in the order of their messages."""
    index = np.concatenate([plain.message_index, others.message_index])
    order = np.argsort(index)
    return JsonColumns(
        message_index=index[order],
        event_time_us=np.concatenate([plain.event_time_us, others.event_time_us])[order],
        entity_id=pa.concat_arrays([plain.entity_id, others.entity_id]).take(pa.array(order)),
        features=np.concatenate([plain.features, others.features])[order],
    )
