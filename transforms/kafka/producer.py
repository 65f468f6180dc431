"""Producers for the two ways of writing: a job's outputs, and a whole data set."""

from __future__ import annotations

from confluent_kafka import Producer

from streamgauge.transforms.kafka.access import KafkaAccess, new_producer

# 32 MB or 100,000 messages wait in a bulk producer at most; beyond that, produce() is refused.
# librdkafka's own defaults.
BATCH_BYTES_MAX, BATCH_MESSAGES_MAX = 1_000_000, 10_000
BULK_QUEUE_KBYTES_MAX, BULK_QUEUE_MESSAGES_MAX = 32_768, 100_000


def new_output_producer(
    access: KafkaAccess,
    bytes_max: int = BATCH_BYTES_MAX,
    batch_messages_max: int = BATCH_MESSAGES_MAX,
) -> Producer:
    """An idempotent producer with a short linger time: bundles already group messages.

    Args:
        access: the broker.
        bytes_max: largest batch that the topic takes, bytes; Kafka's limit of a message is one
            of the batch in which it arrives.
        batch_messages_max: most messages in a batch.
    """
    return new_producer(
        access,
        {
            "batch.size": min(bytes_max, BATCH_BYTES_MAX),
            "batch.num.messages": batch_messages_max,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 2,
            "compression.type": "none",
            "message.max.bytes": 67_108_864,  # the broker's limit decides, not the client's
            "queue.buffering.max.kbytes": 262_144,
            "delivery.timeout.ms": 120_000,
        },
    )


def new_bulk_producer(access: KafkaAccess, client_id: str) -> Producer:
    """An idempotent producer that groups messages for throughput; it reports failures only."""
    return new_producer(
        access,
        {
            "client.id": client_id,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "queue.buffering.max.kbytes": BULK_QUEUE_KBYTES_MAX,
            "queue.buffering.max.messages": BULK_QUEUE_MESSAGES_MAX,
            # A callback for each of 100,000 messages a second would halve the rate.
            "delivery.report.only.error": True,
            "log_level": 2,
        },
    )
