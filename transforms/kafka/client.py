"""Consuming one partition from an offset, in order, committed messages only.

Every wait is bounded: while a broker is down, reads return no messages and the caller decides.
"""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as ReceivedMessage

from streamgauge.models.events.validation import EVENT_TIME_US_MAX, Message
from streamgauge.transforms.kafka.access import KafkaAccess, new_consumer
from streamgauge.transforms.kafka.admin import METADATA_S_MAX

MESSAGES_MAX = 10_000  # one consume() call builds a list of this many messages at most
UNBOUNDED = 1 << 31
FIRST_MESSAGES = 64  # before the size of this topic's messages is known

#: Error codes of a broker that is down for a while; librdkafka reconnects by itself.
_TRANSIENT_ERRORS = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REQUEST_TIMED_OUT,
}


class MissingOffsetError(Exception):
    """The broker no longer has the next offset; `input.on_missing_offset` decides what follows."""


class PartitionReader:
    """Reads one partition from any offset."""

    def __init__(self, access: KafkaAccess, group: str, topic: str, partition: int) -> None:
        self._consumer = new_consumer(
            access,
            {
                "group.id": group,
                "enable.auto.commit": False,  # positions are part of the job's state
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
                "fetch.queue.backoff.ms": 5,  # the default pauses a fast reader for a second
                "queued.max.messages.kbytes": 32_768,
                "allow.auto.create.topics": False,
            },
        )
        self._topic = topic
        self._partition = partition
        self._next: int | None = None
        self._bytes_per_message = 0.0

    def read(
        self, offset: int, bytes_max: int, wait_s: float, count_max: int = UNBOUNDED
    ) -> tuple[list[Message], int]:
        """Messages from `offset` on.

        Args:
            offset: offset of the first message.
            bytes_max: approximate limit of the payload, bytes.
            wait_s: how long to wait for the first message, seconds.
            count_max: largest number of messages.

        Returns:
            The messages, and the offset to read next. Offsets may have gaps: compaction and
            transaction markers leave them.

        Raises:
            MissingOffsetError: `offset` is not in the log.
            KafkaException: an error that does not pass by waiting.
        """
        if offset != self._next:
            self._consumer.assign([TopicPartition(self._topic, self._partition, offset)])
            self._next = offset
        messages: list[Message] = []
        size = 0
        while size < bytes_max and len(messages) < count_max:
            wanted = min(self._messages_in(bytes_max - size), count_max - len(messages))
            # consume() waits for the full count, so only the first call may wait at all.
            batch = self._consumer.consume(wanted, wait_s if not messages else 0)
            size += self._append(batch, messages, offset)
            if len(batch) < wanted:
                break
        if messages:
            self._bytes_per_message = size / len(messages)
            self._next = messages[-1].offset + 1
        return messages, offset if self._next is None else self._next

    def position(self) -> int:
        """The offset that the consumer has reached, including gaps without messages."""
        assigned = TopicPartition(self._topic, self._partition)
        return self._consumer.position([assigned])[0].offset

    def offset_at(self, start: str | int) -> int:
        """The offset of "earliest", "latest", or the first message at or after a time.

        Args:
            start: "earliest", "latest", or milliseconds since 1970.
        """
        low, high = self._consumer.get_watermark_offsets(
            TopicPartition(self._topic, self._partition), timeout=METADATA_S_MAX
        )
        if start == "earliest":
            return low
        if start == "latest":
            return high
        time_ms = TopicPartition(self._topic, self._partition, int(start))
        offset = self._consumer.offsets_for_times([time_ms], timeout=METADATA_S_MAX)[0].offset
        return high if offset < 0 else offset

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _append(self, batch: list[ReceivedMessage], messages: list[Message], offset: int) -> int:
        """Append the messages of a batch to `messages`; returns the size of their payloads."""
        size = 0
        for received in batch:  # with JSON, once per event
            if (error := received.error()) is not None:
                self._check(error, offset)
                continue
            payload, timestamp_ms = received.value(), received.timestamp()[1]
            time_us = timestamp_ms * 1000 if timestamp_ms > 0 else EVENT_TIME_US_MAX
            if payload is None:
                messages.append(Message(received.offset() or 0, time_us, b"", received.key()))
            else:
                messages.append(Message(received.offset() or 0, time_us, payload))
                size += len(payload)
        return size

    def _messages_in(self, size: int) -> int:
        """About how many messages have `size` bytes together."""
        if not self._bytes_per_message:
            return FIRST_MESSAGES
        return max(1, min(MESSAGES_MAX, int(size / self._bytes_per_message) + 1))

    def _check(self, error: KafkaError, offset: int) -> None:
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._next = None
            raise MissingOffsetError(
                f"topic {self._topic}, partition {self._partition}: offset {offset} must be in "
                f"the log; the broker no longer has it ({error.str()}). Decide with "
                "input.on_missing_offset: earliest or latest"
            )
        if error.code() not in _TRANSIENT_ERRORS:
            raise KafkaException(error)
