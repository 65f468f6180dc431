"""Writes messages to Kafka at least once; the ids in messages let readers drop repeats."""

from typing import Any

import apache_beam as beam
from apache_beam.typehints import with_output_types
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.kafka.producer import new_output_producer
from streamgauge.transforms.messages.outgoing import Outgoing, decode_outgoing

# Longer than the producer's own delivery timeout, which then decides.
FLUSH_S_MAX = 130.0


class WriteTopic(beam.PTransform[Any, Any]):
    """Messages -> a Kafka topic."""

    def __init__(self, access: KafkaAccess, topic: str) -> None:
        super().__init__()
        self._access = access
        self._topic = topic

    def expand(self, messages: Any) -> Any:
        return messages | "Produce" >> beam.ParDo(Produce(self._access, self._topic))


@with_output_types(bytes)  # there is no output, but an undeclared type would get a pickling coder
class Produce(beam.DoFn):
    """Passes messages to an idempotent producer; a bundle ends when the broker has all of them."""

    def __init__(self, access: KafkaAccess, topic: str) -> None:
        self._access = access
        self._topic = topic

    def setup(self) -> None:
        self._producer: Producer = new_output_producer(self._access)

    def start_bundle(self) -> None:
        self._is_pending = False
        self._error: KafkaError | None = None

    def process(self, element: bytes) -> None:
        self._is_pending = True
        for message in decode_outgoing(element):
            self._produce(message)

    def finish_bundle(self) -> None:
        if not self._is_pending:
            return
        unacknowledged = self._producer.flush(FLUSH_S_MAX)
        if self._error is not None:
            raise KafkaException(self._error)
        if unacknowledged:
            raise TimeoutError(
                f"topic {self._topic}: {unacknowledged} messages were not acknowledged within "
                f"{FLUSH_S_MAX:.0f} s; the bundle will be tried again"
            )

    def _produce(self, message: Outgoing) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    key=message.key,
                    value=message.value,
                    headers=dict(message.headers),
                    timestamp=message.timestamp_ms,
                    on_delivery=self._on_delivery,
                )
                return
            except BufferError:  # the local queue is full: the broker is the bottleneck
                self._producer.poll(0.1)

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._error = error
