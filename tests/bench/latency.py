"""Measures latency from the due time of an event to the broker's receipt of its score.

Open loop: events are sent by the clock, whatever happens to them. An event that is sent late
keeps its due time. With one broker a message is readable once it is
appended, and the broker stamps it then.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from bench import load, topics
from bench.catalogue import Peer
from bench.load import Load
from bench.measure import Setting, running

TICK_S = 0.005  # events of a tick are sent together, at its end
PRELUDE_EVENTS = 64  # sent first and awaited, so that no start is measured
WARM_UP_S = 5.0
LATE_SENDER_S_MAX = 0.25  # beyond it the figure would be that of the sender


def measure(
    setting: Setting, peer: Peer, given: Load, rate: float, seconds: float
) -> dict[str, Any]:
    """Latency percentiles in milliseconds of a peer at `rate` events/s.

    Raises:
        TimeoutError, OSError: it did not start.
    """
    servers = setting.place.servers
    topic = f"latency-{time.monotonic_ns()}"
    topics.create(servers, topic, load.PARTITIONS)
    offered = replace(given, events=int(rate * (seconds + WARM_UP_S)))
    with running(setting, peer, topic) as peer_run:
        prelude = replace(given, events=PRELUDE_EVENTS)
        load.publish(prelude, peer.form, topic, servers)
        topics.await_quiet(servers, peer_run.out, seconds_max=1.0)
        began_us = time.time() * 1e6
        late_s = load.offer(offered, peer.form, topic, servers, rate, TICK_S)
        topics.await_quiet(servers, peer_run.out, seconds_max=30.0)
    scored = topics.read(servers, peer_run.out)
    for name in (topic, peer_run.out):
        topics.delete(servers, name)
    counted = scored.time_us >= began_us + WARM_UP_S * 1e6
    latency_ms = scored.stamp_ms[counted] - scored.time_us[counted] / 1000
    p50, p95, p99 = np.percentile(latency_ms, [50, 95, 99]).round(1).tolist()
    found = {"rate": round(rate), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
    missing = offered.events + PRELUDE_EVENTS - len(scored.time_us)
    return {**found, "unscored": missing, "sender_late_ms": round(late_s * 1000),
            "is_valid": late_s <= LATE_SENDER_S_MAX and missing == 0}  # fmt: skip
