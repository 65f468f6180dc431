"""Writes messages to Kafka at least once; the ids in messages let readers drop repeats.

What a job writes must not end the job. A message that is larger than the topic takes is made to
fit. One that the broker refuses for what it is would be refused each time its bundle is tried
again, so it is set aside: counted and logged. Every other error fails the bundle.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.typehints import with_output_types
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamgauge.transforms import metrics
from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.kafka.admin import message_bytes_max
from streamgauge.transforms.kafka.producer import new_output_producer
from streamgauge.transforms.messages.fitting import fit, size_of
from streamgauge.transforms.messages.outgoing import Outgoing, decode_outgoing

# Longer than the producer's own delivery timeout, which then decides.
FLUSH_S_MAX = 130.0
# Below Kafka's own default of 1,048,588; for a broker that does not say what the topic takes.
MESSAGE_BYTES_DEFAULT = 1_000_000
REPORT_S_MIN = 60.0

TOO_LARGE = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.RECORD_LIST_TOO_LARGE,
}
#: Errors of a message, or of one in the same batch, that no repetition cures.
REFUSALS = TOO_LARGE | {KafkaError.INVALID_TIMESTAMP, KafkaError.INVALID_RECORD}

#: Record times: that of this machine's clock, or none. Brokers refuse times that are far from
#: theirs, for instance of a worker with a wrong clock, and take messages without one.
NOW, NONE = 0, -1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Refused:
    """A message that the broker did not take."""

    message: Outgoing
    #: The record time with which it was sent: `NOW` or `NONE`.
    time_ms: int
    error: KafkaError


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
        self._outputs_set_aside = metrics.counter(metrics.OUTPUTS_SET_ASIDE)

    def setup(self) -> None:
        self._bytes_max = message_bytes_max(self._access, self._topic) or MESSAGE_BYTES_DEFAULT
        self._producer = new_output_producer(self._access, self._bytes_max)
        self._producer_of_single: Producer | None = None
        self._unreported = 0
        self._next_report_s = 0.0

    def start_bundle(self) -> None:
        self._is_pending = False
        self._error: KafkaError | None = None
        self._refused: list[_Refused] = []
        self._time_ms = NOW

    def process(self, element: bytes) -> None:
        self._is_pending = True
        for message in decode_outgoing(element):
            for fitting in fit(message, self._bytes_max):
                self._produce(self._producer, fitting)

    def finish_bundle(self) -> None:
        if not self._is_pending:
            return
        refused = self._deliver(self._producer)
        if refused:
            self._send_singly([each.message for each in refused])

    def _send_singly(self, messages: Sequence[Outgoing]) -> None:
        """Send messages again, each in a batch of its own: the broker refuses a whole batch.

        A message that is refused as too large is halved until it is taken or cannot be halved. One
        that is refused for its time is sent without a time.
        """
        if self._producer_of_single is None:
            self._producer_of_single = new_output_producer(
                self._access, self._bytes_max, batch_messages_max=1
            )
        while messages:
            for message in messages:
                self._produce(self._producer_of_single, message)
            messages = [
                smaller
                for refused in self._deliver(self._producer_of_single)
                for smaller in self._remedied_or_set_aside(refused)
            ]

    def _remedied_or_set_aside(self, refused: _Refused) -> list[Outgoing]:
        message, error = refused.message, refused.error
        if error.code() == KafkaError.INVALID_TIMESTAMP and refused.time_ms == NOW:
            return [message]
        if error.code() in TOO_LARGE:
            smaller = fit(message, size_of(message) // 2)
            if len(smaller) > 1 or len(smaller[0].value) < len(message.value):
                return smaller
        self._outputs_set_aside.inc()
        self._unreported += 1
        if (now_s := time.monotonic()) >= self._next_report_s:
            _log.warning(
                "topic %s: %d messages set aside, because the broker refuses them for what they "
                "are; the last one has the key %r and %d bytes: %s",
                *(self._topic, self._unreported, message.key, size_of(message), error.str()),
            )
            self._unreported, self._next_report_s = 0, now_s + REPORT_S_MIN
        return []

    def _deliver(self, producer: Producer) -> list[_Refused]:
        """Wait until the broker has answered for all messages; returns those that it refused."""
        unacknowledged = producer.flush(FLUSH_S_MAX)
        if self._error is not None:
            raise KafkaException(self._error)
        if unacknowledged:
            raise TimeoutError(
                f"topic {self._topic}: {unacknowledged} messages were not acknowledged within "
                f"{FLUSH_S_MAX:.0f} s; the bundle will be tried again"
            )
        refused, self._refused = self._refused, []
        if any(each.error.code() == KafkaError.INVALID_TIMESTAMP for each in refused):
            self._time_ms = NONE  # for the rest of the bundle
        return refused

    def _produce(self, producer: Producer, message: Outgoing) -> None:
        # The report comes without headers.
        on_delivery = partial(self._on_delivery, message, self._time_ms)
        while True:
            try:
                producer.produce(
                    self._topic,
                    key=message.key,
                    value=message.value,
                    headers=dict(message.headers),
                    timestamp=self._time_ms,
                    on_delivery=on_delivery,
                )
                return
            except BufferError:  # the local queue is full: the broker is the bottleneck
                producer.poll(0.1)
            except KafkaException as error:  # larger than the operator lets this client send
                if error.args[0].code() not in REFUSALS:
                    raise
                self._refused.append(_Refused(message, self._time_ms, error.args[0]))
                return

    def _on_delivery(
        self, message: Outgoing, time_ms: int, error: KafkaError | None, _: Message
    ) -> None:
        if error is None:
            return
        if error.code() in REFUSALS:
            self._refused.append(_Refused(message, time_ms, error))
        else:
            self._error = error
