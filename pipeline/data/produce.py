"""Plays a data set into a Kafka topic, as fast as it goes or at a chosen rate."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException, Producer

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.console.progress import Narrate, progress, to_stderr
from streamgauge.pipeline.data.datasets import Dataset, load
from streamgauge.pipeline.data.payloads import Format, Message, Selection, messages
from streamgauge.pipeline.jobs import broker

# 32 MB or 100,000 messages wait in the client at most; past that, sending waits.
QUEUE_KBYTES_MAX, QUEUE_MESSAGES_MAX = 32_768, 100_000
FLUSH_TIMEOUT_S = 60.0
PACE_S_MIN = 0.001  # shorter waits cost more than they keep


@dataclass(frozen=True, slots=True)
class ProduceReport:
    """What was sent, and what must come out at the other end."""

    topic: str
    format: str
    partitions: int
    #: All events, malformed ones included: well_formed + malformed.
    events: int
    well_formed: int
    #: Malformed events; each must become exactly one dead letter.
    malformed: int
    #: Kafka messages.
    messages: int
    #: Bytes of message values.
    value_bytes: int
    seconds: float

    @property
    def dead_letters(self) -> int:
        """How many dead letters must follow."""
        return self.malformed


def produce(
    data: Path | Dataset,
    topic: str,
    bootstrap_servers: str,
    format: Format = "json",
    rate: float | None = None,
    replicas: int = 1,
    part: Literal["train", "test"] = "test",
    limit: int | None = None,
    malformed_share: float = 0.0,
    seed: int = 0,
    create_topic_partitions: int | None = None,
    named: bool = False,
    cadence_s: float | None = None,
    settings: Mapping[str, Any] | None = None,
    narrate: Narrate = to_stderr,
) -> ProduceReport:
    """Send a data set and wait until the broker has all of it.

    Args:
        data: a folder in a layout of `pipeline.data.datasets`, or a loaded data set.
        topic: must exist unless `create_topic_partitions` is given.
        bootstrap_servers: `host:port`, several separated by commas.
        format: "json", one event a message, or "arrow", many.
        rate: events per second; None for as fast as it goes.
        replicas: each entity is sent this many times, shifted, under names of its own.
        part: which part of the folder.
        limit: stop after this many events.
        malformed_share: share of events made malformed, 0 to 1.
        seed: chooses the malformed events.
        create_topic_partitions: create the topic with so many partitions if it is missing.
        named: JSON features as an object by name instead of an array.
        cadence_s: distance of invented event times, see `pipeline.data.datasets`.
        settings: more librdkafka properties, for instance `security.protocol`.
        narrate: takes the lines of narration.

    Raises:
        ConfigError: before anything is sent, when something asked for cannot be done;
            or when the broker refuses or does not take all messages.
    """
    if rate is not None and not rate > 0:
        raise ConfigError(f"produce: rate must be above 0 events/s; got {rate}")
    selection = Selection(replicas, limit, malformed_share, seed)
    dataset = data if isinstance(data, Dataset) else load(data, part, cadence_s)
    partitions = broker.require_topic(
        bootstrap_servers, topic, create_topic_partitions, settings or {}
    )
    total = selection.events(dataset)
    narrate(
        f"producing {total:,} events of {len(dataset.series) * replicas:,} entities to {topic!r} "
        f"({partitions} partitions) as {format}"
    )
    began = time.monotonic()
    with progress("producing", total, narrate) as advance:
        sent = _Sent(_client(bootstrap_servers, settings), topic, rate, began)
        for message in messages(dataset, format, partitions, selection, named):
            sent.send(message)
            advance(message.events)
        sent.finish()
    seconds = time.monotonic() - began
    return ProduceReport(
        topic,
        format,
        partitions,
        sent.events,
        sent.events - sent.malformed,
        sent.malformed,
        sent.messages,
        sent.value_bytes,
        round(seconds, 3),
    )


def send(payloads: Iterable[Message], topic: str, bootstrap_servers: str) -> int:
    """Send messages that are ready and wait for them; returns the number of events."""
    sent = _Sent(_client(bootstrap_servers), topic, None, time.monotonic())
    for message in payloads:
        sent.send(message)
    sent.finish()
    return sent.events


def _client(bootstrap_servers: str, settings: Mapping[str, Any] | None = None) -> Producer:
    return Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "client.id": "streamgauge-produce",
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "queue.buffering.max.kbytes": QUEUE_KBYTES_MAX,
            "queue.buffering.max.messages": QUEUE_MESSAGES_MAX,
            # A callback for each of 100,000 messages a second would halve the rate.
            "delivery.report.only.error": True,
            "log_level": 2,
            **(settings or {}),
        }
    )


class _Sent:
    """A producer with a pace, and the account of what it took."""

    def __init__(self, client: Producer, topic: str, rate: float | None, began: float) -> None:
        self._client, self._topic, self._rate, self._began = client, topic, rate, began
        self._refusal: KafkaError | None = None
        self.events = self.malformed = self.messages = self.value_bytes = 0

    def send(self, message: Message) -> None:
        partition, key, value, headers, events, malformed = message
        while True:
            try:
                self._client.produce(
                    self._topic, value, key, partition, self._refused, headers=headers
                )
                break
            except BufferError:  # the queue is full: the client serves it while we wait
                self._client.poll(0.05)
                self._stop_if_refused()
            except KafkaException as error:  # the client knows the topic and need not ask
                self._refused(error.args[0], message)
                self._stop_if_refused()
        self.events += events
        self.malformed += malformed
        self.messages += 1
        self.value_bytes += len(value)
        if self._rate is not None:
            self._wait_for_pace()

    def finish(self) -> None:
        waiting = self._client.flush(FLUSH_TIMEOUT_S)
        self._stop_if_refused()
        if waiting:
            raise ConfigError(
                f"topic {self._topic!r}: the broker must take all {self.messages} messages; "
                f"{waiting} are still waiting after {FLUSH_TIMEOUT_S:.0f} s"
            )

    def _wait_for_pace(self) -> None:
        assert self._rate is not None
        while (early := self._began + self.events / self._rate - time.monotonic()) > PACE_S_MIN:
            self._client.poll(early)
            self._stop_if_refused()

    def _refused(self, error: KafkaError | None, message: object) -> None:
        self._refusal = self._refusal or error

    def _stop_if_refused(self) -> None:
        if self._refusal is not None:
            raise ConfigError(f"topic {self._topic!r}: the broker refused: {self._refusal.str()}")
