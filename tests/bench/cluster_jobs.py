"""Jobs on the Flink cluster: streamgauge itself, and the peers that are Beam jobs."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa

from bench import process_tree
from bench.catalogue import DURABLE_S, Peer
from streamgauge.infra.flink_rest import FlinkRest
from streamgauge.infra.local import cluster
from streamgauge.infra.local.info import ClusterInfo, ClusterSpec
from streamgauge.infra.processes import parts
from streamgauge.infra.processes.ports import Ports
from streamgauge.infra.processes.process import marked
from streamgauge.models.blocks.block import Block
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import Config, from_dict
from streamgauge.pipeline.jobs import preflight
from streamgauge.pipeline.jobs.flink_options import beam_options
from streamgauge.pipeline.jobs.ranges import resolve_ranges
from streamgauge.pipeline.jobs.run import run
from streamgauge.transforms.sources.replay import read_range

SAMPLED_ENTITIES = 20
SHARDS = 2  # twice the parallelism, for at most some ten thousand entities each
TASK_MANAGER = "taskmanager-0"
TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Place:
    """A broker and a Flink cluster, each on a core of its own if there are two."""

    info: ClusterInfo
    broker_core: int
    peer_core: int

    @property
    def servers(self) -> str:
        """The broker."""
        return self.info.bootstrap_servers

    @property
    def broker_pid(self) -> int:
        """The broker's process, which no figure includes."""
        return self.info.pids["broker"]

    def flink_pids(self) -> list[int]:
        """All processes of the cluster but the broker: JVMs, pool, Python workers."""
        found = marked(f"{parts.MARK}={self.info.directory}")
        return [pid for pid in found if pid != self.broker_pid]


def cores() -> tuple[int, int]:
    """The core of the broker and the core of the peer."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def place(
    folder: Path, cores: tuple[int, int], narrate: cluster.lifecycle.Narrate
) -> Iterator[Place]:
    """A broker and a Flink cluster for the duration of a `with` block."""
    broker_core, peer_core = cores
    before = os.sched_getaffinity(0)
    spec = ClusterSpec(folder, slots=1, ports=Ports.free(), worker_paths=(TESTS,))
    # Started on the core of the peers, so that the JVMs see one processor as all peers do.
    os.sched_setaffinity(0, {peer_core})
    try:
        info = cluster.up(spec, narrate)
    finally:
        os.sched_setaffinity(0, {broker_core})
    found = Place(info, broker_core, peer_core)
    process_tree.pin(found.broker_pid, broker_core)
    try:
        yield found
    finally:
        cluster.down(info.directory)
        os.sched_setaffinity(0, before)


def job_config(place: Place, artifact: Path, topic: str, out: str, shards: int = SHARDS) -> Config:
    """The live job over `topic`, which writes its scores to `out`."""
    outputs = ("alerts", "drift", "dead_letters", "health")
    return from_dict(
        {
            "artifact": str(artifact),
            "name": out,
            "kafka": {"bootstrap_servers": place.servers},
            "input": {"topic": topic},
            "scoring": {"shards": shards, "entities_per_shard_max": 0},
            "scores": {"topic": out},
            **{name: {"topic": f"{out}.{name}"} for name in outputs},
            "flink": {
                "job_endpoint": place.info.job_endpoint,
                "rest_url": place.info.flink_rest_url,
                "worker_endpoint": place.info.worker_endpoint,
                "parallelism": 1,
                "checkpoint_interval_s": DURABLE_S,
            },
        }
    )


def start(
    peer: Peer, place: Place, config: Config, weights: Path, narrate: cluster.lifecycle.Narrate
) -> str:
    """Submit the job of a peer; returns its id once it runs."""
    if peer.folder is None:
        job_id = run(config, narrate=narrate)
        assert job_id is not None
        return job_id
    artifact = preflight.load_artifact(config)
    reading, kafka = graph.live_reading(config, artifact), graph.access(config)
    assert config.scores.topic is not None
    flink = config.flink
    options = beam_options(config, flink.job_endpoint, flink.worker_endpoint)
    pipeline = beam.Pipeline(options=options)
    build = importlib.import_module(peer.module).build
    build(pipeline, reading, kafka, config.scores.topic, str(weights))
    pipeline.run()
    rest, deadline = FlinkRest(flink.rest_url), time.monotonic() + 120
    while time.monotonic() < deadline:
        for job in rest.jobs():
            if job.name == config.name and job.state == "RUNNING":
                return job.job_id
        time.sleep(0.25)  # between two looks at a cluster that is deploying
    raise TimeoutError(f"{peer.name}: its job is not running after 120 s")


def kill(place: Place) -> float:
    """Kill the TaskManager and its Python workers; returns when all are gone."""
    for pid in cluster.worker_pids(place.info):
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, signal.SIGKILL)
    cluster.kill_part(place.info, TASK_MANAGER)  # waits until it is gone
    gone_s = time.time()
    cluster.await_part(place.info, TASK_MANAGER)  # its supervisor starts another
    process_tree.pin(place.info.pids[TASK_MANAGER], place.peer_core)
    return gone_s


def last_failure(place: Place, job_id: str) -> str:
    """The last failure that Flink reports."""
    failures = FlinkRest(place.info.flink_rest_url).job(job_id).exceptions
    return failures[0] if failures else "Flink knows of no failure"


def finish(place: Place, job_id: str) -> dict[str, float]:
    """Cancel the job; returns figures of its checkpoints."""
    rest = FlinkRest(place.info.flink_rest_url)
    history = rest.checkpoints(job_id)["history"]
    rest.cancel(job_id)
    done = [one for one in history if one["status"] == "COMPLETED"]
    return {
        "checkpoints": len(done),
        "checkpoint_mb_max": round(max((c["state_size"] for c in done), default=0) / 1e6, 1),
        "checkpoint_s_max": round(
            max((c["end_to_end_duration"] for c in done), default=0) / 1e3, 2
        ),
    }


def product_scores(config: Config, names: list[str] | None = None) -> dict[int, float]:
    """Scores by event time of some entities, from streamgauge's scorer offline."""
    artifact = preflight.load_artifact(config)
    source = graph.source(config, artifact)
    scorer = Scorer(artifact, config.scoring.policy, config.alerts.policy)
    table = EntityTable(scorer.layout)
    chosen = None if names is None else pa.array(names)
    found: dict[int, float] = {}
    for block in read_range(source, resolve_ranges(config, 1, "earliest", "latest")[0]):
        if chosen is None:
            chosen = pa.array(block.entities()[0][:SAMPLED_ENTITIES])
        found |= _scores_of(scorer, table, block, chosen)
    return found


def _scores_of(
    scorer: Scorer, table: EntityTable, block: Block, chosen: pa.Array
) -> dict[int, float]:
    kept = np.flatnonzero(pa.compute.is_in(block.entity_id, value_set=chosen).to_numpy(False))
    scored = scorer.step(table, block.take(kept, block.previous_end))
    return dict(zip(scored.block.event_time_us.tolist(), scored.score.tolist(), strict=True))
