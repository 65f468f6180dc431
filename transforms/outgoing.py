"""What leaves for a topic: key, value and headers, as bytes between steps."""

from __future__ import annotations

import msgspec


class Outgoing(msgspec.Struct, frozen=True, array_like=True):
    """One message for a Kafka topic or a file."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    #: Kafka timestamp, milliseconds: the event time of what the message is about.
    timestamp_ms: int


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Outgoing)


def encode_outgoing(message: Outgoing) -> bytes:
    """The bytes of `message` between two steps."""
    return _ENCODER.encode(message)


def decode_outgoing(data: bytes) -> Outgoing:
    """Read what `encode_outgoing` wrote."""
    return _DECODER.decode(data)
