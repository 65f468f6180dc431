"""The decoding settings of an operator.

Configuration imports this module, so it imports no compiler and no Arrow.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Bounds on what a producer may send."""

    #: Largest message, bytes.
    message_bytes_max: int = 8_388_608
    #: Most events in one Arrow message.
    events_per_message_max: int = 65_536
    #: Most that an Arrow message may unpack to, bytes: compressed buffers, dictionaries, and its
    #: events as float32. Each decoder holds about this much at a time.
    unpacked_bytes_max: int = 268_435_456
    #: How far an event time may be after the Kafka timestamp of its message, seconds.
    future_s_max: int = 300
    #: How much of a payload a dead letter holds, bytes.
    dead_letter_bytes_max: int = 1_024
