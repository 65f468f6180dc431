"""Submits the live job, and stops it with or without a savepoint."""

from __future__ import annotations

import dataclasses
import logging
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
from streamgauge.pipeline.config import Config, Flink
from streamgauge.pipeline.jobs import broker, exported_state, preflight

Narrate = Callable[[str], None]
START_S_MAX = 120.0
#: States of a Flink job that holds its place.
LIVE_STATES = ("INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "FAILING", "CANCELLING")
EMBEDDED_FOLDER = Path("build/embedded")
STAY_POLL_S = 0.5


def run(
    config: Config,
    is_embedded: bool = False,
    savepoint: str | None = None,
    beam_args: Sequence[str] = (),
    narrate: Narrate = print,
    state: str | None = None,
) -> str | None:
    """Check everything, then submit the live job.

    Args:
        config: checked configuration.
        is_embedded: run Flink inside the job server's JVM and stay until interrupted.
        savepoint: path of the savepoint to start from.
        beam_args: more Beam options, passed on as they are.
        narrate: told one line per step.
        state: folder of exported state to start from, and from its place in the log.

    Returns:
        The Flink job's id once it runs; None after an embedded run.

    Raises:
        ConfigError, ArtifactError: before anything was consumed.
    """
    artifact = preflight.load_artifact(config)
    partitions = preflight.check_input(config, artifact)
    if savepoint:
        _check_savepoint(savepoint)
    if state:
        if savepoint:
            raise ConfigError("--state: a savepoint holds state already; give one of the two")
        config = start_at(config, artifact, state)
        narrate(f"starting from the state in {state}, at {config.input.start}")
    if not is_embedded:
        _check_cluster(config)  # before anything is made on the broker
    for topic in preflight.ensure_output_topics(config, partitions):
        narrate(f"created topic {topic}")
    narrate(
        f"{config.input.topic}: {partitions} partitions, {artifact.schema.size} features, "
        f"model {artifact.digest[:12]}"
    )
    if is_embedded:
        with embedded(EMBEDDED_FOLDER, narrate) as local:
            options = beam_options(
                config, local.job_endpoint, local.worker_endpoint, savepoint, beam_args
            )
            pipeline = _pipeline(config, artifact, options, state)
            narrate("running until interrupted")
            _stay(pipeline.run())
        return None
    options = beam_options(
        config, config.flink.job_endpoint, config.flink.worker_endpoint, savepoint, beam_args
    )
    rest = FlinkRest(config.flink.rest_url)
    before = {job.job_id for job in rest.jobs()}
    result = _pipeline(config, artifact, options, state).run()
    return _await_running(rest, config, before, result, narrate)


def stop(
    config: Config,
    savepoint: bool = True,
    savepoint_dir: str | None = None,
    narrate: Narrate = print,
) -> str | None:
    """Stop the job of this name.

    Returns:
        The savepoint's path, which alone is worth printing on stdout; None without one.

    Raises:
        ConfigError: no such job runs.
    """
    rest = FlinkRest(config.flink.rest_url)
    running = [job for job in rest.jobs() if job.name == config.name and job.state in LIVE_STATES]
    if not running:
        raise ConfigError(f"name: a job {config.name!r} must be running; none is")
    if not savepoint:
        rest.cancel(running[0].job_id)
        narrate(f"cancelled {config.name} ({running[0].job_id})")
        return None
    path = rest.stop_with_savepoint(running[0].job_id, savepoint_dir)
    narrate(f"stopped {config.name} ({running[0].job_id})")
    return path


def beam_options(
    config: Config,
    job_endpoint: str,
    worker_endpoint: str,
    savepoint: str | None,
    beam_args: Sequence[str],
) -> PipelineOptions:
    """Beam's options for the portable Flink runner, as measured (docs/decisions.md)."""
    flink: Flink = config.flink
    arguments = [
        "--runner=PortableRunner",
        f"--job_name={config.name}",
        f"--job_endpoint={job_endpoint}",
        "--environment_type=EXTERNAL",
        f"--environment_config={worker_endpoint}",
        "--streaming",
        f"--parallelism={flink.parallelism}",
        f"--max_parallelism={flink.max_parallelism}",
        # The flag turns operator chaining off: with chaining on, a savepoint cannot be
        # restored at another parallelism.
        "--operator_chaining",
        f"--checkpointing_interval={int(flink.checkpoint_interval_s * 1000)}",
        f"--checkpoint_timeout_millis={int(flink.checkpoint_timeout_s * 1000)}",
        # Behind an outage Flink would catch up on all missed checkpoints back to back.
        f"--min_pause_between_checkpoints={int(flink.checkpoint_interval_s * 500)}",
        "--externalized_checkpoints_enabled",
        "--retain_externalized_checkpoints_on_cancellation",
        f"--max_bundle_time_mills={flink.bundle_time_ms}",
        f"--max_bundle_size={flink.bundle_size}",
    ]
    if savepoint:
        arguments.append(f"--savepoint_path={savepoint}")
    # Options of the Java runner are unknown to the Python SDK, which warns of each and
    # passes it on all the same.
    logging.getLogger("apache_beam.options.pipeline_options").setLevel(logging.ERROR)
    return PipelineOptions([*arguments, *beam_args])


def _pipeline(
    config: Config,
    artifact: preflight.Artifact,
    options: PipelineOptions,
    start_from: str | None,
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


def _stay(result: PipelineResult) -> None:
    """Stay as long as an embedded job runs, which is until this process is interrupted.

    `wait_until_finish` would do, but its threads end in a traceback when the job server does.
    """
    while not PipelineState.is_terminal(state := result.state):
        time.sleep(STAY_POLL_S)
    raise ConfigError(
        f"flink: the embedded job must run until it is interrupted; it is {state}. "
        f"{EMBEDDED_FOLDER / 'logs' / 'job-server.log'} says why"
    )


def _check_savepoint(savepoint: str) -> None:
    """A savepoint's path must exist, if it is a local one."""
    local = savepoint.removeprefix("file:")
    if "://" not in savepoint and not Path(local).exists():
        raise ConfigError(f"--savepoint: must be a savepoint's path; nothing at {savepoint}")


def start_at(config: Config, artifact: Artifact, state: str) -> Config:
    """The configuration of a job that starts where the exported state in `state` ends.

    Raises:
        ConfigError: there is no state, or the log does not hold what comes after it.
        StateFormatError: the state is damaged, or of another job.
    """
    offsets = exported_state.starting_offsets(config, artifact, state)
    start = ",".join(f"{partition}:{offset}" for partition, offset in sorted(offsets.items()))
    return dataclasses.replace(config, input=dataclasses.replace(config.input, start=start))


def _check_cluster(config: Config) -> None:
    """The cluster must answer, and be free of a job of this name: two would score all twice."""
    broker.connect_to(config.flink.job_endpoint, "flink.job_endpoint", "Beam's job server")
    for job in FlinkRest(config.flink.rest_url).jobs():
        if job.name == config.name and job.state in LIVE_STATES:
            raise ConfigError(
                f"name: no job {config.name!r} may be running already; {job.job_id} is. "
                "Stop it with `streamgauge stop`, or give this one another name"
            )


def _await_running(
    rest: FlinkRest, config: Config, before: set[str], result: PipelineResult, narrate: Narrate
) -> str:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        for job in rest.jobs():
            if job.name == config.name and job.job_id not in before and job.state == "RUNNING":
                narrate(f"running as {job.job_id}; see {config.flink.rest_url}")
                return job.job_id
        if result.state in ("FAILED", "CANCELLED"):
            break
        time.sleep(0.25)  # between two looks at a cluster that is deploying, under the deadline
    raise ConfigError(
        f"flink: job {config.name!r} must be running within {START_S_MAX:.0f} s; "
        f"it is {result.state}. The job server's log says why"
    )
