"""From Kafka messages to a block, and to dead letters what cannot be read.

Two formats, told apart by their first bytes: JSON objects with one event each, and Arrow
IPC streams with many. A bad event never stops a job: it becomes a dead letter that names
the field, the rule and what came. A tombstone, which has no value, stands for the erasure
of the entity that its key names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.arrow_events import STREAM_MAGIC, ArrowEvents
from models.block import ERASURE, NOTHING_BEFORE, Block
from models.errors import EventError
from models.event_rules import (
    BAD_ENTITY,
    ENTITY_BYTES_MAX,
    DecodeLimits,
    EventColumns,
    EventRules,
    Message,
    Refusal,
)
from models.json_events import JsonEvents
from models.schema import Schema


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that cannot be processed, with its origin and reason."""

    partition: int
    offset: int
    #: Index of the event in its message; -1 when the whole message is refused.
    row: int
    #: One of the constants above.
    reason: str
    #: The field, the rule and what came.
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
            The block of all well-formed events, still uncut (`previous_end` is
            `NOTHING_BEFORE`), and the dead letters in offset order.
        """
        parts: list[EventColumns] = []
        dead: list[DeadLetter] = []

        def take(run: list[Message], columns: EventColumns, refused: list[Refusal]) -> None:
            if len(columns.offset):
                parts.append(columns)
            dead.extend(self._letter(partition, run[one[0]], one) for one in refused)

        run: list[Message] = []
        for message in messages:
            if message.payload[:4] != STREAM_MAGIC and not message.erased_key:
                run.append(message)
                continue
            if run:
                take(run, *self._json.decode(run))
                run = []
            try:
                if message.erased_key:
                    parts.append(self._erasure(message, message.erased_key))
                else:
                    take([message], *self._arrow.decode(message))
            except EventError as error:
                dead.append(self._letter(partition, message, (0, -1, error, None)))
        if run:
            take(run, *self._json.decode(run))
        block = self._block(partition, first_offset, end_offset, parts)
        self.events_decoded = len(block) + len(dead)
        return block, dead

    def _erasure(self, message: Message, key: bytes) -> EventColumns:
        """The one row that a tombstone stands for; its time advances no clock."""
        if len(key) > ENTITY_BYTES_MAX:
            raise EventError(BAD_ENTITY, f"key of a tombstone: at most 256 bytes; got {len(key)}")
        try:
            entity_id = key.decode()
        except UnicodeDecodeError:
            raise EventError(BAD_ENTITY, "key of a tombstone: must be UTF-8; it is not") from None
        return EventColumns(
            np.array([message.offset], np.int64),
            np.array([ERASURE], np.int32),
            np.zeros(1, np.int64),
            pa.array([entity_id], pa.string()),
            np.full((1, self._rules.schema.size), np.nan, np.float32),
        )

    def _letter(self, partition: int, message: Message, refusal: Refusal) -> DeadLetter:
        _, row, error, payload = refusal
        prefix = (payload or message.payload)[: self._rules.limits.dead_letter_bytes_max]
        return DeadLetter(partition, message.offset, row, error.reason, error.detail, prefix)

    def _block(self, partition: int, first: int, end: int, parts: list[EventColumns]) -> Block:
        columns = _joined(parts, self._rules.schema.size)
        return Block(
            partition,
            first,
            end,
            NOTHING_BEFORE,
            columns.offset,
            columns.row,
            columns.event_time_us,
            columns.entity_id,
            columns.features,
        )


def _joined(parts: list[EventColumns], size: int) -> EventColumns:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        none = np.empty(0, np.int64)
        empty = np.empty((0, size), np.float32)
        return EventColumns(none, none.astype(np.int32), none, pa.array([], pa.string()), empty)
    return EventColumns(
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.row for part in parts]),
        np.concatenate([part.event_time_us for part in parts]),
        pa.concat_arrays([part.entity_id for part in parts]),
        np.concatenate([part.features for part in parts]),
    )
