"""The commands `up`, `status` and `down`: the local cluster, and the jobs on it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamgauge.pipeline.cli.options import FolderOption, cluster_folder
from streamgauge.pipeline.console.progress import to_stderr

if TYPE_CHECKING:
    from streamgauge.infra.flink_rest import JobHealth

EXIT_UNHEALTHY = 1
REST_TIMEOUT_S = 2.0


def _port(description: str) -> Any:
    return typer.Option(help=description, min=1, max=65_535)


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(epilog="Example: streamgauge up --task-managers 2")(up)
    app.command(epilog="Example: streamgauge status --json")(status)
    app.command(epilog="Example: streamgauge down --wipe")(down)


def up(
    *,
    folder: FolderOption = None,
    task_managers: Annotated[int, typer.Option(help="Number of Flink TaskManagers.", min=1)] = 1,
    slots: Annotated[int, typer.Option(help="Number of task slots per TaskManager.", min=1)] = 2,
    broker_port: Annotated[
        int, typer.Option(help="Port of the Kafka broker.", min=1, max=65_535)
    ] = 9092,
    rest_port: Annotated[
        int, typer.Option(help="Port of Flink's REST API.", min=1, max=65_535)
    ] = 8081,
    job_port: Annotated[
        int, typer.Option(help="Port of Beam's job server.", min=1, max=65_535)
    ] = 8099,
    workers_port: Annotated[
        int, typer.Option(help="Port of the worker pool.", min=1, max=65_535)
    ] = 50000,
    start_timeout: Annotated[
        float | None,
        typer.Option(
            help="Longest wait for a part, seconds; by default about 60, more on a slow machine.",
            min=1.0,
        ),
    ] = None,
) -> None:
    """Start the local cluster: Kafka, Flink, Beam's job server and the Python workers."""
    from streamgauge.infra.local import cluster
    from streamgauge.infra.local.info import ClusterSpec
    from streamgauge.infra.processes.ports import Ports

    ports = Ports(broker=broker_port, rest=rest_port, job=job_port, workers=workers_port)
    spec = ClusterSpec(
        folder or cluster_folder(),
        task_managers=task_managers,
        slots=slots,
        ports=ports,
        start_timeout_s=start_timeout,
    )
    info = cluster.up(spec, to_stderr)
    for name, value in (
        ("kafka.bootstrap_servers", info.bootstrap_servers),
        ("flink.job_endpoint", info.job_endpoint),
        ("flink.rest_url", info.flink_rest_url),
        ("flink.worker_endpoint", info.worker_endpoint),
    ):
        print(f"{name}: {value}")


def status(
    *,
    folder: FolderOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per process and per job.")
    ] = False,
) -> None:
    """Show the health of each process of the local cluster, and of each job.

    The exit code is 1 if a process is not healthy, or if a job has failed or restarts.
    """
    from streamgauge.infra.errors import FlinkRestError
    from streamgauge.infra.flink_rest import FlinkRest
    from streamgauge.infra.local import cluster
    from streamgauge.infra.local.info import ClusterInfo

    directory = folder or cluster_folder()
    parts = cluster.status(directory)
    for part in parts:
        if as_json:
            print(json.dumps(asdict(part), default=str))
        else:
            print(f"{part.name:<16} {part.state:<10} {part.pid or '-':<8} {part.log}")
    try:
        rest = FlinkRest(ClusterInfo.load(directory).flink_rest_url, REST_TIMEOUT_S)
        jobs = rest.health()
    except FlinkRestError as error:
        to_stderr(f"jobs: {error}")
        raise typer.Exit(EXIT_UNHEALTHY) from None
    for job in jobs:
        print(json.dumps(job_record(job)) if as_json else job_line(job))
    if not jobs and not as_json:
        print("no job")
    if any(part.state != "healthy" for part in parts) or not all(job.is_healthy for job in jobs):
        raise typer.Exit(EXIT_UNHEALTHY)


def job_record(job: JobHealth) -> dict[str, Any]:
    """A job as `status --json` prints it; ages are in seconds."""

    def age_s(moment_ms: int | None) -> float | None:
        return None if moment_ms is None else (job.now_ms - moment_ms) / 1000

    return {
        "job": job.job.name,
        "job_id": job.job.job_id,
        "state": job.job.state,
        "healthy": job.is_healthy,
        "age_s": age_s(job.started_ms),
        "restarts": job.restarts,
        "checkpoint_age_s": age_s(job.last_checkpoint_ms),
        "checkpoints_failed": job.checkpoints_failed,
        "failure_age_s": age_s(job.last_failure_ms),
        "failure": job.last_failure,
    }


def job_line(job: JobHealth) -> str:
    """A job as `status` prints it."""
    record = job_record(job)
    checkpoint = record["checkpoint_age_s"]
    line = (
        f"{job.job.name:<16} {job.job.state:<10} for {record['age_s']:,.0f} s, "
        f"restarts: {job.restarts}, "
        f"last checkpoint: {'none' if checkpoint is None else f'{checkpoint:,.0f} s ago'}, "
        f"failed checkpoints: {job.checkpoints_failed}"
    )
    if job.is_healthy or job.last_failure is None:
        return line
    return f"{line}\n  failed {record['failure_age_s']:,.0f} s ago: {job.last_failure}"


def down(
    *,
    folder: FolderOption = None,
    wipe: Annotated[
        bool, typer.Option("--wipe", help="Also remove topics, checkpoints and logs.")
    ] = False,
) -> None:
    """Stop the local cluster; its data is kept without --wipe."""
    from streamgauge.infra.local import cluster

    cluster.down(folder or cluster_folder(), wipe, to_stderr)
