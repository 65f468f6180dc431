"""Topics of a run: creates them, watches their size, and reads them after the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

FIRST_SCORE_S_MAX = 120.0
QUIET_S = 8.0  # longer than any observed pause for a checkpoint


class Score(msgspec.Struct):
    """The message of a peer that writes one score per message."""

    event_time_us: int
    score: float


@dataclass(frozen=True, eq=False)
class Scored:
    """The scores of a run, in the order of the broker's log."""

    time_us: np.ndarray
    score: np.ndarray
    #: (N,) milliseconds, the broker's clock when it took the message of each score.
    stamp_ms: np.ndarray


def create(servers: str, name: str, partitions: int, by_brokers_clock: bool = False) -> None:
    """Create a topic."""
    config = {"message.timestamp.type": "LogAppendTime"} if by_brokers_clock else {}
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 2})
    topic = NewTopic(name, partitions, replication_factor=1, config=config)
    admin.create_topics([topic])[name].result(30)


def delete(servers: str, name: str) -> None:
    """Remove a topic."""
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 2})
    admin.delete_topics([name])[name].result(30)


def await_quiet(
    servers: str,
    name: str,
    seconds_max: float,
    is_alive: Callable[[], bool] = lambda: True,
    quiet_s: float = QUIET_S,
) -> bool:
    """Wait until a topic has not grown for `quiet_s`, or has been growing for `seconds_max`.

    Returns:
        Whether it stopped by itself.

    Raises:
        TimeoutError: no message arrived.
        ChildProcessError: the process that writes to it has ended.
    """
    consumer, parts = _consumer(servers, name)
    began = changed = time.monotonic()
    first, last = None, 0
    try:
        while True:
            now = time.monotonic()
            size = sum(consumer.get_watermark_offsets(part, timeout=10)[1] for part in parts)
            if size != last:
                last, changed = size, now
                first = first or now
            if not is_alive():
                raise ChildProcessError("it ended by itself")
            if first is None and now - began > FIRST_SCORE_S_MAX:
                raise TimeoutError(f"no score after {FIRST_SCORE_S_MAX:.0f} s")
            if first is not None and now - changed > quiet_s:
                return True
            if first is not None and now - first > seconds_max:
                return False
            time.sleep(0.5)  # a look twice a second costs the run nothing
    finally:
        consumer.close()


def size(servers: str, name: str) -> int:
    """Messages in a topic."""
    consumer, parts = _consumer(servers, name)
    found = sum(consumer.get_watermark_offsets(part, timeout=10)[1] for part in parts)
    consumer.close()
    return found


def read(servers: str, name: str) -> Scored:
    """All scores of a topic; messages are JSON objects or Arrow streams."""
    consumer, parts = _consumer(servers, name)
    consumer.assign(parts)
    left = sum(consumer.get_watermark_offsets(part, timeout=10)[1] for part in parts)
    decode = msgspec.json.Decoder(Score).decode
    times, scores, stamps, counts = [], [], [], []
    while left:
        for message in consumer.consume(min(left, 10_000), 10):
            value = message.value() or b""
            if value.startswith(b"{"):
                one = decode(value)
                times.append([one.event_time_us])
                scores.append([one.score])
            else:
                table = pa.ipc.open_stream(value).read_all()
                times.append(table.column("event_time_us").to_numpy())
                scores.append(table.column("score").to_numpy())
            stamps.append(message.timestamp()[1])
            counts.append(len(times[-1]))
            left -= 1
    consumer.close()
    stamp_ms = np.repeat(np.array(stamps, np.int64), counts)
    return Scored(np.concatenate(times), np.concatenate(scores).astype(np.float64), stamp_ms)


def _consumer(servers: str, name: str) -> tuple[Consumer, list[TopicPartition]]:
    settings = {"bootstrap.servers": servers, "group.id": "bench"}
    consumer = Consumer({**settings, "auto.offset.reset": "earliest"})
    partitions = consumer.list_topics(name, timeout=10).topics[name].partitions
    return consumer, [TopicPartition(name, partition, 0) for partition in partitions]
