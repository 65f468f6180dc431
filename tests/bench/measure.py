"""Measures one run of one peer over a preloaded topic, from empty state."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import cluster_jobs, gate, topics
from bench.catalogue import Peer
from bench.cluster_jobs import Place
from bench.load import Load
from bench.process_tree import Watch
from streamgauge.infra.errors import PartError
from streamgauge.infra.processes.process import (
    ProcessRecord,
    log_tail,
    marked,
    spawn,
    stop,
    wait_until,
)
from streamgauge.pipeline.config import Config

WARM_UP = 0.25  # share of the scores before the measured window: JIT, imports, first state
ENVIRONMENT_MARK = "STREAMGAUGE_BENCH"
Narrate = Callable[[str], None]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Setting:
    """Settings that all runs share."""

    place: Place
    work: Path
    environments: Path
    artifact: Path
    weights: dict[str, np.ndarray]
    narrate: Narrate

    @property
    def weights_path(self) -> Path:
        """The weights as the peers read them."""
        return self.work / "weights.npz"


@dataclass(frozen=True)
class Input:
    """A preloaded topic."""

    load: Load
    topic: str
    #: Scores of streamgauge's scorer, computed once per topic.
    product_scores: dict[int, float] = field(default_factory=dict)


@dataclass
class Running:
    """A peer at work."""

    out: str
    pids: Callable[[], list[int]]
    #: Kills every process that computes with `kill -9`. The peer's supervisor starts them again,
    #: or this function does. Returns the wall-clock time at which all of them had ended.
    kill: Callable[[], float]
    #: Set when it has ended.
    about: dict[str, float] = field(default_factory=dict)


def drain(setting: Setting, peer: Peer, given: Input, seconds_max: float) -> dict[str, Any]:
    """Let a peer drain a topic; returns figures, all for the time after the warm-up.

    Raises:
        WrongScoresError: its scores are not those of the replay.
        TimeoutError, OSError: it did not start, or made no progress.
    """
    with running(setting, peer, given.topic) as peer_run:
        known = (setting.place.broker_pid,)
        with Watch(peer_run.pids, known) as watch:
            servers, out = setting.place.servers, peer_run.out
            is_whole = topics.await_quiet(servers, out, seconds_max, lambda: bool(peer_run.pids()))
    scored = topics.read(servers, out)
    topics.delete(servers, out)
    check(setting, peer, given, scored, is_whole)
    return {**figures(scored, watch), **peer_run.about, "is_whole": is_whole}


def check(
    setting: Setting, peer: Peer, given: Input, scored: topics.Scored, is_whole: bool
) -> None:
    """Compare the scores of a run with a replay, as far as its detector allows."""
    if peer.detector == "gru":
        gate.check(given.load, scored, setting.weights, is_whole)
        return
    gate.check_all_scored(given.load, scored, is_whole)
    if peer.detector == "ours":
        gate.check_equal(scored, product_scores(setting, given))


def product_scores(setting: Setting, given: Input) -> dict[int, float]:
    """Scores of some entities by streamgauge's scorer, offline; computed once."""
    if not given.product_scores:
        config = cluster_jobs.job_config(
            setting.place, setting.artifact, given.topic, f"{given.topic}.offline"
        )
        given.product_scores.update(cluster_jobs.product_scores(config))
    return given.product_scores


def figures(scored: topics.Scored, watch: Watch) -> dict[str, Any]:
    """Rate, CPU and memory between the end of the warm-up and the last score."""
    stamps_s = np.sort(scored.stamp_ms) / 1000
    first = int(WARM_UP * len(stamps_s))
    first = int(np.searchsorted(stamps_s, stamps_s[first], side="right")) - 1
    start_s, end_s = float(stamps_s[first]), float(stamps_s[-1])
    measured, seconds = len(stamps_s) - 1 - first, max(end_s - start_s, 1e-9)
    cpu = watch.cpu_seconds(start_s, end_s)
    in_first_half = np.searchsorted(stamps_s, (start_s + end_s) / 2, side="right") - 1 - first
    by_name = {
        name: round(used / max(measured, 1) * 1e6, 2)
        for name, used in watch.cpu_by_name(start_s, end_s).items()
    }
    return {
        "events": len(stamps_s),
        "seconds": round(seconds, 2),
        "events_s": round(measured / seconds),
        "cpu_s_per_million": round(cpu / max(measured, 1) * 1e6, 2),
        # In a steady run both halves of the time have the same number of scores.
        "second_half_to_first": round(float(measured - in_first_half) / max(in_first_half, 1), 2),
        "cpu_by_program": by_name,
        "resident_mb": round(watch.resident_bytes(start_s, end_s) / 1e6),
        "cores_outside": round(watch.cores_outside(start_s, end_s), 2),
    }


@contextmanager
def running(
    setting: Setting, peer: Peer, topic: str, shards: int = cluster_jobs.SHARDS
) -> Iterator[Running]:
    """A peer reading `topic` from its beginning for the duration of a `with` block."""
    number = next(_numbers)
    out = f"out-{number}"
    topics.create(setting.place.servers, out, 1, by_brokers_clock=True)
    if peer.on_flink:
        config = cluster_jobs.job_config(setting.place, setting.artifact, topic, out, shards)
        with _job(setting, peer, config) as found:
            yield found
    else:
        with _process(setting, peer, topic, out) as found:
            yield found


@contextmanager
def _job(setting: Setting, peer: Peer, config: Config) -> Iterator[Running]:
    place = setting.place
    job_id = cluster_jobs.start(peer, place, config, setting.weights_path, lambda text: None)
    assert config.scores.topic is not None
    found = Running(config.scores.topic, place.flink_pids, lambda: cluster_jobs.kill(place))
    try:
        yield found
    except TimeoutError as error:
        raise TimeoutError(f"{error}; {cluster_jobs.last_failure(place, job_id)}") from None
    finally:
        found.about |= cluster_jobs.finish(place, job_id)


@contextmanager
def _process(setting: Setting, peer: Peer, topic: str, out: str) -> Iterator[Running]:
    place, work = setting.place, setting.work / out
    work.mkdir(parents=True)
    command, added = peer.command(setting.environments)
    told = {"servers": place.servers, "topic": topic, "out": out, "form": peer.form,
            "weights": setting.weights_path, "work": work, "durable-s": peer.durable_s}  # fmt: skip
    for name, value in told.items():
        command += [f"--{name}", str(value)]
    log, mark = work / "log", f"{ENVIRONMENT_MARK}={work}"
    environment = peer_environment(added) | {ENVIRONMENT_MARK: str(work)}
    started: list[ProcessRecord] = []

    def start() -> None:
        os.sched_setaffinity(0, {place.peer_core})  # children inherit it
        try:
            started.append(spawn(command, environment, log))
        finally:
            os.sched_setaffinity(0, {place.broker_core})

    def kill() -> float:
        for pid in marked(mark):
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not (started[-1].is_alive() or marked(mark)), 5.0)
        gone_s = time.time()
        start()
        return gone_s

    start()
    try:
        yield Running(out, lambda: marked(mark), kill)
    except (TimeoutError, ChildProcessError) as error:
        raise type(error)(f"{error}; its log ends with:\n{log_tail(log)}") from None
    finally:
        _end(started[-1], mark)


def peer_environment(added: dict[str, str]) -> dict[str, str]:
    """The environment variables of a peer, without those of this project."""
    one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "JAVA_HOME") if name in os.environ}
    path = os.environ.get("PATH", os.defpath)
    if first := added.get("PATH_FIRST"):
        path = f"{first}{os.pathsep}{path}"
    return {**kept, **one_thread, **added, "PATH": path}


def _end(started: ProcessRecord, mark: str) -> None:
    """Kill a peer and all its children; its scores are in the topic."""
    stop([started], grace_s=3.0)
    left = []
    for pid in marked(mark):
        with contextlib.suppress(PartError):  # it ended meanwhile
            left.append(ProcessRecord.of(pid))
    stop(left, grace_s=3.0)
