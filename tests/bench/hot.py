"""Measures the latency of all other entities while one entity has half the traffic."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench import load, topics
from bench.catalogue import Peer
from bench.latency import TICK_S, WARM_UP_S
from bench.load import Load
from bench.measure import Setting, running

HOT = 0  # the entity with half of all events
HOT_RATE = 20_000.0


def measure(setting: Setting, peer: Peer, entities: int, seconds: float) -> dict[str, Any]:
    """p99 of the other entities at the same rate with and without a hot one, and their ratio.

    Raises:
        TimeoutError, OSError: the peer did not start.
    """
    even = _p99_ms(setting, peer, Load(entities, int(HOT_RATE * seconds)), seconds, HOT_RATE)
    events = int(2 * HOT_RATE * seconds)
    hot = _p99_ms(setting, peer, Load(entities, events, "hot"), seconds, 2 * HOT_RATE)
    return {
        "hot_rate": HOT_RATE,
        "others_p99_ms": hot,
        "others_p99_ms_without": even,
        "others_p99_ratio": round(hot / even, 2),
    }


def _p99_ms(setting: Setting, peer: Peer, given: Load, seconds: float, rate: float) -> float:
    """p99 of the entities that are not hot, from the moment their events were due."""
    servers, topic = setting.place.servers, f"hot-{time.monotonic_ns()}"
    topics.create(servers, topic, load.PARTITIONS)
    with running(setting, peer, topic) as run:
        load.publish(Load(given.entities, 64), peer.form, topic, servers)
        topics.await_quiet(servers, run.out, seconds_max=1.0)
        began_s = time.time()
        load.offer(given, peer.form, topic, servers, rate, TICK_S, began_s)
        topics.await_quiet(servers, run.out, seconds_max=30.0)
    scored = topics.read(servers, run.out)
    for name in (topic, run.out):
        topics.delete(servers, name)
    due_us = load.due_us(np.arange(given.events), began_s, rate)
    counted = scored.time_us >= (began_s + min(WARM_UP_S, seconds / 2)) * 1e6
    number = np.searchsorted(due_us, scored.time_us[counted])
    latency_ms = scored.stamp_ms[counted] - scored.time_us[counted] / 1000
    others = given.entity[number] != HOT
    return round(float(np.percentile(latency_ms[others], 99)), 1)
