"""Decodes Kafka messages into a block, and into dead letters for what cannot be read.

There are two formats, distinguished by their first bytes: JSON objects with one event each, and
Arrow IPC streams with many. A bad event never stops a job: it becomes a dead letter with
the field, the rule and the offending value. A tombstone, which has no payload, becomes an
erasure of the entity that its key names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from streamgauge.models.blocks.block import ERASURE, NOTHING_BEFORE, Block
from streamgauge.models.errors import EventError
from streamgauge.models.events.arrow_decoder import ArrowEvents
from streamgauge.models.events.arrow_framing import STREAM_MAGIC
from streamgauge.models.events.json_decoder import JsonEvents
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.schema import Schema
from streamgauge.models.events.validation import (
    BAD_ENTITY,
    ENTITY_BYTES_MAX,
    EventColumns,
    EventRules,
    Message,
    Refusal,
    has_entity_size,
)

#: Decodes a run of messages of one kind: returns their events, and refusals in offset order.
_Read = Callable[[Sequence[Message]], tuple[list[EventColumns], list[Refusal]]]

DETAIL_CHARACTERS_MAX = 400  # a detail may quote names and values of the sender


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that cannot be processed, with its origin and reason."""

    partition: int
    offset: int
    #: Index of the event in its message; -1 if the whole message is refused.
    row: int
    #: A reason of `validation`, or one of a scoring policy.
    reason: str
    #: The field, the rule and the offending value.
    detail: str
    #: First bytes of the message; for an Arrow row, an Arrow stream with that row alone.
    payload: bytes


class Decoder:
    """Decodes the messages of a partition into one block and its dead letters."""

    def __init__(self, schema: Schema, limits: DecodeLimits | None = None) -> None:
        self._rules = EventRules(schema, limits or DecodeLimits())
        self._json = JsonEvents(self._rules)
        self._arrow = ArrowEvents(self._rules)
        #: Events and dead letters of the last call.
        self.events_decoded = 0

    def decode(
        self, partition: int, messages: Sequence[Message], first_offset: int, end_offset: int
    ) -> tuple[Block, list[DeadLetter]]:
        """Decode `messages`, the whole content of offsets `[first_offset, end_offset)`.

        Returns:
            The block of all well-formed events of the partition, not yet divided into shards
            (`previous_end` is `NOTHING_BEFORE`), and the dead letters in offset order.
        """
        parts: list[EventColumns] = []
        dead: list[DeadLetter] = []
        for read, run in self._runs(messages):
            columns, refused = read(run)
            parts.extend(part for part in columns if len(part.offset))
            dead.extend(self._letter(partition, run[each.message_index], each) for each in refused)
        block = self._block(partition, first_offset, end_offset, parts)
        self.events_decoded = len(block) + len(dead)
        return block, dead

    def _runs(self, messages: Sequence[Message]) -> Iterator[tuple[_Read, list[Message]]]:
        """Yield runs of adjacent messages of one kind, each with its decoder."""
        json, arrow, erasures = self._json.decode, self._arrow.decode, self._erasures
        read: _Read = json
        run: list[Message] = []
        for message in messages:
            now = arrow if message.payload[:4] == STREAM_MAGIC else json
            if message.erased_key:
                now = erasures
            if now is not read and run:
                yield read, run
                run = []
            read = now
            run.append(message)
        if run:
            yield read, run

    def _erasures(self, run: Sequence[Message]) -> tuple[list[EventColumns], list[Refusal]]:
        """Decode tombstones; those whose key names no entity are refused."""
        erasures: list[EventColumns] = []
        refused: list[Refusal] = []
        for index, message in enumerate(run):
            try:
                erasures.append(self._erasure(message, message.erased_key or b""))
            except EventError as error:
                refused.append(Refusal(index, -1, error))
        return erasures, refused

    def _erasure(self, message: Message, key: bytes) -> EventColumns:
        """Return the one row that stands for a tombstone; its time advances no clock."""
        if not has_entity_size(len(key)):
            raise EventError(
                BAD_ENTITY,
                f"key of a tombstone: at most {ENTITY_BYTES_MAX} bytes; got {len(key)}",
            )
        try:
            entity_id = key.decode()
        except UnicodeDecodeError:
            raise EventError(BAD_ENTITY, "key of a tombstone: must be UTF-8; it is not") from None
        return EventColumns(
            offset=np.array([message.offset], np.int64),
            row=np.array([ERASURE], np.int32),
            event_time_us=np.zeros(1, np.int64),
            entity_id=pa.array([entity_id], pa.string()),
            features=np.full((1, self._rules.schema.size), np.nan, np.float32),
        )

    def _letter(self, partition: int, message: Message, refusal: Refusal) -> DeadLetter:
        error = refusal.error
        prefix = (refusal.payload or message.payload)[: self._rules.limits.dead_letter_bytes_max]
        return DeadLetter(
            partition=partition,
            offset=message.offset,
            row=refusal.row,
            reason=error.reason,
            detail=error.detail[:DETAIL_CHARACTERS_MAX],
            payload=prefix,
        )

    def _block(self, partition: int, first: int, end: int, parts: list[EventColumns]) -> Block:
        columns = _joined(parts, self._rules.schema.size)
        return Block(
            partition=partition,
            first_offset=first,
            end_offset=end,
            previous_end=NOTHING_BEFORE,
            offset=columns.offset,
            row=columns.row,
            event_time_us=columns.event_time_us,
            entity_id=columns.entity_id,
            features=columns.features,
        )


def _joined(parts: list[EventColumns], size: int) -> EventColumns:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return _no_events(size)
    return EventColumns(
        offset=np.concatenate([part.offset for part in parts]),
        row=np.concatenate([part.row for part in parts]),
        event_time_us=np.concatenate([part.event_time_us for part in parts]),
        entity_id=pa.concat_arrays([part.entity_id for part in parts]),
        features=np.concatenate([part.features for part in parts]),
    )


def _no_events(size: int) -> EventColumns:
    return EventColumns(
        offset=np.empty(0, np.int64),
        row=np.empty(0, np.int32),
        event_time_us=np.empty(0, np.int64),
        entity_id=pa.array([], pa.string()),
        features=np.empty((0, size), np.float32),
    )
