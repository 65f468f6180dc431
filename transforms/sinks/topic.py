"""Writes messages to Kafka, at least once; ids inside make them effectively once."""

from typing import Any

import apache_beam as beam
from apache_beam.typehints import with_output_types
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamgauge.transforms.kafka.client import KafkaAccess, new_producer
from streamgauge.transforms.messages.outgoing import Outgoing, decode_outgoing

FLUSH_S_MAX = 130.0  # past the producer's own delivery timeout, so it decides


class WriteTopic(beam.PTransform):
    """Messages -> a Kafka topic."""

    def __init__(self, access: KafkaAccess, topic: str) -> None:
        super().__init__()
        self._access = access
        self._topic = topic

    def expand(self, messages: Any) -> Any:
        return messages | "Produce" >> beam.ParDo(Produce(self._access, self._topic))


@with_output_types(bytes)  # it has no output; without a type it would get a pickling coder
class Produce(beam.DoFn):
    """Hands messages to an idempotent producer; a bundle ends when the broker has them all."""

    def __init__(self, access: KafkaAccess, topic: str) -> None:
        self._access = access
        self._topic = topic

    def setup(self) -> None:
        self._producer: Producer = new_producer(self._access)

    def start_bundle(self) -> None:
        self._pending = False
        self._failed: KafkaError | None = None

    def process(self, element: bytes) -> None:
        self._pending = True
        for message in decode_outgoing(element):
            self._produce(message)

    def _produce(self, message: Outgoing) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    key=message.key,
                    value=message.value,
                    headers=dict(message.headers),
                    timestamp=message.timestamp_ms,
                    on_delivery=self._delivered,
                )
                return
            except BufferError:  # the local queue is full: the broker is the bottleneck
                self._producer.poll(0.1)

    def finish_bundle(self) -> None:
        if not self._pending:
            return
        left = self._producer.flush(FLUSH_S_MAX)
        if self._failed is not None:
            raise KafkaException(self._failed)
        if left:
            raise TimeoutError(
                f"topic {self._topic}: {left} messages were not acknowledged within "
                f"{FLUSH_S_MAX:.0f} s; the bundle will be tried again"
            )

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed = error
