"""Reading and writing Kafka with librdkafka, and nothing else about Kafka.

Timeouts are bounded everywhere: a broker that is away makes reads come back empty and
flushes fail, and the runner decides what happens next.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from streamgauge.models.errors import ConfigError
from streamgauge.models.events.validation import EVENT_TIME_US_MAX, Message

METADATA_S_MAX = 30.0  # a broker that restarts answers again within this
MESSAGES_MAX = 10_000  # one consume() call builds a list of this many messages at most
UNBOUNDED = 1 << 31
FIRST_MESSAGES = 64  # before the size of this topic's messages is known

# While a broker is away librdkafka tries, and logs, twenty times a second by default.
_QUIET = {"reconnect.backoff.ms": 500}

#: Error codes of a broker that is away for a while; librdkafka reconnects by itself.
_PASSING = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REQUEST_TIMED_OUT,
}


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """How a worker reaches the broker; secrets are read where they are used."""

    bootstrap_servers: str
    settings: Mapping[str, str]
    secrets_file: str | None = None

    def properties(self) -> dict[str, Any]:
        """Librdkafka properties, secrets included: never log, never put into a graph."""
        secrets: dict[str, Any] = {}
        if self.secrets_file:
            try:
                secrets = yaml.safe_load(Path(self.secrets_file).read_text()) or {}
            except (OSError, yaml.YAMLError):
                raise ConfigError(
                    f"kafka.secrets_file: must be a readable YAML file; got {self.secrets_file}"
                ) from None
        return {"bootstrap.servers": self.bootstrap_servers, **_QUIET, **self.settings, **secrets}


class MissingOffsetError(Exception):
    """The broker no longer has the offset that comes next; the operator decides what follows."""


class PartitionReader:
    """Reads one partition from any offset, in order, only what is committed."""

    def __init__(self, access: KafkaAccess, group: str, topic: str, partition: int) -> None:
        self._consumer = Consumer(
            {
                "group.id": group,
                "enable.auto.commit": False,  # positions live in the job's state
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
                "fetch.queue.backoff.ms": 5,  # the default pauses a fast reader for a second
                "queued.max.messages.kbytes": 32_768,
                "allow.auto.create.topics": False,
                **access.properties(),
            }
        )
        self._topic = topic
        self._partition = partition
        self._next: int | None = None
        self._bytes_per_message = 0.0

    def read(
        self, offset: int, bytes_max: int, wait_s: float, count_max: int = UNBOUNDED
    ) -> tuple[list[Message], int]:
        """Messages from `offset` on, about `bytes_max` of payload at most.

        Args:
            offset: of the first message.
            bytes_max: about how much payload to take at once.
            wait_s: how long to wait for as many messages as are asked for.
            count_max: more messages than these are not there, or not wanted.

        Returns:
            The messages, and the offset to read next. Offsets may skip: compaction and
            transaction markers leave holes.

        Raises:
            MissingOffsetError: `offset` is not in the log.
            KafkaException: an error that waiting does not mend.
        """
        if offset != self._next:
            self._consumer.assign([TopicPartition(self._topic, self._partition, offset)])
            self._next = offset
        messages: list[Message] = []
        size = 0
        while size < bytes_max and len(messages) < count_max:
            wanted = min(self._wanted(bytes_max - size), count_max - len(messages))
            # consume() waits for the full count, so only the first call may wait at all.
            batch = self._consumer.consume(wanted, wait_s if not messages else 0)
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
            if len(batch) < wanted:
                break
        if messages:
            self._bytes_per_message = size / len(messages)
            self._next = messages[-1].offset + 1
        return messages, self._next

    def position(self) -> int:
        """The offset that the consumer has reached; past holes that held no message."""
        assigned = TopicPartition(self._topic, self._partition)
        return self._consumer.position([assigned])[0].offset

    def offset_at(self, start: str | int) -> int:
        """The offset of "earliest", "latest", or the first message at or after epoch ms."""
        low, high = self._consumer.get_watermark_offsets(
            TopicPartition(self._topic, self._partition), timeout=METADATA_S_MAX
        )
        if start == "earliest":
            return low
        if start == "latest":
            return high
        wanted = TopicPartition(self._topic, self._partition, int(start))
        found = self._consumer.offsets_for_times([wanted], timeout=METADATA_S_MAX)[0].offset
        return high if found < 0 else found

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _wanted(self, bytes_left: int) -> int:
        if not self._bytes_per_message:
            return FIRST_MESSAGES
        return max(1, min(MESSAGES_MAX, int(bytes_left / self._bytes_per_message) + 1))

    def _check(self, error: KafkaError, offset: int) -> None:
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._next = None
            raise MissingOffsetError(
                f"topic {self._topic}, partition {self._partition}: offset {offset} must be in "
                f"the log; the broker no longer has it ({error.str()}). Decide with "
                "input.on_missing_offset: earliest or latest"
            )
        if error.code() not in _PASSING:
            raise KafkaException(error)


def partition_count(access: KafkaAccess, topic: str, timeout_s: float = METADATA_S_MAX) -> int:
    """Number of partitions of `topic`.

    Raises:
        ConfigError: there is no such topic.
        KafkaException: the broker did not answer in time.
    """
    producer = Producer(access.properties())
    metadata = producer.list_topics(topic, timeout=timeout_s).topics[topic]
    if metadata.error is not None:
        raise ConfigError(
            f"topic {topic!r}: must exist on {access.bootstrap_servers}; {metadata.error.str()}"
        )
    return len(metadata.partitions)


def topic_identity(access: KafkaAccess, topic: str, timeout_s: float = METADATA_S_MAX) -> bytes:
    """Kafka's own identity of a topic, 16 bytes (KIP-516); zeros where the broker gives none.

    Raises:
        KafkaException: the broker did not answer in time.
    """
    admin = AdminClient(access.properties())
    described = admin.describe_topics(TopicCollection([topic]), request_timeout=timeout_s)
    found = described[topic].result(timeout_s).topic_id
    halves = (found.get_most_significant_bits(), found.get_least_significant_bits())
    return struct.pack(">qq", *halves)


def create_missing_topics(access: KafkaAccess, names: Sequence[str], partitions: int) -> list[str]:
    """Create those of the topics `names` that do not exist; returns which those were.

    Raises:
        ConfigError: the broker refused.
    """
    admin = AdminClient(access.properties())
    existing = admin.list_topics(timeout=METADATA_S_MAX).topics
    missing = [name for name in names if name not in existing]
    if not missing:
        return []
    created = admin.create_topics([NewTopic(name, partitions) for name in missing])
    for name, future in created.items():
        try:
            future.result(METADATA_S_MAX)
        except KafkaException as error:
            raise ConfigError(f"topic {name!r}: cannot be created; {error.args[0].str()}") from None
    return missing


def new_producer(access: KafkaAccess) -> Producer:
    """An idempotent producer with short lingering: latency is won in bundles, not here."""
    return Producer(
        {
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 2,
            "compression.type": "none",
            "message.max.bytes": 67_108_864,  # the broker's limit decides, not the client's
            "queue.buffering.max.kbytes": 262_144,
            "delivery.timeout.ms": 120_000,
            **access.properties(),
        }
    )
