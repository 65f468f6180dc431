"""Reading all messages of a topic, from the oldest to the end at the time of the call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from streamgauge.models.errors import ConfigError
from streamgauge.transforms.kafka.access import KafkaAccess, new_consumer
from streamgauge.transforms.kafka.admin import METADATA_S_MAX

STALLED_S_MAX = 60.0
PORTION_BYTES, PORTION_MESSAGES_MAX = 8_000_000, 2_000
WAIT_S = 0.2


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """The headers of a received message; confluent-kafka returns them as pairs, or None."""
    return cast(list[tuple[str, bytes | None]], message.headers() or [])


class TopicLog:
    """All messages of a topic with their headers; `read` can be called again for new ones."""

    def __init__(self, access: KafkaAccess, group: str, topic: str) -> None:
        self.topic = topic
        self._consumer = new_consumer(
            access,
            {
                "group.id": group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.queue.backoff.ms": 5,
                "queued.max.messages.kbytes": 32_768,
                "allow.auto.create.topics": False,
            },
        )
        metadata = self._consumer.list_topics(topic, timeout=METADATA_S_MAX).topics[topic]
        #: False if the topic does not exist; it then reads as an empty one.
        self.exists = metadata.error is None
        bounds = {partition: self._bounds(partition) for partition in metadata.partitions}
        #: Whether every partition still has its first message.
        self.is_whole = all(low == 0 for low, _ in bounds.values())
        self._next = {partition: low for partition, (low, _) in bounds.items()}
        self._bytes_per_message = 0.0
        self._consumer.assign([TopicPartition(topic, p, low) for p, low in self._next.items()])

    def messages_left(self) -> int:
        """Number of offsets between the position and the end, at the time of the call."""
        return sum(max(0, self._bounds(p)[1] - offset) for p, offset in self._next.items())

    def read(self) -> Iterator[list[Message]]:
        """Messages in portions, each partition in order, up to the end at the time of the call.

        Raises:
            ConfigError: the broker announces more messages but does not send them.
            KafkaException: an error that does not pass by waiting.
        """
        ends = {partition: self._bounds(partition)[1] for partition in self._next}
        deadline = time.monotonic() + STALLED_S_MAX
        while any(self._next[partition] < end for partition, end in ends.items()):
            read = self._consumer.consume(self._portion(), WAIT_S)
            messages = [message for message in read if not self._is_end(message)]
            if read:
                deadline = time.monotonic() + STALLED_S_MAX
            elif time.monotonic() > deadline:
                raise ConfigError(
                    f"topic {self.topic!r}: must be readable to its end; nothing came for "
                    f"{STALLED_S_MAX:.0f} s"
                )
            if messages:
                size = sum(len(message.value() or b"") for message in messages)
                self._bytes_per_message = size / len(messages)
                yield messages

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _bounds(self, partition: int) -> tuple[int, int]:
        """First offset and end offset of a partition, at the time of the call."""
        topic_partition = TopicPartition(self.topic, partition)
        return self._consumer.get_watermark_offsets(topic_partition, timeout=METADATA_S_MAX)

    def _portion(self) -> int:
        """Messages per call, so that a call returns a similar number of bytes for any size."""
        wanted = PORTION_BYTES / max(1.0, self._bytes_per_message or PORTION_BYTES / 16)
        return int(min(max(wanted, 1), PORTION_MESSAGES_MAX))

    def _is_end(self, message: Message) -> bool:
        """Advance the position of the message's partition; True for an end-of-partition mark."""
        error, partition, offset = message.error(), message.partition(), message.offset()
        is_end = error is not None and error.code() == KafkaError._PARTITION_EOF
        if error is not None and not is_end:
            raise KafkaException(error)
        assert partition is not None and offset is not None
        self._next[partition] = offset + (not is_end)
        return is_end
