"""The events of all benchmarks: made from a seed, the same bytes for every peer.

Features are standard normal noise with six decimals. The time of an event identifies it, so a
score needs no other key.

    uniform   every entity as often as any other
    zipf      the k-th entity in proportion to k ** -1.1
    hot       half of all events from one entity
    sweep     one event of each entity in turn
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import pyarrow as pa
from confluent_kafka import Producer

from streamgauge.pipeline.data.payloads import (
    CONTENT_TYPES,
    Headers,
    arrow_stream,
    partition_of,
    shortest,
)

FEATURES, HIDDEN = 38, 64
PARTITIONS = 4
SKEWS = ("uniform", "zipf", "hot")
ZIPF_EXPONENT = 1.1
BASE_US = 1_704_067_200_000_000
STEP_US = 100
POOL_ROWS = 8_192  # different feature vectors; which one an event has depends on its number
POOL_STRIDE = 2_654_435_761
ARROW_ROWS = 512


@dataclass(frozen=True)
class Load:
    """A stream of events."""

    entities: int
    events: int
    skew: str = "uniform"
    seed: int = 0

    @cached_property
    def entity(self) -> np.ndarray:
        """(N,) int64, which entity sends each event."""
        rng = np.random.default_rng(self.seed)
        if self.skew == "sweep":
            return rng.permutation(self.entities)[np.arange(self.events) % self.entities]
        if self.skew == "zipf":
            share = np.arange(1, self.entities + 1) ** -ZIPF_EXPONENT
            bounds = np.cumsum(share / share.sum())
            return np.searchsorted(bounds, rng.random(self.events) * bounds[-1])
        entity = rng.integers(0, self.entities, self.events)
        if self.skew == "hot":
            entity[rng.random(self.events) < 0.5] = 0
        return entity

    @cached_property
    def names(self) -> list[str]:
        """Ids of the entities."""
        return [f"host-{number:07d}" for number in range(self.entities)]

    @cached_property
    def places(self) -> np.ndarray:
        """(E,) partition of each entity."""
        return np.array([partition_of(name, PARTITIONS) for name in self.names])

    @property
    def time_us(self) -> np.ndarray:
        """(N,) int64, when each event happened."""
        return BASE_US + np.arange(self.events) * STEP_US

    def number(self, time_us: np.ndarray) -> np.ndarray:
        """Which events have these times."""
        return (time_us - BASE_US) // STEP_US

    def features(self, events: np.ndarray) -> np.ndarray:
        """(n, F) float32 of these events."""
        return pool()[pool_row(events)]


def pool_row(events: np.ndarray) -> np.ndarray:
    """Which row of the pool each event has."""
    return events * POOL_STRIDE % POOL_ROWS


def pool() -> np.ndarray:
    """(POOL_ROWS, F) float32."""
    noise = np.random.default_rng(1).normal(size=(POOL_ROWS, FEATURES))
    return noise.round(6).astype(np.float32)


class Encoder:
    """Encodes events with the given times as messages."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._pool = pool()
        self._texts = [msgspec.json.encode(row) for row in shortest(self._pool).tolist()]
        self._keys = [name.encode() for name in load.names]
        self._places = load.places.tolist()
        self._names = pa.array(load.names)

    def json(self, events: np.ndarray, time_us: np.ndarray) -> Iterator[tuple[int, bytes, bytes]]:
        """(partition, key, value) of each event."""
        entities = self._load.entity[events].tolist()
        rows = pool_row(events).tolist()
        for entity, row, at in zip(entities, rows, time_us.tolist(), strict=True):
            key = self._keys[entity]
            value = b'{"entity_id":"%b","event_time_us":%d,"features":%b}'
            yield self._places[entity], key, value % (key, at, self._texts[row])

    def arrow(self, events: np.ndarray, time_us: np.ndarray) -> Iterator[tuple[int, None, bytes]]:
        """(partition, no key, value) of messages with up to `ARROW_ROWS` events."""
        place = self._load.places[self._load.entity[events]]
        parts = [(partition, np.flatnonzero(place == partition)) for partition in range(PARTITIONS)]
        for start in range(0, max(len(mine) for _, mine in parts), ARROW_ROWS):
            for partition, mine in parts:
                chosen = mine[start : start + ARROW_ROWS]
                if len(chosen):
                    yield partition, None, self._stream(events[chosen], time_us[chosen])

    def _stream(self, events: np.ndarray, time_us: np.ndarray) -> bytes:
        flat = pa.array(self._pool[pool_row(events)].ravel())
        columns = {
            "entity_id": self._names.take(pa.array(self._load.entity[events])),
            "event_time_us": pa.array(time_us),
            "features": pa.FixedSizeListArray.from_arrays(flat, FEATURES),
        }
        return arrow_stream(pa.RecordBatch.from_pydict(columns))


def publish(load: Load, form: str, topic: str, servers: str, first: int = 0) -> int:
    """Send the load, from its event `first` on, at full speed; returns the bytes of all values."""
    encoder, sender, size = Encoder(load), Sender(topic, form, servers), 0
    step = 131_072  # events of a chunk; only its last Arrow messages are not full
    for start in range(first, load.events, step):
        events = np.arange(start, min(start + step, load.events))
        for message in getattr(encoder, form)(events, load.time_us[events]):
            sender.send(*message)
            size += len(message[2])
    sender.flush()
    return size


def due_us(events: np.ndarray, began_s: float, rate: float, first: int = 0) -> np.ndarray:
    """Due times of the events that `offer` sends, microseconds; they identify the events."""
    return ((began_s + (events - first) / rate) * 1e6).astype(np.int64)


def offer(
    load: Load,
    form: str,
    topic: str,
    servers: str,
    rate: float,
    tick_s: float,
    began_s: float | None = None,
    first: int = 0,
) -> float:
    """Send the load at `rate` events/s by the clock, whatever happens to it.

    The time of an event is its due time: a late sender makes events late, not fewer.

    Args:
        load: the events.
        form: "json" or "arrow".
        topic: where they go.
        servers: the broker.
        rate: events a second.
        tick_s: events of a tick are sent together.
        began_s: when event `first` is due, None for now.
        first: the first event to send.

    Returns:
        The longest delay of a tick, seconds.
    """
    encoder, sender = Encoder(load), Sender(topic, form, servers)
    began, sent, late = began_s or time.time(), first, 0.0
    while sent < load.events:
        due = min(load.events, first + int((time.time() - began) * rate))
        if due > sent:
            events = np.arange(sent, due)
            late = max(late, time.time() - began - (sent - first) / rate)
            at = due_us(events, began, rate, first)
            for message in getattr(encoder, form)(events, at):
                sender.send(*message)
            sender.poll()
            sent = due
        time.sleep(max(0.0, tick_s - (time.time() - began) % tick_s))
    sender.flush()
    return late


class Sender:
    """A producer that waits while its queue is full."""

    def __init__(self, topic: str, form: str, servers: str) -> None:
        self._topic = topic
        self._headers: Headers = [("content-type", CONTENT_TYPES[form])]
        self._client = Producer(
            {
                "bootstrap.servers": servers,
                "linger.ms": 2,
                "acks": "all",
                "queue.buffering.max.kbytes": 65_536,
                "delivery.report.only.error": True,
            }
        )

    def send(self, partition: int, key: bytes | None, value: bytes) -> None:
        """Send one message."""
        while True:
            try:
                self._client.produce(self._topic, value, key, partition, headers=self._headers)
                return
            except BufferError:  # the client empties its queue while it is polled
                self._client.poll(0.05)

    def poll(self) -> None:
        """Let the client work."""
        self._client.poll(0)

    def flush(self) -> None:
        """Wait until the broker has everything."""
        left = self._client.flush(60)
        assert not left, f"{self._topic}: {left} messages never reached the broker"
