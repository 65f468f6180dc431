"""Sends a data set to a Kafka topic, at a chosen rate or as fast as possible."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.console.progress import Narrate, progress, to_stderr
from streamgauge.pipeline.data.datasets import Dataset, Part, load
from streamgauge.pipeline.data.payloads import Format, Payload, Selection, messages
from streamgauge.pipeline.jobs import broker
from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.kafka.producer import new_bulk_producer

FLUSH_TIMEOUT_S = 60.0
WAIT_S_MIN = 0.001  # a shorter wait takes longer to start than it lasts


@dataclass(frozen=True, slots=True)
class ProduceReport:
    """What was sent, and how many dead letters must follow."""

    topic: str
    format: str
    partitions: int
    #: All events, malformed ones included: well_formed + malformed.
    events: int
    well_formed: int
    #: Malformed events; each becomes exactly one dead letter.
    malformed: int
    #: Number of Kafka messages.
    messages: int
    #: Bytes of all message values.
    value_bytes: int
    seconds: float

    @property
    def dead_letters(self) -> int:
        """The number of dead letters that must follow."""
        return self.malformed


@dataclass(frozen=True, slots=True)
class ProduceRequest:
    """What to send, in which form, to which topic, and how fast."""

    #: A folder in a layout of `pipeline.data.datasets`, or a loaded data set.
    data: Path | Dataset
    topic: str
    #: `host:port`, several separated by commas.
    bootstrap_servers: str
    #: "json" sends one event per message, "arrow" sends many.
    data_format: Format = "json"
    #: JSON features as an object by name instead of an array.
    named: bool = False
    #: Which part of the folder to send.
    part: Part = "test"
    #: Seconds between invented event times, see `pipeline.data.datasets`.
    cadence_s: float | None = None
    #: Which events to send, and which of them to make malformed.
    selection: Selection = field(default_factory=Selection)
    #: Events per second; None sends as fast as possible.
    rate: float | None = None
    #: Create a missing topic with this number of partitions; None requires the topic to exist.
    create_topic_partitions: int | None = None
    #: Further librdkafka properties, for instance `security.protocol`.
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rate is not None and not self.rate > 0:
            raise ConfigError(f"produce: rate must be above 0 events/s; got {self.rate}")

    def load(self) -> Dataset:
        """The data set to send."""
        if isinstance(self.data, Dataset):
            return self.data
        return load(self.data, self.part, self.cadence_s)


def produce(request: ProduceRequest, narrate: Narrate = to_stderr) -> ProduceReport:
    """Send a data set and wait until the broker has all of it.

    Raises:
        ConfigError: before anything is sent, if the data cannot be read or the topic cannot be
            used; later, if the broker refuses a message or does not accept all of them in time.
    """
    dataset = request.load()
    partitions = broker.require_topic(
        request.bootstrap_servers,
        request.topic,
        request.create_topic_partitions,
        settings=request.settings,
    )
    total = request.selection.events(dataset)
    entities = len(dataset.series) * request.selection.replicas
    narrate(
        f"producing {total:,} events of {entities:,} entities to {request.topic!r} "
        f"({partitions} partitions) as {request.data_format}"
    )
    began = time.monotonic()
    client = _client(request.bootstrap_servers, request.settings)
    sender = _Sender(client, request.topic, rate=request.rate, began=began)
    payloads = messages(
        dataset, request.data_format, partitions, selection=request.selection, named=request.named
    )
    with progress("producing", total, narrate) as advance:
        for payload in payloads:
            sender.send(payload)
            advance(payload.events)
        sender.finish()
    return ProduceReport(
        topic=request.topic,
        format=request.data_format,
        partitions=partitions,
        events=sender.events,
        well_formed=sender.events - sender.malformed,
        malformed=sender.malformed,
        messages=sender.messages,
        value_bytes=sender.value_bytes,
        seconds=round(time.monotonic() - began, 3),
    )


def send(payloads: Iterable[Payload], topic: str, bootstrap_servers: str) -> int:
    """Send payloads as fast as possible and wait for the broker; returns the number of events."""
    sender = _Sender(_client(bootstrap_servers), topic, rate=None, began=time.monotonic())
    for payload in payloads:
        sender.send(payload)
    sender.finish()
    return sender.events


def _client(bootstrap_servers: str, settings: Mapping[str, Any] | None = None) -> Producer:
    return new_bulk_producer(KafkaAccess(bootstrap_servers, settings or {}), "streamgauge-produce")


class _Sender:
    """Sends payloads at a rate, and counts what the client has accepted."""

    def __init__(self, client: Producer, topic: str, *, rate: float | None, began: float) -> None:
        self._client, self._topic, self._rate, self._began = client, topic, rate, began
        self._refusal: KafkaError | None = None
        self.events = self.malformed = self.messages = self.value_bytes = 0

    def send(self, payload: Payload) -> None:
        """Hand a payload to the client; wait while its queue is full or the rate is exceeded."""
        while True:
            try:
                self._client.produce(
                    self._topic,
                    payload.value,
                    payload.key,
                    partition=payload.partition,
                    on_delivery=self._refused,
                    headers=payload.headers,
                )
                break
            except BufferError:  # the queue is full; polling lets the client empty it
                self._client.poll(0.05)
                self._stop_if_refused()
            except KafkaException as error:  # known at once, for instance a missing partition
                self._refusal = error.args[0]
                self._stop_if_refused()
        self.events += payload.events
        self.malformed += payload.malformed
        self.messages += 1
        self.value_bytes += len(payload.value)
        if self._rate is not None:
            self._wait_for_rate()

    def finish(self) -> None:
        """Wait until the broker has all messages.

        Raises:
            ConfigError: it refuses one, or does not accept all of them in time.
        """
        waiting = self._client.flush(FLUSH_TIMEOUT_S)
        self._stop_if_refused()
        if waiting:
            raise ConfigError(
                f"topic {self._topic!r}: the broker must take all {self.messages} messages; "
                f"{waiting} are still waiting after {FLUSH_TIMEOUT_S:.0f} s"
            )

    def _wait_for_rate(self) -> None:
        assert self._rate is not None
        while (early := self._began + self.events / self._rate - time.monotonic()) > WAIT_S_MIN:
            self._client.poll(early)
            self._stop_if_refused()

    def _refused(self, error: KafkaError | None, message: object) -> None:
        self._refusal = self._refusal or error

    def _stop_if_refused(self) -> None:
        if self._refusal is not None:
            raise ConfigError(f"topic {self._topic!r}: the broker refused: {self._refusal.str()}")
