"""Dead letters as Kafka messages: the refused payload, where it came from, and why.

The value is the beginning of the refused payload, unchanged. Everything else is in text headers,
in the manner of Kafka Connect's error headers (KIP-298).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.scored_block import LATE_EVENT, TOO_MANY_ENTITIES
from streamgauge.models.events.decoder import DeadLetter
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing

PREFIX = "__streamgauge.errors."
#: Headers that hold whole numbers.
_INTEGERS = ("partition", "offset", "row")
_SET_ASIDE_DETAILS = {
    LATE_EVENT: "event_time_us lies before the entity's last event and scoring.late is set_aside",
    TOO_MANY_ENTITIES: "the shard holds scoring.entities_per_shard_max entities",
}


def dead_letter_id(topic: str, letter: DeadLetter) -> str:
    """The letter's identity: equal on replay and after a failover."""
    return f"{topic}/{letter.partition}/{letter.offset}/{letter.row}"


def dead_letter_message(topic: str, letter: DeadLetter) -> Outgoing:
    """The message for the dead-letter topic about one event of `topic`."""
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
    return Outgoing(key, letter.payload, headers)


def encode_dead_letters(topic: str, letters: Sequence[DeadLetter]) -> bytes:
    """The messages for the dead-letter topic about events of `topic`, as one element."""
    return encode_outgoing(*(dead_letter_message(topic, letter) for letter in letters))


def decode_dead_letter(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, Any]:
    """What the headers of a dead letter say: id, reason, detail, topic, partition, offset, row.

    Raises:
        ValueError: a header is missing or not of its type.
    """
    about: dict[str, Any] = {
        name.removeprefix(PREFIX): (value or b"").decode()
        for name, value in headers
        if name.startswith(PREFIX)
    }
    for name in _INTEGERS:
        if name not in about:
            raise ValueError(f"a dead letter must have a header {PREFIX}{name}; it has none")
        about[name] = int(about[name])
    return about


def set_aside(block: Block, reason: str) -> list[DeadLetter]:
    """Letters for well-formed events that a policy kept from being scored.

    Args:
        block: the events.
        reason: `LATE_EVENT` or `TOO_MANY_ENTITIES`.
    """
    columns = zip(
        block.offset.tolist(), block.row.tolist(), block.entity_id.to_pylist(), strict=True
    )
    detail = _SET_ASIDE_DETAILS[reason]
    return [
        DeadLetter(
            partition=block.partition,
            offset=offset,
            row=row,
            reason=reason,
            detail=detail,
            payload=entity.encode(),
        )
        for offset, row, entity in columns
    ]
