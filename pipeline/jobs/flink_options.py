"""Beam's options for the portable Flink runner, from the configuration of a job."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions

from streamgauge.pipeline.config import Config


def beam_options(
    config: Config,
    job_endpoint: str,
    worker_endpoint: str,
    *,
    savepoint: str | None = None,
    beam_args: Sequence[str] = (),
) -> PipelineOptions:
    """The options of one job. `docs/decisions` holds the measurements behind the values.

    Args:
        config: the configuration of the job.
        job_endpoint: `host:port` of Beam's job server.
        worker_endpoint: `host:port` of the Python worker pool, as the TaskManagers reach it.
        savepoint: path of the savepoint to start from; None starts without state.
        beam_args: further Beam options; they are passed on unchanged and take precedence.
    """
    flink = config.flink
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
        # Without a pause Flink runs all checkpoints that an outage delayed back to back.
        f"--min_pause_between_checkpoints={int(flink.checkpoint_interval_s * 500)}",
        "--externalized_checkpoints_enabled",
        "--retain_externalized_checkpoints_on_cancellation",
        f"--max_bundle_time_mills={flink.bundle_time_ms}",
        f"--max_bundle_size={flink.bundle_size}",
    ]
    if savepoint:
        arguments.append(f"--savepoint_path={savepoint}")
    # The Python SDK does not know the options of the Java runner. It logs a warning for each
    # and passes it on.
    logging.getLogger("apache_beam.options.pipeline_options").setLevel(logging.ERROR)
    return PipelineOptions([*arguments, *beam_args])
