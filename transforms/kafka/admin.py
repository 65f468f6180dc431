"""Questions about topics, and the creation of missing ones.

Every request has a timeout: while a broker is down, calls fail and the caller decides.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic

from streamgauge.models.errors import ConfigError
from streamgauge.transforms.kafka.access import KafkaAccess, new_admin

METADATA_S_MAX = 30.0  # a broker that restarts answers again within this time
BROKERS_CLOCK = {"message.timestamp.type": "LogAppendTime"}
ANSWER_S_MAX = 10.0  # from librdkafka's own timeout to its answer


def partition_count(access: KafkaAccess, topic: str, timeout_s: float = METADATA_S_MAX) -> int:
    """Number of partitions of `topic`.

    Raises:
        ConfigError: the topic does not exist.
        KafkaException: the broker did not answer in time.
    """
    metadata = new_admin(access).list_topics(topic, timeout=timeout_s).topics[topic]
    if metadata.error is not None:
        raise ConfigError(
            f"topic {topic!r}: must exist on {access.bootstrap_servers}; {metadata.error.str()}"
        )
    return len(metadata.partitions)


def topic_identity(access: KafkaAccess, topic: str, timeout_s: float = METADATA_S_MAX) -> bytes:
    """Kafka's topic id, 16 bytes (KIP-516); zeros if the broker gives none.

    Raises:
        KafkaException: the broker did not answer in time.
    """
    admin = new_admin(access)  # the answer is lost when the client is collected before it
    futures = admin.describe_topics(TopicCollection([topic]), request_timeout=timeout_s)
    # librdkafka answers with an error after `timeout_s`; a shorter wait would hide that error.
    topic_id = futures[topic].result(timeout_s + ANSWER_S_MAX).topic_id
    halves = (topic_id.get_most_significant_bits(), topic_id.get_least_significant_bits())
    return struct.pack(">qq", *halves)


def message_bytes_max(
    access: KafkaAccess, topic: str | None = None, timeout_s: float = ANSWER_S_MAX
) -> int | None:
    """The largest record batch that `topic` takes, bytes; None if the broker does not say.

    Without `topic`, what the broker takes in topics that do not set a limit of their own. An
    operator may not let the job see settings, so no answer is not an error.
    """
    admin = new_admin(access)
    try:
        if topic is None:
            kind, setting = ConfigResource.Type.BROKER, "message.max.bytes"
            name = str(min(admin.list_topics(timeout=timeout_s).brokers))
        else:
            kind, setting, name = ConfigResource.Type.TOPIC, "max.message.bytes", topic
        [answer] = admin.describe_configs(
            [ConfigResource(kind, name)], request_timeout=timeout_s
        ).values()
        return int(answer.result(timeout_s + ANSWER_S_MAX)[setting].value)
    except (KafkaException, KeyError, ValueError):
        return None


def create_missing_topics(access: KafkaAccess, names: Sequence[str], partitions: int) -> list[str]:
    """Create those of the output topics `names` that do not exist; returns the created ones.

    Their record times are those of the broker's clock: that of a worker may be wrong, and the
    broker refuses times that are far ahead of its own.

    Raises:
        ConfigError: the broker refused.
    """
    admin = new_admin(access)
    existing = admin.list_topics(timeout=METADATA_S_MAX).topics
    missing = [name for name in names if name not in existing]
    if not missing:
        return []
    created = admin.create_topics(
        [NewTopic(name, partitions, config=BROKERS_CLOCK) for name in missing]
    )
    for name, future in created.items():
        try:
            future.result(METADATA_S_MAX)
        except KafkaException as error:
            raise ConfigError(f"topic {name!r}: cannot be created; {error.args[0].str()}") from None
    return missing
