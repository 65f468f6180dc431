"""A loop written by hand for this one task: the upper bound of what Python can do.

confluent-kafka, typed JSON or Arrow into one matrix, one slab of hidden vectors, one batched
numpy step per poll (events of one entity in rounds). With `--durable-s` it writes slab,
entities and offsets to a file at that interval and resumes from it; outputs since then are
repeated. It has no rescaling, no dead letters, no alerts, no drift statistics.
"""

from __future__ import annotations

import array
import os
import time

import msgspec
import numpy as np
import pyarrow as pa
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition
from gru import Gru
from task import Task, given

EVENTS_PER_POLL = 8_192
ARROW_MESSAGES_PER_POLL = 16
STEP_EVENTS = 512  # larger steps exceed the caches and cost twice as much
SCORES = pa.schema([("event_time_us", pa.int64()), ("score", pa.float32())])


class Event(msgspec.Struct):
    """A JSON event."""

    entity_id: str
    event_time_us: int
    features: list[float]


class Slab:
    """Hidden vectors of all entities, a row each."""

    def __init__(self, gru: Gru) -> None:
        self.gru = gru
        self.rows = np.zeros((1_024, gru.hidden), np.float32)
        self.index: dict[str, int] = {}

    def score(self, names: list[str], x: np.ndarray) -> np.ndarray:
        """Scores (N,) of events in order; round r holds the r-th event of each entity."""
        index = self.index
        at = np.array([index.setdefault(name, len(index)) for name in names])
        while len(index) > len(self.rows):
            more = np.zeros((max(1_024, len(self.rows)), self.gru.hidden), np.float32)
            self.rows = np.concatenate([self.rows, more])
        score = np.empty(len(names), np.float32)
        for events in rounds(at):
            for start in range(0, len(events), STEP_EVENTS):
                part = events[start : start + STEP_EVENTS]
                rows = at[part]
                score[part], self.rows[rows] = self.gru.step(x[part], self.rows[rows])
        return score


def rounds(at: np.ndarray) -> list[np.ndarray]:
    """Split events so that each row is at most once in a part."""
    order = np.argsort(at, kind="stable")
    rows = at[order]
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    rank = np.arange(len(at)) - np.repeat(starts, np.diff(np.append(starts, len(at))))
    if not rank.any():
        return [np.arange(len(at))]
    by_rank = np.argsort(rank, kind="stable")
    return np.split(order[by_rank], np.flatnonzero(np.diff(rank[by_rank])) + 1)


def from_json(messages: list[Message]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, times and features of JSON messages."""
    decode = msgspec.json.Decoder(Event).decode
    events = [decode(message.value()) for message in messages]
    flat = array.array("f")
    for event in events:
        flat.fromlist(event.features)
    x = np.frombuffer(flat, np.float32).reshape(len(events), -1)
    times = np.array([event.event_time_us for event in events])
    return [event.entity_id for event in events], times, x


def from_arrow(messages: list[Message]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, times and features of Arrow messages."""
    tables = [pa.ipc.open_stream(message.value()).read_all() for message in messages]
    whole = pa.concat_tables(tables).combine_chunks()
    lists = whole.column("features").chunk(0)
    x = lists.flatten().to_numpy(zero_copy_only=True).reshape(-1, lists.type.list_size)
    return whole.column("entity_id").to_pylist(), whole.column("event_time_us").to_numpy(), x


def scores_message(times: np.ndarray, score: np.ndarray) -> bytes:
    """The scores of a poll as one Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCORES) as writer:
        writer.write_batch(pa.record_batch([pa.array(times), pa.array(score)], schema=SCORES))
    return sink.getvalue().to_pybytes()


def save(task: Task, slab: Slab, offsets: dict[int, int]) -> None:
    """Write everything needed to resume, in one step."""
    staged = task.work / "snapshot.new"
    with staged.open("wb") as file:
        names = msgspec.msgpack.encode((list(slab.index), offsets))
        file.write(len(names).to_bytes(8, "little") + names)
        slab.rows[: len(slab.index)].tofile(file)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(task.work / "snapshot")


def restore(task: Task, slab: Slab) -> dict[int, int]:
    """Fill the slab from the last snapshot, if there is one; returns the next offsets."""
    path = task.work / "snapshot"
    if not path.exists():
        return {}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        names, offsets = msgspec.msgpack.decode(
            file.read(size), type=tuple[list[str], dict[int, int]]
        )
        slab.index = {name: row for row, name in enumerate(names)}
        slab.rows = np.fromfile(file, np.float32).reshape(-1, slab.gru.hidden)
    return offsets


def main() -> None:
    """Read, score and write until it is stopped."""
    task = given()
    consumer = Consumer(
        {
            "bootstrap.servers": task.servers,
            "group.id": task.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "queued.max.messages.kbytes": 65_536,
        }
    )
    producer = Producer({"bootstrap.servers": task.servers, "linger.ms": 2, "acks": "all"})
    slab, saved_s = Slab(Gru.load(task.weights)), time.monotonic()
    offsets = restore(task, slab)
    # It stores its offsets itself, so it needs no consumer group and waits for none.
    partitions = consumer.list_topics(task.topic, timeout=10).topics[task.topic].partitions
    starts = [(number, offsets.get(number, OFFSET_BEGINNING)) for number in partitions]
    consumer.assign([TopicPartition(task.topic, *start) for start in starts])
    read, most = (
        (from_json, EVENTS_PER_POLL)
        if task.form == "json"
        else (from_arrow, ARROW_MESSAGES_PER_POLL)
    )
    while True:
        messages = consumer.consume(most, 0.005)
        if messages:
            names, times, x = read(messages)
            producer.produce(task.out, scores_message(times, slab.score(names, x)))
            producer.poll(0)
            offsets.update((one.partition(), one.offset() + 1) for one in messages)
        if task.durable_s and time.monotonic() - saved_s >= task.durable_s:
            producer.flush()
            save(task, slab, offsets)
            saved_s = time.monotonic()


if __name__ == "__main__":
    main()
