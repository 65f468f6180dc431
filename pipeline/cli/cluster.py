"""The commands `up`, `status` and `down`: the local cluster."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from streamgauge.pipeline.cli.options import FolderOption, cluster_folder
from streamgauge.pipeline.console.progress import to_stderr


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
    broker_port: Annotated[int, typer.Option(help="Port of the Kafka broker.")] = 9092,
    rest_port: Annotated[int, typer.Option(help="Port of Flink's REST API.")] = 8081,
    job_port: Annotated[int, typer.Option(help="Port of Beam's job server.")] = 8099,
    workers_port: Annotated[int, typer.Option(help="Port of the worker pool.")] = 50000,
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
        bool, typer.Option("--json", help="Print one JSON object per process.")
    ] = False,
) -> None:
    """Show the health of each process of the local cluster."""
    from streamgauge.infra.local import cluster

    for part in cluster.status(folder or cluster_folder()):
        if as_json:
            print(json.dumps(asdict(part), default=str))
        else:
            print(f"{part.name:<16} {part.state:<10} {part.pid or '-':<8} {part.log}")


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
