"""From Kafka messages to a block, and to dead letters what cannot be read.

Two formats, told apart by their first bytes: JSON objects with one event each, and Arrow
IPC streams with many. A bad event never stops a job: it becomes a dead letter that names
the field, the rule and what came. A tombstone, which has no value, stands for the erasure
of the entity that its key names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from streamgauge.models.blocks.block import ERASURE, NOTHING_BEFORE, Block
from streamgauge.models.errors import EventError
from streamgauge.models.events.arrow_decoder import STREAM_MAGIC, ArrowEvents
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
)

#: Reads a run of messages of one kind: their events, and what was refused, in offset order.
_Read = Callable[[Sequence[Message]], tuple[list[EventColumns], list[Refusal]]]


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
        for read, run in self._runs(messages):
            columns, refused = read(run)
            parts.extend(part for part in columns if len(part.offset))
            dead.extend(self._letter(partition, run[one[0]], one) for one in refused)
        block = self._block(partition, first_offset, end_offset, parts)
        self.events_decoded = len(block) + len(dead)
        return block, dead

    def _runs(self, messages: Sequence[Message]) -> Iterator[tuple[_Read, list[Message]]]:
        """Neighbours of one kind, and how to read them."""
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
        """Tombstones as events, and those whose key names no entity."""
        found: list[EventColumns] = []
        refused: list[Refusal] = []
        for place, message in enumerate(run):
            try:
                found.append(self._erasure(message, message.erased_key or b""))
            except EventError as error:
                refused.append((place, -1, error, None))
        return found, refused

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
