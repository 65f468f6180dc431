"""Submits the live job, and stops it with or without a savepoint."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult, PipelineState

from streamgauge.infra.flink_rest import FlinkRest
from streamgauge.infra.local.embedded import embedded
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.console.progress import Narrate, to_stderr
from streamgauge.pipeline.jobs import broker, exported_state, preflight
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
    beam_args: Sequence[str] = (),
    narrate: Narrate = to_stderr,
) -> str | None:
    """Check everything, then submit the live job.

    Args:
        config: checked configuration.
        is_embedded: run Flink inside the JVM of the job server, until the job is interrupted.
        savepoint: path of the savepoint to start from.
        state: folder of exported state to start from; the job reads the log from where the
            state ends.
        beam_args: further Beam options, passed on unchanged.
        narrate: receives the lines of progress.

    Returns:
        The id of the Flink job once it runs; None after an embedded run.

    Raises:
        ConfigError, ArtifactError: a check failed. Nothing was created on the broker.
    """
    artifact = preflight.load_artifact(config)
    preflight.check_state_folder(config)
    partitions = preflight.check_input(config, artifact, narrate)
    _check_start(savepoint, state)
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
        _run_embedded(submit, narrate)
        return None
    return _run_on_cluster(config, submit, narrate)


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


def _run_embedded(submit: Submit, narrate: Narrate) -> None:
    """Start Flink in this machine's job server, submit the job, and stay until it ends."""
    with embedded(EMBEDDED_FOLDER, narrate) as local:
        result = submit(local.job_endpoint, local.worker_endpoint)
        narrate("running until interrupted")
        _wait(result)


def _run_on_cluster(config: Config, submit: Submit, narrate: Narrate) -> str:
    """Submit the job to the cluster of the configuration; returns its id once it runs."""
    _check_cluster(config)
    rest = FlinkRest(config.flink.rest_url)
    jobs_before = {job.job_id for job in rest.jobs()}
    result = submit(config.flink.job_endpoint, config.flink.worker_endpoint)
    job_id = _await_running(rest, config, jobs_before, result=result)
    narrate(f"running as {job_id}; see {config.flink.rest_url}")
    return job_id


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


def _wait(result: PipelineResult) -> None:
    """Wait until this process is interrupted; an embedded job that ends before has failed.

    `wait_until_finish` is not used: its threads end in a traceback when the job server does.
    """
    while not PipelineState.is_terminal(state := result.state):
        time.sleep(RESULT_POLL_S)
    raise ConfigError(
        f"flink: the embedded job must run until it is interrupted; it is {state}. "
        f"{EMBEDDED_FOLDER / 'logs' / 'job-server.log'} says why"
    )


def _check_start(savepoint: str | None, state: str | None) -> None:
    """At most one state to start from; a local savepoint must exist."""
    if savepoint and state:
        raise ConfigError("--state: a savepoint contains state already; use only one of the two")
    if savepoint and "://" not in savepoint and not Path(savepoint.removeprefix("file:")).exists():
        raise ConfigError(f"--savepoint: must be the path of a savepoint; nothing at {savepoint}")


def _check_cluster(config: Config) -> None:
    """The cluster must answer and run no job of this name: two would score every event twice."""
    broker.connect_to(config.flink.job_endpoint, "flink.job_endpoint", "Beam's job server")
    for job in FlinkRest(config.flink.rest_url).jobs():
        if job.name == config.name and job.state in LIVE_STATES:
            raise ConfigError(
                f"name: no job {config.name!r} may be running already; {job.job_id} is. "
                "Stop it with `streamgauge stop`, or give this one another name"
            )


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
