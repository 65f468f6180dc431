"""Makes a message fit a topic that takes only smaller ones."""

from __future__ import annotations

from streamgauge.transforms.messages.dead_letters import PREFIX
from streamgauge.transforms.messages.outgoing import Outgoing
from streamgauge.transforms.messages.scores import TOPIC_HEADER, is_arrow, split_scores

#: Upper bounds of Kafka's framing (record batch format 2): a batch with one record, a header.
RECORD_BYTES, HEADER_BYTES = 100, 10


def size_of(message: Outgoing) -> int:
    """Upper bound of the size of a record batch with `message` alone, bytes."""
    headers = sum(len(name.encode()) + len(text) + HEADER_BYTES for name, text in message.headers)
    return RECORD_BYTES + len(message.key) + len(message.value) + headers


def fit(message: Outgoing, bytes_max: int) -> list[Outgoing]:
    """`message` as messages of at most `bytes_max` each, where that is possible.

    Scores are divided by events. The value of a dead letter is the beginning of a refused
    payload; it becomes shorter. Every other message, and a score alone, stays as it is.
    """
    size = size_of(message)
    if size <= bytes_max:
        return [message]
    room = max(0, bytes_max - (size - len(message.value)))
    names = {name for name, _ in message.headers}
    values = [message.value]
    if TOPIC_HEADER in names and is_arrow(message.value):
        values = split_scores(message.value, room)
    elif PREFIX + "id" in names:
        values = [message.value[:room]]
    return [Outgoing(message.key, value, message.headers) for value in values]
