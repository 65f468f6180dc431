"""Starting a job that has state: from the state of its own settings only, and never empty."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fixtures.artifacts import make_artifact
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.jobs.claim import claimed
from streamgauge.pipeline.jobs.run import run, stop
from system.harness import fleet, live, outcome

pytestmark = pytest.mark.system

NAMED = re.compile(r"`--savepoint (\S+)`")


def changed(config: Config, section: str, **settings: Any) -> Config:
    """The same job with other settings in one section."""
    branch = dataclasses.replace(getattr(config, section), **settings)
    return dataclasses.replace(config, **{section: branch})


def newest(config: Config) -> str:
    """The state that a start without state names."""
    with pytest.raises(ConfigError) as caught:
        run(config, narrate=live.silent)
    named = NAMED.search(str(caught.value))
    assert named, caught.value
    return named[1]


def test_a_job_starts_from_its_own_state_only_and_not_empty(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs, tmp_path: Path
) -> None:
    topic, other = live.new_name("fleet"), live.new_name("fleet")
    for name in (topic, other):
        live.create_topic(cluster, name, outcome.PARTITIONS)
    config = live.job_config(cluster, artifact, topic)
    sent = fleet.produce_fleet(cluster, topic, range(1))
    fleet.produce_fleet(cluster, other, range(1))
    job_id = jobs.start(config)
    with pytest.raises(ConfigError, match=f"no job '{config.name}' may be running already"):
        run(config, fresh=True, narrate=live.silent)
    with live.Scores(cluster, config) as scores:
        scores.await_events(sent.events - sent.malformed, jobs)
        savepoint = stop(config, savepoint_dir=(tmp_path / "elsewhere").as_uri())
        assert savepoint is not None
        assert newest(config) == savepoint.removeprefix("file:")

        model = make_artifact(tmp_path / "model", 38, 64, seed=1)
        for wrong, text in (
            (changed(config, "scoring", shards=2), "scoring.shards is 4 there and 2 here"),
            (changed(config, "input", routing="partition"), "input.routing is 'entity' there"),
            (changed(config, "input", topic=other), "input.topic is"),
            (dataclasses.replace(config, artifact=str(model)), "artifact is"),
        ):
            with pytest.raises(ConfigError, match=text):
                run(wrong, savepoint=savepoint, narrate=live.silent)
        assert [job.job_id for job in jobs.rest.jobs() if job.name == config.name] == [job_id]

        resumed = jobs.start(config, savepoint)
        live.wait_for(lambda: jobs.checkpoints(resumed) >= 1, "a checkpoint", jobs)
        jobs.rest.cancel(resumed)  # keeps the checkpoint, as a crash does
        checkpoint = newest(config)
        assert Path(checkpoint).parent.name == resumed

        more = fleet.produce_fleet(cluster, topic, range(1, 2))
        jobs.start(config, checkpoint)
        scores.await_events(more.events + sent.events - more.malformed - sent.malformed, jobs)
    expected = outcome.score_offline(cluster, config)
    actual = outcome.read_scores(cluster, config)
    assert outcome.differing(actual, expected.scores) == 0


def test_a_job_that_cannot_run_is_reported_with_its_cause(
    cluster: ClusterInfo, artifact: Path, jobs: live.Jobs
) -> None:
    topic = live.new_name("fleet")
    live.create_topic(cluster, topic, 1)
    config = live.job_config(cluster, artifact, topic, input={"start": "0:5000"})
    try:
        with pytest.raises(ConfigError, match="must keep running; .* after a failure: .*offset"):
            run(config, watch_s=live.DEADLINE_S, narrate=live.silent)
        [health] = [each for each in jobs.rest.health() if each.job.name == config.name]
        assert not health.is_healthy
        assert "offset" in str(health.last_failure)
    finally:
        stop(config, savepoint=False, narrate=live.silent)


def unexpected(line: str) -> None:
    """A warning where none belongs."""
    raise AssertionError(line)


def claimable(cluster: ClusterInfo, artifact: Path) -> Config:
    """A job that is not started."""
    topic = live.new_name("fleet")
    live.create_topic(cluster, topic, 1)
    return live.job_config(cluster, artifact, topic)


def test_the_name_of_a_job_is_held_by_one_command_at_a_time(
    cluster: ClusterInfo, artifact: Path
) -> None:
    config = claimable(cluster, artifact)
    for _ in range(2):  # it is free again at once
        with claimed(config, unexpected) as keep:
            keep()
            with (
                pytest.raises(ConfigError, match=f"only one command may run .*{config.name}"),
                claimed(config, unexpected),
            ):
                pass
            keep()


def test_commands_that_start_at_the_same_moment_do_not_both_hold_the_name(
    cluster: ClusterInfo, artifact: Path
) -> None:
    config = claimable(cluster, artifact)
    start = threading.Barrier(3)

    def hold() -> tuple[float, float] | None:
        start.wait()
        try:
            with claimed(config, unexpected) as keep:
                began = time.monotonic()
                live.wait_until_passed(1.0)
                keep()
                return began, time.monotonic()
        except ConfigError:
            return None

    with ThreadPoolExecutor(3) as pool:
        held = sorted(times for times in pool.map(lambda _: hold(), range(3)) if times)
    for (_, ended), (began, _) in pairwise(held):
        assert ended <= began
