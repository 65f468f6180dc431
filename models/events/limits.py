"""The decoding settings of an operator.

Configuration imports this module, so it imports no compiler and no Arrow.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Bounds on what a sender may send."""

    #: Largest message, bytes.
    message_bytes_max: int = 8_388_608
    #: Most events in one Arrow message.
    events_per_message_max: int = 65_536
    #: An event may be this far ahead of its message's Kafka timestamp, seconds.
    future_s_max: int = 300
    #: Longest piece of a payload in a dead letter, bytes.
    dead_letter_bytes_max: int = 1_024
