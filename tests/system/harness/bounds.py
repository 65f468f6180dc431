"""Load at the limits of a live job, and its effect on memory and on the latency of others.

Senders pace JSON events, and each event carries the time at which it was sent. A probe reads the
scores topic and takes the time until the score could be read. The flood comes from a separate
process, so that it cannot delay the other senders.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from fixtures.deadlines import deadline
from streamgauge.infra.local import cluster as local
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.data.payloads import arrow_stream, partition_of
from system.harness import live
from system.harness.outcome import LETTER_PREFIX

FOLDER = Path("build/flood")
FEATURES = 38
TICK_S = 0.005  # senders send what is due this often
WATCH_S = 1.0
PAGE_BYTES = 4_096
ROWS = 512  # different rows of features, written once and sent again and again

Names = Callable[[int], str]  # the entity of the n-th event


def send(
    servers: str, topic: str, partitions: int, entity_of: Names, rate: float, until: Any
) -> int:
    """Send events at `rate` a second until `until` is set or a count; returns how many."""
    producer = Producer(
        {"bootstrap.servers": servers, "linger.ms": 2, "queue.buffering.max.messages": 500_000}
    )
    rng = np.random.default_rng(0)
    rows = [json.dumps(row.round(3).tolist()).encode() for row in rng.normal(size=(ROWS, FEATURES))]
    events, began = 0, time.monotonic()
    ends_at = until if isinstance(until, int) else None
    while events < ends_at if ends_at is not None else not until.is_set():
        due = int((time.monotonic() - began) * rate) - events
        for _ in range(due if ends_at is None else min(due, ends_at - events)):
            name = entity_of(events).encode()
            value = b'{"entity_id":"%b","event_time_us":%d,"features":%b}' % (
                *(name, time.time_ns() // 1000),
                rows[events % ROWS],
            )
            producer.produce(topic, value, name, partition_of(name.decode(), partitions))
            events += 1
        producer.poll(0)
        time.sleep(TICK_S)  # the pace itself, not a wait for something
    assert producer.flush(60) == 0
    return events


def now_us() -> int:
    """The wall clock."""
    return time.time_ns() // 1000


def new_name(event: int) -> str:
    """A key that no event had before."""
    return f"flood-{event:08d}"


class Honest:
    """A steady sender in a thread; `entity_of` names the entity of the n-th event."""

    def __init__(
        self, cluster: ClusterInfo, topic: str, partitions: int, rate: float, entity_of: Names
    ) -> None:
        self._arguments = (cluster.bootstrap_servers, topic, partitions, entity_of, rate)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.events = 0

    def _run(self) -> None:
        self.events = send(*self._arguments, self._ending)

    def __enter__(self) -> Honest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(deadline(120))
        assert not self._thread.is_alive()


class Flood:
    """A million keys, sent by a separate process."""

    def __init__(
        self, cluster: ClusterInfo, topic: str, partitions: int, rate: float, events: int
    ) -> None:
        arguments = (cluster.bootstrap_servers, topic, partitions, new_name, rate, events)
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=send, args=arguments, daemon=True)

    def run(self, deadline_s: float) -> float:
        """Send all; returns the seconds it took."""
        began = time.monotonic()
        self._process.start()
        self._process.join(deadline(deadline_s))
        assert self._process.exitcode == 0
        return time.monotonic() - began


def preload(cluster: ClusterInfo, topic: str, partitions: int, names: list[str]) -> None:
    """Put an event of each of `names`, in this order, on the topic as Arrow."""
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers})
    values = np.random.default_rng(0).normal(size=(len(names), FEATURES)).astype(np.float32)
    time_us = now_us() + np.arange(len(names), dtype=np.int64)
    partition_of_name = np.array([partition_of(name, partitions) for name in names])
    every = pa.array(names, pa.string())
    for partition in range(partitions):
        mine = np.flatnonzero(partition_of_name == partition)
        for at in range(0, len(mine), ROWS):
            part = mine[at : at + ROWS]
            batch = pa.record_batch(
                [
                    every.take(pa.array(part)),
                    pa.array(time_us[part]),
                    pa.FixedSizeListArray.from_arrays(pa.array(values[part].ravel()), FEATURES),
                ],
                names=["entity_id", "event_time_us", "features"],
            )
            producer.produce(topic, arrow_stream(batch), None, partition)
            producer.poll(0)
    assert producer.flush(60) == 0


@dataclass(slots=True)
class Seen:
    """When events of some entities were sent and how long their scores took."""

    #: Scores seen so far, repeats included.
    rows: int = 0
    sent_us: list[np.ndarray] = field(default_factory=list)
    latency_ms: list[np.ndarray] = field(default_factory=list)
    #: (partition, offset) as one number.
    event: list[np.ndarray] = field(default_factory=list)

    def count(self) -> int:
        """Different events seen."""
        return len(np.unique(np.concatenate([np.empty(0, np.int64), *self.event])))

    def rate(self, skipped: float = 0.2) -> float:
        """Scores a second, from when this share of them had come."""
        parts = len(self.latency_ms)  # the thread that reads adds to both, this one last
        sent = np.concatenate(self.sent_us[:parts])
        latency = np.concatenate(self.latency_ms[:parts])
        came_s = np.sort(sent / 1e6 + latency / 1e3)[int(skipped * len(sent)) :]
        return len(came_s) / (came_s[-1] - came_s[0])

    def between(self, start_us: int, end_us: int) -> dict[str, float]:
        """Percentiles of the latency of events sent in this stretch, in ms."""
        parts = len(self.latency_ms)  # the thread that reads adds to both, this one last
        sent = np.concatenate(self.sent_us[:parts])
        latency = np.concatenate(self.latency_ms[:parts])
        mine = latency[(sent >= start_us) & (sent < end_us)]
        assert len(mine), "no event was scored in this stretch"
        p50, p95, p99 = np.percentile(mine, [50, 95, 99]).round(1).tolist()
        return {"events": len(mine), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


class Probe:
    """Reads the scores as they arrive; the prefix of a name gives the group of its entity."""

    def __init__(self, cluster: ClusterInfo, config: Config, prefixes: tuple[str, ...]) -> None:
        assert config.scores.topic is not None
        self.seen = {prefix: Seen() for prefix in prefixes}
        self._ending = threading.Event()
        self._consumer = _consumer(cluster, config.scores.topic)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(deadline(30))
        self._consumer.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            for message in self._consumer.consume(1, 0.1):
                seen_us = now_us()
                if message.error() is not None:  # the end of a partition, for now
                    continue
                for batch in live.batches(message.value()):
                    self._take(batch, seen_us)

    def _take(self, batch: Any, seen_us: int) -> None:
        event = (batch["partition"].to_numpy().astype(np.int64) << 48) | batch["offset"].to_numpy()
        sent_us = batch["event_time_us"].to_numpy()
        for prefix, seen in self.seen.items():
            mine = pc.starts_with(batch["entity_id"], prefix).to_numpy(zero_copy_only=False)
            if mine.any():
                seen.rows += int(mine.sum())
                seen.event.append(event[mine])
                seen.sent_us.append(sent_us[mine])
                seen.latency_ms.append((seen_us - sent_us[mine]) / 1000)


class Watch:
    """Memory of workers and TaskManager, and their CPU, once a second."""

    def __init__(self, cluster: ClusterInfo) -> None:
        self._cluster = cluster
        #: (wall clock in us, workers' MB, TaskManager's MB)
        self.samples: list[tuple[int, float, float]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(deadline(30))

    def most(self, start_us: int, end_us: int) -> dict[str, float]:
        """The most memory in a stretch of time."""
        inside = [(w, t) for at, w, t in self.samples if start_us <= at < end_us]
        workers, task_manager = (max(column) for column in zip(*inside, strict=True))
        return {"workers_mb": round(workers), "taskmanager_mb": round(task_manager)}

    def _run(self) -> None:
        while not self._ending.wait(WATCH_S):
            workers = sum(map(rss_mb, local.worker_pids(self._cluster)))
            task_manager = rss_mb(self._cluster.pids["taskmanager-0"])
            self.samples.append((now_us(), workers, task_manager))


def rss_mb(pid: int) -> float:
    """Resident memory of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1e6
    except OSError:
        return 0.0


def cpu_s(cluster: ClusterInfo) -> dict[str, float]:
    """CPU seconds of the parts so far."""
    workers = sum(map(_cpu_s, local.worker_pids(cluster)))
    return {"sdk_workers": workers, **{name: _cpu_s(pid) for name, pid in cluster.pids.items()}}


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100


def checkpoint_mb(jobs: live.Jobs, job_id: str) -> float:
    """The largest of the last ten completed checkpoints."""
    done = [
        one["state_size"]
        for one in jobs.rest.checkpoints(job_id)["history"]
        if one["status"] == "COMPLETED"
    ]
    return round(max(done, default=0) / 1e6, 1)


def end_of(cluster: ClusterInfo, topic: str) -> int:
    """Messages on a topic so far."""
    consumer = _consumer(cluster, topic)
    ends = [
        consumer.get_watermark_offsets(part, timeout=deadline(30))[1]
        for part in consumer.assignment()
    ]
    consumer.close()
    return sum(ends)


def letters_by_reason(cluster: ClusterInfo, topic: str) -> tuple[Counter[str], int]:
    """Different dead letters by reason, and bytes of their values, keys and headers."""
    reasons: dict[bytes, str] = {}
    size = 0
    for message in _to_end(cluster, topic):
        headers = message.headers()
        about = dict(headers)
        reasons[about[LETTER_PREFIX + "id"]] = about[LETTER_PREFIX + "reason"].decode()
        size += len(message.value() or b"") + sum(len(k) + len(v) for k, v in headers)
    return Counter(reasons.values()), size


def _to_end(cluster: ClusterInfo, topic: str) -> Iterator[Any]:
    consumer = _consumer(cluster, topic)
    left = {part.partition for part in consumer.assignment()}
    while left:
        for message in consumer.consume(2_000, 1.0):
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
            else:
                raise AssertionError(error)
    consumer.close()


def _consumer(cluster: ClusterInfo, topic: str) -> Consumer:
    consumer = Consumer(
        {
            "bootstrap.servers": cluster.bootstrap_servers,
            "group.id": "bounds",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 5,
        }
    )
    partitions = consumer.list_topics(topic, timeout=deadline(30)).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    return consumer


def report(name: str, head: tuple[str, ...], rows: list[tuple[Any, ...]], figures: Any) -> str:
    """Add the figures of a row to build/flood/results.json; returns the table to print."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "results.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, name: figures}) + "\n")
    return "\n" + "\n".join("".join(f"{cell!s:>15}" for cell in row) for row in (head, *rows))
