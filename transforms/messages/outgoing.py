"""A message on its way to a topic or a file: key, value and headers, as bytes between steps.

An element holds any number of messages. Passing an element from step to step costs more than
encoding a message, so the dead letters of a block travel together.
"""

from __future__ import annotations

import msgspec


class Outgoing(msgspec.Struct, frozen=True, array_like=True):
    """One message for a Kafka topic or a file.

    It has no time of its own: the record time is the time of writing. A record with an event's
    time would be refused by the broker if that lies ahead, and deleted if it is past retention.
    """

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Outgoing])


def encode_outgoing(*messages: Outgoing) -> bytes:
    """The bytes of `messages` between two steps."""
    return _ENCODER.encode(messages)


def decode_outgoing(data: bytes) -> list[Outgoing]:
    """Read what `encode_outgoing` wrote."""
    return _DECODER.decode(data)
