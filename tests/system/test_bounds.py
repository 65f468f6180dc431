"""`make flood`: floods of new keys and one hot key leave memory bounded and others as quick."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from streamgauge.infra.local.info import ClusterInfo
from streamgauge.infra.narrate import Narrate
from streamgauge.models.blocks.scored_block import TOO_MANY_ENTITIES
from streamgauge.pipeline.config import Config
from system.harness import bounds, live
from system.harness.bounds import Flood, Honest, Probe, Watch
from system.harness.progress import narrator

pytestmark = [pytest.mark.system, pytest.mark.matrix, pytest.mark.timeout(1_200)]

PARTITIONS = 4
ENTITIES, HONEST_RATE = 1_000, 1_000.0
NEW_KEYS, NEW_KEYS_RATE = 1_000_000, 5_000.0
SETTLING_S, STRETCH_S = 20.0, 40.0
BOUNDED = {"shards": 4, "entities_per_shard_max": 1_000, "entity_ttl_s": 30, "warmup_events": 10}
HOT_RATE = 2_000.0  # events/s of the hot entity and all others together
HOT_EVENTS, HOT_EVENTS_S = 100_000, 20_000
STRETCHES = ("before", "during", "after")


# Checkpoints are looked at in the end of each stretch, so each holds some of them.
SECTIONS = {"flink": {"checkpoint_interval_s": 4.0}, "scoring": BOUNDED}


def honest_name(event: int) -> str:
    return f"other-{event % ENTITIES:04d}"


def mostly_hot_name(event: int) -> str:
    return "hot" if event % 2 else honest_name(event // 2)


@pytest.fixture
def narrate(pytestconfig: pytest.Config) -> Narrate:
    return narrator(pytestconfig)


def test_a_flood_of_a_million_new_keys_stays_within_bounds_and_delays_nobody(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, narrate: Narrate
) -> None:
    config = make_job(cluster, artifact)
    job_id = jobs.start(config)
    arguments = (cluster, config.input.topic, PARTITIONS)
    marks, checkpoints = [], []
    with Watch(cluster) as watch, Probe(cluster, config, ("other-", "flood-")) as probe:
        others, flood = probe.seen["other-"], probe.seen["flood-"]

        def pass_time(seconds: float) -> None:
            """Until the scores of so many seconds have come."""
            goal = others.rows + seconds * HONEST_RATE
            live.wait_for(lambda: others.rows >= goal, "scores of honest entities", jobs)

        with Honest(*arguments, HONEST_RATE, honest_name) as sender:
            pass_time(SETTLING_S)
            marks.append(bounds.now_us())
            pass_time(STRETCH_S)
            checkpoints.append(bounds.checkpoint_mb(jobs, job_id))
            marks.append(bounds.now_us())
            cpu = bounds.cpu_s(cluster)
            took_s = Flood(*arguments, NEW_KEYS_RATE, NEW_KEYS).run(3 * NEW_KEYS / NEW_KEYS_RATE)
            cpu = {name: used - cpu[name] for name, used in bounds.cpu_s(cluster).items()}
            checkpoints.append(bounds.checkpoint_mb(jobs, job_id))
            marks.append(bounds.now_us())
            pass_time(STRETCH_S)
            checkpoints.append(bounds.checkpoint_mb(jobs, job_id))
            marks.append(bounds.now_us())
        live.wait_for(lambda: others.rows >= sender.events, "all honest events", jobs)
        letters = config.dead_letters.topic
        live.wait_for(
            lambda: flood.rows + bounds.end_of(cluster, letters) >= NEW_KEYS,
            "every new key scored or refused",
            jobs,
        )
    figures = {
        name: {**others.between(*part), **watch.most(*part), "checkpoint_mb": checkpoint}
        for name, part, checkpoint in zip(STRETCHES, pairwise(marks), checkpoints, strict=True)
    }
    reasons, letter_bytes = bounds.letters_by_reason(cluster, letters)
    whole = {
        "flood_s": round(took_s, 1),
        "admitted": flood.count(),
        "refused": dict(reasons),
        "honest_events": sender.events,
        "honest_lost": sender.events - others.count(),
        "dead_letters_mb": round(letter_bytes / 1e6),
        "cpu_s": {name: round(used, 1) for name, used in cpu.items() if used > 1},
    }
    rows = [(name, *figures[name].values()) for name in STRETCHES]
    narrate(bounds.report("flood", ("", *figures["before"]), rows, {**figures, "flood": whole}))
    narrate(str(whole))
    before, during = figures["before"], figures["during"]
    assert whole["honest_lost"] == 0
    assert dict(reasons) == {TOO_MANY_ENTITIES: NEW_KEYS - flood.count()}
    assert during["workers_mb"] <= 1.5 * before["workers_mb"] + 300
    assert during["p99_ms"] <= 2 * before["p99_ms"]


def test_one_entity_with_half_of_all_traffic_does_not_hold_the_others_up(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, narrate: Narrate
) -> None:
    config = make_job(cluster, artifact)
    jobs.start(config)
    figures = {}
    with Probe(cluster, config, ("other-", "hot")) as probe:
        for name, entity_of in (("even", honest_name), ("hot", mostly_hot_name)):
            seen = probe.seen["other-"]
            share = 1.0 if name == "even" else 0.5
            with Honest(cluster, config.input.topic, PARTITIONS, HOT_RATE, entity_of):
                is_stationary = seen.rows + SETTLING_S * share * HOT_RATE
                live.wait_for(lambda: seen.rows >= is_stationary, "a warm start", jobs)  # noqa: B023
                start = bounds.now_us()
                goal = seen.rows + STRETCH_S * share * HOT_RATE
                live.wait_for(lambda: seen.rows >= goal, "others' scores", jobs)  # noqa: B023
                figures[name] = seen.between(start, bounds.now_us())
    head = ("others", *figures["even"])
    rows = [(name, *one.values()) for name, one in figures.items()]
    narrate(bounds.report("hot_key", head, rows, figures))
    assert figures["hot"]["p99_ms"] <= 2 * figures["even"]["p99_ms"]


def test_the_events_of_one_entity_are_drained_at_20_000_a_second(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, narrate: Narrate
) -> None:
    config = make_job(cluster, artifact)
    names = [mostly_hot_name(event) for event in range(2 * HOT_EVENTS)]
    bounds.preload(cluster, config.input.topic, PARTITIONS, names)
    with Probe(cluster, config, ("other-", "hot")) as probe:
        jobs.start(config)
        hot, others = probe.seen["hot"], probe.seen["other-"]
        live.wait_for(lambda: hot.rows + others.rows >= 2 * HOT_EVENTS, "all scores", jobs)
    figures = {"hot_events_s": round(hot.rate()), "other_events_s": round(others.rate())}
    narrate(bounds.report("hot_drain", tuple(figures), [tuple(figures.values())], figures))
    assert hot.rate() >= HOT_EVENTS_S


def make_job(cluster: ClusterInfo, artifact: Path) -> Config:
    """A job with bounds, and its topics."""
    topic = live.new_name("bounds")
    config = live.job_config(cluster, artifact, topic, **SECTIONS)
    for name in (topic, *config.output_topics()):
        live.create_topic(cluster, name, PARTITIONS)
    return config
