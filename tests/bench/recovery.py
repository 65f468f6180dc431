"""Measures recovery: `kill -9` of a peer under load, then time and lost or wrong scores.

Events are sent at one rate, by the clock. Every process that computes is killed once and started
again, by its supervisor or by the benchmark. Then all events are checked: the time from the kill
to the first new correct score and to the end of the backlog; and the number of scores that are
lost, repeated or wrong. A repeated score with the right value is no fault: consumers drop it.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from bench import cluster_jobs, gate, load, topics
from bench.catalogue import BY_NAME, Peer
from bench.load import Load
from bench.measure import Running, Setting, running
from bench.topics import Scored
from streamgauge.infra.processes.process import wait_until

RATE = 2_000.0  # events/s, which all of them can do
BEFORE_S, AFTER_S = 14.0, 22.0  # the kill comes after a checkpoint or commit, during work
BACK_S_MAX = 60.0
TICK_S = 0.005
IN_FLIGHT_S = 0.25  # the broker may still append messages that were sent before the kill
SETTLED_S = 1.0  # an event that is scored this soon after its due time met no backlog
PRELUDE_EVENTS = 64
CHECKED_ONE_IN = 8  # entities whose scores are compared with a replay
KILLED = ("streamgauge, Arrow", "hand loop, Arrow", "Quix Streams", "Bytewax")


def measure(setting: Setting, peer: Peer, entities: int) -> dict[str, Any]:
    """Seconds until recovery, and lost, repeated and wrong scores.

    Raises:
        TimeoutError, OSError: it did not start.
    """
    servers, topic = setting.place.servers, f"recovery-{time.monotonic_ns()}"
    topics.create(servers, topic, load.PARTITIONS)
    offered = Load(entities, PRELUDE_EVENTS + int(RATE * (BEFORE_S + AFTER_S)))
    with running(setting, peer, topic) as run:
        _await_first_score(servers, run, offered, peer, topic)
        began_s = time.time() + 0.5
        sender = threading.Thread(
            target=load.offer,
            args=(offered, peer.form, topic, servers, RATE, TICK_S, began_s, PRELUDE_EVENTS),
        )
        sender.start()
        time.sleep(began_s + BEFORE_S - time.time())  # the load continues by the clock meanwhile
        killed_s = run.kill()
        sender.join()
        wanted = offered.events
        wait_until(lambda: len(np.unique(topics.read(servers, run.out).time_us)) >= wanted,
                   BACK_S_MAX, poll_s=2.0)  # fmt: skip
        scored = topics.read(servers, run.out)
    due_us = due_times(offered, began_s)
    replayed = _replay(setting, peer, offered, topic, due_us)
    for name in (topic, run.out):
        topics.delete(servers, name)
    return judge(scored, due_us, replayed, killed_s, exact=peer.detector == "ours")


def judge(
    scored: Scored, due_us: np.ndarray, replayed: np.ndarray, killed_s: float, exact: bool
) -> dict[str, Any]:
    """Figures from the scores of a run.

    Args:
        scored: all scores, repeated ones included.
        due_us: (N,) ascending, when each event was due.
        replayed: (N,) its score offline; NaN where it was not computed.
        killed_s: the time of the kill.
        exact: whether scores must be bit-equal to the replay.
    """
    number = np.searchsorted(due_us, scored.time_us)
    wanted = replayed[number]
    is_checked = ~np.isnan(wanted)
    error = np.abs(scored.score - wanted) / np.maximum(wanted, 1e-9)
    is_wrong = is_checked & (error > (0.0 if exact else gate.RELATIVE_ERROR_MAX))
    stamp_s = scored.stamp_ms / 1000
    events, first = np.unique(number, return_index=True)
    is_new = np.zeros(len(number), bool)
    is_new[first] = True  # the broker's order: the first score of each event
    back = stamp_s[is_new & ~is_wrong & (stamp_s > killed_s + IN_FLIGHT_S)]
    late = stamp_s[is_new & (stamp_s - due_us[number] / 1e6 > SETTLED_S)]
    late = late[late > killed_s]
    return {
        "events": len(due_us),
        "first_score_s": round(float(back.min()) - killed_s, 1) if len(back) else None,
        "lag_zero_s": round(float(late.max()) - killed_s, 1) if len(late) else 0.0,
        "lost": len(due_us) - len(events),
        "repeated": len(number) - len(events),
        "wrong": int(is_wrong.sum()),
        "checked": int(is_checked.sum()),
    }


def due_times(offered: Load, began_s: float) -> np.ndarray:
    """Due time of each event: by the prelude's clock, then by the sender's."""
    later = np.arange(PRELUDE_EVENTS, offered.events)
    prelude = offered.time_us[:PRELUDE_EVENTS]
    return np.concatenate([prelude, load.due_us(later, began_s, RATE, PRELUDE_EVENTS)])


def _await_first_score(servers: str, run: Running, offered: Load, peer: Peer, topic: str) -> None:
    prelude = Load(offered.entities, PRELUDE_EVENTS, offered.skew, offered.seed)
    load.publish(prelude, peer.form, topic, servers)
    if not wait_until(lambda: topics.size(servers, run.out) > 0, topics.FIRST_SCORE_S_MAX):
        raise TimeoutError(f"no score after {topics.FIRST_SCORE_S_MAX:.0f} s")


def _replay(
    setting: Setting, peer: Peer, offered: Load, topic: str, due_us: np.ndarray
) -> np.ndarray:
    """(N,) scores offline of the events of some entities, NaN for the others."""
    found = np.full(offered.events, np.nan)
    entity = offered.entity[: offered.events]
    if peer.detector == "ours":
        config = cluster_jobs.job_config(setting.place, setting.artifact, topic, f"{topic}.offline")
        chosen = [offered.names[i] for i in range(0, offered.entities, CHECKED_ONE_IN)]
        for time_us, score in cluster_jobs.product_scores(config, chosen).items():
            found[np.searchsorted(due_us, time_us)] = score
        return found
    for one in range(0, offered.entities, CHECKED_ONE_IN):
        events = np.flatnonzero(entity == one)
        found[events] = gate.expected(setting.weights, offered.features(events))
    return found


def killed_peers(names: list[str]) -> list[Peer]:
    """The peers in `names` whose recovery is measured."""
    return [BY_NAME[name] for name in KILLED if name in names]
