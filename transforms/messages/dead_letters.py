"""Dead letters as Kafka messages: what was refused, where it came from, and why.

The value is the beginning of the refused payload, untouched; everything about it is in
text headers, in the manner of Kafka Connect's error headers (KIP-298).
"""

from __future__ import annotations

from collections.abc import Sequence

from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.scored_block import LATE_EVENT, TOO_MANY_ENTITIES
from streamgauge.models.events.decoder import DeadLetter
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing

PREFIX = "__streamgauge.errors."


def dead_letter_id(topic: str, letter: DeadLetter) -> str:
    """The letter's identity: equal on replay and after a failover."""
    return f"{topic}/{letter.partition}/{letter.offset}/{letter.row}"


def encode_dead_letters(topic: str, letters: Sequence[DeadLetter]) -> bytes:
    """The messages for the dead-letter topic about events of `topic`."""
    return encode_outgoing(*(_message(topic, letter) for letter in letters))


def _message(topic: str, letter: DeadLetter) -> Outgoing:
    about = {
        "id": dead_letter_id(topic, letter),
        "reason": letter.reason,
        "detail": letter.detail,
        "topic": topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "row": letter.row,
    }
    headers = [(PREFIX + name, str(value).encode()) for name, value in about.items()]
    key = f"{letter.partition}/{letter.offset}".encode()
    return Outgoing(key, letter.payload, headers, 0)


def set_aside(block: Block, reason: str) -> list[DeadLetter]:
    """Letters for well-formed events that a policy kept from being scored."""
    details = {
        LATE_EVENT: "event_time_us lies before the entity's last event and scoring.late is "
        "set_aside",
        TOO_MANY_ENTITIES: "the shard holds scoring.entities_per_shard_max entities",
    }
    columns = zip(
        block.offset.tolist(), block.row.tolist(), block.entity_id.to_pylist(), strict=True
    )
    return [
        DeadLetter(block.partition, offset, row, reason, details[reason], entity.encode())
        for offset, row, entity in columns
    ]
