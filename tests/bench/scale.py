"""A million entities on this machine: cost, memory, checkpoints, and the way back after a kill.

Every entity has an event in each pass over all of them. After the passes a few entities are
touched between two checkpoints, which shows what an incremental one holds; then the
TaskManager is killed while events come in, and timed until the last of their scores is out.
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
from artifacts import make_artifact
from bench import cluster_jobs, gate, load, measure, process_tree, topics
from bench.catalogue import BY_NAME
from bench.load import FEATURES, HIDDEN, Load
from bench.measure import Setting
from bench.process_tree import Watch

from infra import cluster
from infra.flink_rest import FlinkRest
from infra.processes import wait_until
from models import artifact as artifacts
from models.scorer import Scorer, ScoringPolicy
from pipeline.config import Alerts

ARROW = BY_NAME["streamgauge, Arrow"]
FEW, MANY = 10_000, 1_000_000
TOUCHED = 10_000
DRAIN_S_MAX = 600.0
SHARD_ENTITIES_MAX = 50_000
CHECKPOINT_S_MAX = 120.0
RESTORE_S_MAX = 180.0


def measure_scale(setting: Setting, events: int, many: int = MANY) -> dict[str, Any]:
    """Figures at few and at many entities; `events` are drained at each."""
    few = _drained(setting, Load(FEW, events, "sweep"), None)
    more = _drained(setting, Load(many, max(events, 2 * many), "sweep"), setting.place)
    # What a worker grows by besides, for blocks and buffers, is the same for both.
    grown = (more["worker_bytes"] - few["worker_bytes"]) / (many - FEW)
    return {
        "few": few,
        "many": more,
        "row_bytes": _row_bytes(setting),
        "memory_bytes_per_entity": round(grown),
        "cost_many_vs_few": round(more["cpu_s_per_million"] / few["cpu_s_per_million"], 3),
    }


def _drained(setting: Setting, whole: Load, place: cluster_jobs.Place | None) -> dict[str, Any]:
    """One job over a sweep; with `place` also checkpoints and a kill."""
    servers, topic = setting.place.servers, f"in-sweep-{whole.entities}"
    topics.create(servers, topic, load.PARTITIONS)
    load.publish(whole, "arrow", topic, servers)
    shards = max(cluster_jobs.SHARDS, whole.entities // SHARD_ENTITIES_MAX)
    with measure.running(setting, ARROW, topic, shards) as run:
        empty = _worker_bytes(setting)
        with Watch(run.pids, (setting.place.broker_pid,)) as watch:
            is_whole = topics.await_quiet(servers, run.out, DRAIN_S_MAX)
        if not is_whole:
            raise TimeoutError(f"{whole.events:,} events must be drained in {DRAIN_S_MAX:.0f} s")
        found: dict[str, Any] = {"entities": whole.entities}
        grown = _worker_bytes(setting) - empty
        found["worker_bytes"] = grown
        scored = topics.read(servers, run.out)
        gate.check_all_scored(whole, scored, is_whole=True)
        found |= measure.figures(scored, watch)
        if place is not None:
            found |= _checkpoints(setting, run, whole, topic)
            found |= _restore(setting, run, whole, topic)
    for name in (topic, run.out):
        topics.delete(servers, name)
    return found


def _checkpoints(setting: Setting, run: measure.Running, whole: Load, topic: str) -> dict[str, Any]:
    """The size of a whole checkpoint, and of the one after a few entities were touched."""
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


def _restore(setting: Setting, run: measure.Running, whole: Load, topic: str) -> dict[str, Any]:
    """Seconds from the kill of the TaskManager to the score of the last event sent meanwhile."""
    info, servers = setting.place.info, setting.place.servers
    cluster.kill_part(info, "taskmanager-0")
    killed_s = time.time()
    cluster.await_part(info, "taskmanager-0")  # its supervisor starts another
    process_tree.pin(info.pids["taskmanager-0"], setting.place.peer_core)
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
    """The load with some more events; the first of them are the same."""
    return replace(whole, events=whole.events + times * TOUCHED)


def _job_id(rest: FlinkRest, name: str) -> str:
    return next(job.job_id for job in rest.jobs() if job.name == name and job.state == "RUNNING")


def _worker_bytes(setting: Setting) -> int:
    """Memory of the Python workers."""
    return sum(map(process_tree.resident, cluster.worker_pids(setting.place.info)))


def _row_bytes(setting: Setting) -> int:
    """What the entity table itself keeps per entity."""
    artifact = artifacts.load(setting.artifact)
    return Scorer(artifact, ScoringPolicy(), Alerts()).layout.dtype.itemsize


def main() -> None:
    """Measure it alone; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--entities", type=int, default=MANY)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamgauge-scale-") as folder:
        work = Path(folder)
        artifact = make_artifact(work / "artifact", FEATURES, HIDDEN)
        weights = gate.save_weights(artifacts.load(artifact), work / "weights.npz")
        with cluster_jobs.place(work / "cluster", cluster_jobs.cores(), print) as place:
            setting = Setting(place, work, work / "env", artifact, weights, print)
            print(json.dumps(measure_scale(setting, given.events, given.entities)))


if __name__ == "__main__":
    main()
