"""Measures a million entities on one machine: cost, memory, checkpoints and recovery.

Every entity sends one event per pass, with at least four passes. The first pass creates the rows
and is the warm-up. After the passes, a few entities send events between two checkpoints, which
shows the size of an incremental checkpoint. Then the TaskManager is killed while events arrive,
and the time until the last of their scores is measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import cluster_jobs, gate, load, process_tree, topics
from bench.catalogue import BY_NAME
from bench.load import FEATURES, HIDDEN, Load
from bench.measure import Running, Setting, figures, running
from bench.process_tree import Watch
from fixtures.artifacts import make_artifact
from streamgauge.infra.flink_rest import FlinkRest
from streamgauge.infra.local import cluster
from streamgauge.infra.processes.process import wait_until
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer

ARROW = BY_NAME["streamgauge, Arrow"]
ENTITIES = (10_000, 100_000, 1_000_000)
TOUCHED = 10_000
DRAIN_S_MAX = 600.0
SNAPSHOT_ENTITIES_S = 12_000  # in the longest pause that was seen, and some
SHARD_ENTITIES_MAX = 50_000
CHECKPOINT_S_MAX = 120.0
RESTORE_S_MAX = 180.0


def measure(
    setting: Setting, events: int, entities: int, shards: int | None = None
) -> dict[str, Any]:
    """Figures at `entities`; at least `events` are drained, and four per entity."""
    shards = shards or max(cluster_jobs.SHARDS, entities // SHARD_ENTITIES_MAX)
    return _drained(setting, Load(entities, max(events, 4 * entities), "sweep"), shards)


def compared(setting: Setting, sizes: dict[str, Any]) -> dict[str, Any]:
    """Figures that compare few and many entities."""
    found: dict[str, Any] = {"row_bytes": _row_bytes(setting)}
    few, many = (sizes.get(str(entities), {}) for entities in (min(ENTITIES), max(ENTITIES)))
    if "entities" in few and "entities" in many:
        # The rest of a worker's growth, for blocks and buffers, is the same for both.
        grown = many["worker_bytes"] - few["worker_bytes"]
        found["memory_bytes_per_entity"] = round(grown / (many["entities"] - few["entities"]))
        ratio = many["cpu_s_per_million"] / few["cpu_s_per_million"]
        found["cost_many_vs_few"] = round(ratio, 3)
    return found


def _drained(setting: Setting, whole: Load, shards: int) -> dict[str, Any]:
    """One job over a sweep, its checkpoints, and a kill."""
    servers, topic = setting.place.servers, f"in-sweep-{whole.entities}"
    topics.create(servers, topic, load.PARTITIONS)
    load.publish(whole, "arrow", topic, servers)
    # While a large table is copied, or its snapshot is read, no score is published.
    quiet_s = max(topics.QUIET_S, whole.entities / shards / SNAPSHOT_ENTITIES_S)
    with running(setting, ARROW, topic, shards) as run:
        empty = _worker_bytes(setting)
        with Watch(run.pids, (setting.place.broker_pid,)) as watch:
            is_whole = topics.await_quiet(servers, run.out, DRAIN_S_MAX, quiet_s=quiet_s)
        if not is_whole:
            raise TimeoutError(f"{whole.events:,} events must be drained in {DRAIN_S_MAX:.0f} s")
        found: dict[str, Any] = {"entities": whole.entities, "shards": shards}
        grown = _worker_bytes(setting) - empty
        found["worker_bytes"] = grown
        scored = topics.read(servers, run.out)
        gate.check_all_scored(whole, scored, is_whole=True)
        found |= figures(scored, watch)
        found |= _checkpoints(setting, run, whole, topic)
        found |= _restore(setting, run, whole, topic)
    for name in (topic, run.out):
        topics.delete(servers, name)
    return found


def _checkpoints(setting: Setting, run: Running, whole: Load, topic: str) -> dict[str, Any]:
    """The size of a full checkpoint, and of the one after a few entities sent events."""
    rest = FlinkRest(setting.place.info.flink_rest_url)
    job_id = _job_id(rest, run.out)
    rest.trigger_checkpoint(job_id, CHECKPOINT_S_MAX)
    before = topics.size(setting.place.servers, run.out)
    load.publish(_more(whole, 1), "arrow", topic, setting.place.servers, whole.events)
    wait_until(lambda: topics.size(setting.place.servers, run.out) > before, 60.0)
    topics.await_quiet(setting.place.servers, run.out, 60.0)
    number = rest.trigger_checkpoint(job_id, CHECKPOINT_S_MAX)
    history = {one["id"]: one for one in rest.checkpoints(job_id)["history"]}
    done = [one for one in history.values() if one["status"] == "COMPLETED"]
    largest = max(one["state_size"] for one in done)
    touched = max(one["checkpointed_size"] for one in done if one["id"] >= number - 1)
    return {
        "checkpoint_bytes_per_entity": round(largest / whole.entities),
        "checkpoint_bytes_per_touched": round(touched / TOUCHED),
        "checkpoint_s_max": max(one["end_to_end_duration"] for one in done) / 1000,
    }


def _restore(setting: Setting, run: Running, whole: Load, topic: str) -> dict[str, Any]:
    """Seconds from the kill of the TaskManager to the score of the last event sent meanwhile."""
    servers, killed_s = setting.place.servers, run.kill()
    last = _more(whole, 2)
    load.publish(last, "arrow", topic, servers, whole.events + TOUCHED)
    wanted = set(last.time_us[-TOUCHED:].tolist())
    deadline, found = time.monotonic() + RESTORE_S_MAX, None
    while time.monotonic() < deadline:
        topics.await_quiet(servers, run.out, 60.0)
        scored = topics.read(servers, run.out)
        fresh = np.isin(scored.time_us, np.array(sorted(wanted)))
        if len(np.unique(scored.time_us[fresh])) == TOUCHED:
            found = round(float(scored.stamp_ms[fresh].max()) / 1000 - killed_s, 1)
            break
    return {"restore_s": found}


def _more(whole: Load, times: int) -> Load:
    """The load with more events; its first events are the same."""
    return replace(whole, events=whole.events + times * TOUCHED)


def _job_id(rest: FlinkRest, name: str) -> str:
    return next(job.job_id for job in rest.jobs() if job.name == name and job.state == "RUNNING")


def _worker_bytes(setting: Setting) -> int:
    """Memory of the Python workers."""
    return sum(map(process_tree.resident, cluster.worker_pids(setting.place.info)))


def _row_bytes(setting: Setting) -> int:
    """Bytes of an entity's row in the table."""
    artifact = artifacts.load(setting.artifact)
    return Scorer(artifact, ScoringPolicy(), AlertPolicy()).layout.dtype.itemsize


def main() -> None:
    """Measure it alone; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--entities", type=int, default=max(ENTITIES))
    parser.add_argument("--shards", type=int, help="else one for 50,000 entities")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamgauge-scale-") as folder:
        work = Path(folder)
        artifact = make_artifact(work / "artifact", FEATURES, HIDDEN)
        weights = gate.save_weights(artifacts.load(artifact), work / "weights.npz")
        with cluster_jobs.place(work / "cluster", cluster_jobs.cores(), print) as place:
            setting = Setting(place, work, work / "env", artifact, weights, print)
            print(json.dumps(measure(setting, given.events, given.entities, given.shards)))


if __name__ == "__main__":
    main()
