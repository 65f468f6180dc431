"""Throughput and CPU of the live job on Flink: `make bench-e2e`.

Two preloaded topics, Arrow and JSON, with the bundled machines as 10,000 entities, are
drained by the live job: real broker, real Flink, checkpoints every 10 s, broker and job on
the same cores. Scores go to a topic that stamps messages with the broker's clock, so the
run is measured afterwards and no consumer takes CPU meanwhile.

A speed counts only if every event was scored and a sample of entities is bit-equal to an
offline run. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from fixtures.paths import ROOT
from streamgauge.infra.flink_rest import FlinkRest
from streamgauge.infra.local import cluster
from streamgauge.infra.local.info import ClusterInfo, ClusterSpec
from streamgauge.infra.processes.ports import Ports
from streamgauge.models.blocks.block import Block
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import Config, from_dict
from streamgauge.pipeline.data.payloads import Selection
from streamgauge.pipeline.data.produce import ProduceRequest, produce
from streamgauge.pipeline.jobs import preflight
from streamgauge.pipeline.jobs.ranges import resolve_ranges
from streamgauge.pipeline.jobs.run import run
from streamgauge.transforms.sources.replay import read_range

BUNDLED = ROOT / "pipeline" / "replay" / "bundled"
ENTITIES = 10_000
PARTITIONS = 4
WARM_UP = 0.25  # share of the events before the measured window: JIT, first snapshots
STALLED_S_MAX = 60.0
SAMPLED_ENTITIES = 20
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class CpuLog:
    """CPU seconds of each part of the cluster over time, sampled from /proc."""

    info: ClusterInfo
    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> CpuLog:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def between(self, start_s: float, end_s: float) -> dict[str, float]:
        """CPU seconds that each part used between two wall-clock times."""
        times = [time_s for time_s, _ in self.samples]
        found = {}
        for part in self.samples[-1][1]:
            used = [by_part.get(part, 0.0) for _, by_part in self.samples]
            found[part] = float(np.interp(end_s, times, used) - np.interp(start_s, times, used))
        return found

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            used = {part: cpu_seconds(pid) for part, pid in self.info.pids.items()}
            used["python"] = sum(map(cpu_seconds, cluster.worker_pids(self.info)))
            self.samples.append((time.time(), used))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def main() -> None:
    """Measure both formats and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrow-events", type=int, default=4_000_000)
    parser.add_argument("--json-events", type=int, default=2_400_000)
    parser.add_argument("--parallelism", type=int, default=2)
    given = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-") as folder:
        spec = ClusterSpec(Path(folder), slots=given.parallelism, ports=Ports.free())
        info = cluster.up(spec, narrate)
        try:
            for form, events in (("arrow", given.arrow_events), ("json", given.json_events)):
                figures |= measure(info, form, events, given.parallelism)
        finally:
            cluster.down(info.directory)
    print(json.dumps(figures))


def measure(info: ClusterInfo, form: str, events: int, parallelism: int) -> dict[str, float]:
    """Preload a topic of one format, drain it, check the scores; returns the figures."""
    sample_machines = len(list((BUNDLED / "sample").glob("*.test.parquet")))
    topic = f"bench-{form}"
    report = produce(
        ProduceRequest(
            BUNDLED / "sample",
            topic,
            info.bootstrap_servers,
            data_format=form,  # type: ignore[arg-type]
            selection=Selection(replicas=ENTITIES // sample_machines, limit=events),
            create_topic_partitions=PARTITIONS,
        ),
        narrate,
    )
    config = job(info, topic, parallelism)
    artifact = preflight.load_artifact(config)
    assert config.scores.topic is not None
    create_stamped(info, config.scores.topic)
    with CpuLog(info) as cpu:
        job_id = run(config, narrate=narrate)
        await_drained(info, config.scores.topic)
    checkpoints = FlinkRest(info.flink_rest_url).checkpoints(job_id)
    FlinkRest(info.flink_rest_url).cancel(job_id)
    stamps, scores = read_scores(info, config.scores.topic)
    check(config, artifact, scores, report.well_formed)
    times, counts = np.array(sorted(stamps)).T
    total = np.cumsum(counts)
    first = int(np.searchsorted(total, WARM_UP * total[-1]))
    seconds, measured = times[-1] - times[first], total[-1] - total[first]
    done = [c["state_size"] for c in checkpoints["history"] if c["status"] == "COMPLETED"]
    used = cpu.between(times[first], times[-1])
    parts = ", ".join(f"{part} {s / measured * 1e6:.1f}" for part, s in used.items() if s > 0.1)
    narrate(
        f"{form}: {measured:,.0f} events in {seconds:.1f} s after {WARM_UP:.0%} warm-up, "
        f"{report.value_bytes / events:.0f} bytes an event, checkpoints every "
        f"{config.flink.checkpoint_interval_s:g} s of up to {max(done, default=0) / 1e6:.0f} MB, "
        f"scores at least once; CPU seconds per million: {parts}"
    )
    return {
        f"{form}_events_s": round(measured / seconds),
        f"{form}_cpu_s_per_million": round(sum(used.values()) / measured * 1e6, 2),
    }


def job(info: ClusterInfo, topic: str, parallelism: int) -> Config:
    """The live job over `topic`."""
    outputs = ("scores", "alerts", "drift", "dead_letters")
    return from_dict(
        {
            "artifact": str(BUNDLED / "artifact"),
            "name": topic,
            "kafka": {"bootstrap_servers": info.bootstrap_servers},
            "input": {"topic": topic},
            "scoring": {"shards": 2 * parallelism},
            **{name: {"topic": f"{topic}.{name}"} for name in outputs},
            "flink": {
                "job_endpoint": info.job_endpoint,
                "rest_url": info.flink_rest_url,
                "worker_endpoint": info.worker_endpoint,
                "parallelism": parallelism,
            },
        }
    )


def create_stamped(info: ClusterInfo, topic: str) -> None:
    """Create a topic whose messages carry the broker's clock."""
    admin = AdminClient({"bootstrap.servers": info.bootstrap_servers})
    stamped = NewTopic(topic, PARTITIONS, config={"message.timestamp.type": "LogAppendTime"})
    admin.create_topics([stamped])[topic].result(30)


def await_drained(info: ClusterInfo, topic: str) -> None:
    """Wait until the scores topic has not grown for a while."""
    consumer, parts = consumer_of(info, topic)
    last, since, quiet_s = -1, time.monotonic(), 8.0
    while time.monotonic() - since < (quiet_s if last > 0 else STALLED_S_MAX):
        size = sum(consumer.get_watermark_offsets(part, timeout=10)[1] for part in parts)
        if size != last:
            last, since = size, time.monotonic()
        time.sleep(0.5)  # a look twice a second costs the run nothing
    consumer.close()


def read_scores(info: ClusterInfo, topic: str) -> tuple[list[tuple[float, int]], pa.Table]:
    """(append time in seconds, events) of each message, and all scores."""
    consumer, parts = consumer_of(info, topic)
    consumer.assign(parts)
    left = sum(consumer.get_watermark_offsets(part, timeout=10)[1] for part in parts)
    stamps, batches = [], []
    while left:
        for message in consumer.consume(min(left, 1_000), 10):
            with pa.ipc.open_stream(pa.py_buffer(message.value())) as reader:
                found = list(reader)
            batches += found
            stamps.append((message.timestamp()[1] / 1000, sum(len(b) for b in found)))
            left -= 1
    consumer.close()
    return stamps, pa.Table.from_batches(batches)


def consumer_of(info: ClusterInfo, topic: str) -> tuple[Consumer, list[TopicPartition]]:
    """A consumer, and the first offsets of the partitions of `topic`."""
    settings = {"bootstrap.servers": info.bootstrap_servers, "group.id": "bench"}
    consumer = Consumer({**settings, "auto.offset.reset": "earliest"})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    return consumer, [TopicPartition(topic, partition, 0) for partition in partitions]


def check(config: Config, artifact: preflight.Artifact, scores: pa.Table, expected: int) -> None:
    """Check that every event was scored and that some entities are bit-equal to an offline run."""
    events = list(
        zip(*(scores.column(n).to_pylist() for n in ("partition", "offset", "row")), strict=True)
    )
    distinct = len(set(events))
    if distinct != expected:
        sys.exit(f"{config.input.topic}: {expected} events must be scored; {distinct} were")
    live = dict(zip(events, scores.column("score").to_numpy().tolist(), strict=True))
    source = graph.source(config, artifact)
    scorer = Scorer(artifact, config.scoring.policy, config.alerts.policy)
    table, chosen = EntityTable(scorer.layout), None
    for block in read_range(source, resolve_ranges(config, 1, "earliest", "latest")[0]):
        if chosen is None:
            chosen = pa.array(block.entities()[0][:SAMPLED_ENTITIES])
        for score, event in offline(scorer, table, block, chosen):
            if live[event] != score:
                sys.exit(f"{event}: the score must be {score!r} as offline; it is {live[event]!r}")


def offline(scorer: Scorer, table: EntityTable, block: Block, chosen: pa.Array) -> zip:
    """(score, event) of the chosen entities' events of a block."""
    kept = np.flatnonzero(pa.compute.is_in(block.entity_id, value_set=chosen).to_numpy(False))
    scored = scorer.step(table, block.take(kept, block.previous_end))
    names = zip(itertools.repeat(block.partition), scored.block.offset.tolist(),
                scored.block.row.tolist())  # fmt: skip
    return zip(scored.score.tolist(), names, strict=False)


def narrate(line: str) -> None:
    """Write a progress line to stderr; stdout is for the figures."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
