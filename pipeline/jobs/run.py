"""Submits the live job, and stops it with or without a savepoint."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult, PipelineState

from streamgauge.infra.errors import FlinkRestError
from streamgauge.infra.flink_rest import FlinkRest
from streamgauge.infra.local.embedded import embedded
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.console.progress import Narrate, to_stderr
from streamgauge.pipeline.jobs import broker, claim, exported_state, preflight, resume
from streamgauge.pipeline.jobs.flink_options import beam_options

START_S_MAX = 120.0
#: States of a Flink job that still uses its name.
LIVE_STATES = ("INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "FAILING", "CANCELLING")
EMBEDDED_FOLDER = Path("build/embedded")
RESULT_POLL_S = 0.5
JOBS_POLL_S = 0.25

#: Submits the pipeline to a job server and a worker pool, both `host:port`.
Submit = Callable[[str, str], PipelineResult]


def run(
    config: Config,
    *,
    is_embedded: bool = False,
    savepoint: str | None = None,
    state: str | None = None,
    fresh: bool = False,
    beam_args: Sequence[str] = (),
    watch_s: float = 0.0,
    narrate: Narrate = to_stderr,
) -> str | None:
    """Check everything, then submit the live job.

    Args:
        config: checked configuration.
        is_embedded: run Flink inside the JVM of the job server, until the job is interrupted.
        savepoint: path of the savepoint or checkpoint to start from.
        state: folder of exported state to start from; the job reads the log from where the
            state ends.
        fresh: start without state, although an earlier job of this name has left some.
        beam_args: further Beam options, passed on unchanged.
        watch_s: how long to watch the job until its first checkpoint, seconds.
        narrate: receives the lines of progress.

    Returns:
        The id of the Flink job once it runs; None after an embedded run.

    Raises:
        ConfigError, ArtifactError: a check failed. Nothing was created on the broker.
    """
    artifact = preflight.load_artifact(config)
    preflight.check_state_folder(config)
    partitions = preflight.check_input(config, artifact, narrate)
    _check_start(savepoint, state, fresh)
    identity = resume.identity_of(config, artifact)
    if savepoint:
        resume.check_savepoint(savepoint, identity, narrate)
    rest = _check_cluster(config, is_embedded)
    if rest and not (savepoint or state or fresh):
        resume.refuse_to_start_empty(rest, config.name)
    with claim.claimed(config, narrate) as keep:
        # Once more: before the name was held, another command may have started the job.
        _check_cluster(config, is_embedded)
        if state:
            config = start_at(config, artifact, state)
            narrate(f"starting from the state in {state}, at {config.input.start}")

        def submit(job_endpoint: str, worker_endpoint: str) -> PipelineResult:
            options = beam_options(
                config, job_endpoint, worker_endpoint, savepoint=savepoint, beam_args=beam_args
            )
            pipeline = _pipeline(config, artifact, options, start_from=state)
            # Last, so that a job that cannot start leaves no topic on the broker.
            for topic in preflight.ensure_output_topics(config, partitions):
                narrate(f"created topic {topic}")
            narrate(
                f"{config.input.topic}: {partitions} partitions, {artifact.schema.size} features, "
                f"model {artifact.digest[:12]}"
            )
            return pipeline.run()

        if is_embedded:
            _run_embedded(submit, narrate, keep)
            return None
        assert rest is not None
        job_id = _run_on_cluster(rest, config, submit)
    resume.record_start(rest, job_id, resume.JobRecord(config.name, identity), narrate)
    narrate(f"running as {job_id}; see {config.flink.rest_url}")
    _watch(rest, config.name, job_id, watch_s=watch_s)
    return job_id


def stop(
    config: Config,
    savepoint: bool = True,
    savepoint_dir: str | None = None,
    *,
    narrate: Narrate = to_stderr,
) -> str | None:
    """Stop the job of this name.

    Args:
        config: names the job and the cluster.
        savepoint: write a savepoint before the job stops.
        savepoint_dir: URI of the folder for it; None for the folder of the cluster.
        narrate: receives the lines of progress.

    Returns:
        The path of the savepoint; None without one.

    Raises:
        ConfigError: no such job runs.
    """
    rest = FlinkRest(config.flink.rest_url)
    running = [job for job in rest.jobs() if job.name == config.name and job.state in LIVE_STATES]
    if not running:
        raise ConfigError(f"name: a job {config.name!r} must be running; none is")
    job_id = running[0].job_id
    if not savepoint:
        rest.cancel(job_id)
        narrate(f"cancelled {config.name} ({job_id})")
        return None
    path = rest.stop_with_savepoint(job_id, savepoint_dir)
    resume.record_stop(rest, job_id, path, narrate)
    narrate(f"stopped {config.name} ({job_id})")
    return path


def start_at(config: Config, artifact: Artifact, state: str) -> Config:
    """The configuration of a job that reads the log from where the exported `state` ends.

    Raises:
        ConfigError: there is no state, or the events after it are no longer in the log.
        StateFormatError: the state is damaged, or of another job.
    """
    offsets = exported_state.starting_offsets(config, artifact, state)
    start = ",".join(f"{partition}:{offset}" for partition, offset in sorted(offsets.items()))
    return dataclasses.replace(config, input=dataclasses.replace(config.input, start=start))


def _run_embedded(submit: Submit, narrate: Narrate, keep: claim.Keep) -> None:
    """Start Flink in this machine's job server, submit the job, and stay until it ends."""
    with embedded(EMBEDDED_FOLDER, narrate) as local:
        result = submit(local.job_endpoint, local.worker_endpoint)
        narrate("running until interrupted")
        _wait(result, keep)


def _run_on_cluster(rest: FlinkRest, config: Config, submit: Submit) -> str:
    """Submit the job to the cluster of the configuration; returns its id once it runs."""
    jobs_before = {job.job_id for job in rest.jobs()}
    result = submit(config.flink.job_endpoint, config.flink.worker_endpoint)
    return _await_running(rest, config, jobs_before, result=result)


def _pipeline(
    config: Config, artifact: Artifact, options: PipelineOptions, *, start_from: str | None
) -> beam.Pipeline:
    pipeline = beam.Pipeline(options=options)
    reading = graph.live_reading(config, artifact)
    state = graph.live_state(config, start_from)
    graph.build(
        pipeline,
        config,
        artifact,
        reading=reading,
        sinks=graph.topic_sinks(config),
        state=state,
        is_live=True,
    )
    return pipeline


def _wait(result: PipelineResult, keep: claim.Keep) -> None:
    """Keep the name until this process is interrupted; an embedded job that ends before has failed.

    `wait_until_finish` is not used: its threads end in a traceback when the job server does.
    """
    while not PipelineState.is_terminal(state := result.state):
        keep()
        time.sleep(RESULT_POLL_S)
    raise ConfigError(
        f"flink: the embedded job must run until it is interrupted; it is {state}. "
        f"{EMBEDDED_FOLDER / 'logs' / 'job-server.log'} says why"
    )


def _check_start(savepoint: str | None, state: str | None, fresh: bool) -> None:
    """At most one state to start from; a local savepoint must exist."""
    if savepoint and state:
        raise ConfigError("--state: a savepoint contains state already; use only one of the two")
    if fresh and (savepoint or state):
        raise ConfigError("--fresh: starts without state; use it without --savepoint and --state")
    if savepoint and "://" not in savepoint and not Path(savepoint.removeprefix("file:")).exists():
        raise ConfigError(f"--savepoint: must be the path of a savepoint; nothing at {savepoint}")


def _check_cluster(config: Config, is_embedded: bool) -> FlinkRest | None:
    """The cluster must answer and run no job of this name: two would score every event twice.

    An embedded run needs no cluster. If there is one, its jobs count too.

    Returns:
        The cluster; None for an embedded run without one.
    """
    if not is_embedded:
        broker.connect_to(config.flink.job_endpoint, "flink.job_endpoint", "Beam's job server")
    rest = FlinkRest(config.flink.rest_url)
    try:
        jobs = rest.jobs()
    except FlinkRestError:
        if is_embedded:
            return None
        raise
    for job in jobs:
        if job.name == config.name and job.state in LIVE_STATES:
            raise ConfigError(
                f"name: no job {config.name!r} may be running already; {job.job_id} is. "
                "Stop it with `streamgauge stop`, or give this one another name"
            )
    return rest


def _watch(rest: FlinkRest, name: str, job_id: str, *, watch_s: float) -> None:
    """Watch a job until its first checkpoint: a job that fails before it restarts for ever.

    Raises:
        ConfigError: the job failed; the cause is named.
    """
    deadline = time.monotonic() + watch_s
    while time.monotonic() < deadline:
        detail = rest.job(job_id)
        if detail.exceptions:
            raise ConfigError(
                f"flink: job {name!r} must keep running; it is {detail.job.state} after a "
                f"failure: {detail.exceptions[0]}. Flink starts it again and again until "
                "`streamgauge stop --no-savepoint` ends it"
            )
        if rest.checkpoints(job_id)["counts"]["completed"]:
            return
        time.sleep(JOBS_POLL_S)


def _await_running(
    rest: FlinkRest, config: Config, jobs_before: set[str], *, result: PipelineResult
) -> str:
    """The id of the job that was submitted just now, once Flink runs it."""
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        for job in rest.jobs():
            is_new = job.name == config.name and job.job_id not in jobs_before
            if is_new and job.state == "RUNNING":
                return job.job_id
        if result.state in ("FAILED", "CANCELLED"):
            break
        time.sleep(JOBS_POLL_S)
    raise ConfigError(
        f"flink: job {config.name!r} must be running within {START_S_MAX:.0f} s; "
        f"it is {result.state}. The log of the job server says why"
    )
