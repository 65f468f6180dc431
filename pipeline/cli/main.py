"""The command line: `streamgauge COMMAND`. Data goes to stdout, narration to stderr.

Exit codes: 0 done, 1 an audit found scores that are not exact, 2 something the operator can
mend (one line says what), 130 interrupted.
Whatever is heavy is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from streamgauge.models.errors import ConfigError, StreamgaugeError
from streamgauge.pipeline.cli import training
from streamgauge.pipeline.cli.deploy import deploy_app
from streamgauge.pipeline.cli.options import (
    PROGRAM,
    AnyConfigOption,
    ConfigOption,
    FolderOption,
    ServersOption,
    SetOption,
    StateOption,
    access,
    beam_arguments,
    cluster_folder,
    load,
)
from streamgauge.pipeline.cli.state import state_app
from streamgauge.pipeline.console.progress import to_stderr

EXIT_NOT_EXACT, EXIT_MENDABLE, EXIT_INTERRUPTED = 1, 2, 130
# More BLAS threads make scoring slower and its last bits depend on their number.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Training wants more; evaluation trains and scores, so there only BLAS keeps to one.
MAY_HAVE_MORE = {"train": ONE_THREAD, "tune": ONE_THREAD, "evaluate": ONE_THREAD[1:]}

app = typer.Typer(
    name=PROGRAM,
    help="Streaming anomaly detection per entity: Kafka in, explained alerts out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First steps: streamgauge demo | streamgauge up | streamgauge doctor --config job.yaml",
)
alerts_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at alerts.")
app.add_typer(alerts_app, name="alerts")
app.add_typer(state_app, name="state")
app.add_typer(deploy_app, name="deploy")


def main() -> None:
    """Run one command and leave with its exit code."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    for name in ONE_THREAD:  # must be set before numpy is imported for the first time
        if name not in MAY_HAVE_MORE.get(command, ()):
            os.environ.setdefault(name, "1")
    # Beam mentions an optional package, which streamgauge does not use, at every start.
    logging.getLogger().addFilter(lambda record: "crcmod" not in str(record.msg))
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if not isinstance(error, (StreamgaugeError, *_foreign_errors())):
            raise
        to_stderr(f"{PROGRAM}: {' '.join(str(error).split())}")
        sys.exit(EXIT_MENDABLE)


def _foreign_errors() -> list[type[Exception]]:
    """Errors of the cluster and the broker, if the command loaded what can raise them."""
    known = (("streamgauge.infra.errors", "InfraError"), ("confluent_kafka", "KafkaException"))
    return [getattr(sys.modules[name], error) for name, error in known if name in sys.modules]


@app.command(epilog="Example: streamgauge up --task-managers 2")
def up(
    folder: FolderOption = None,
    task_managers: Annotated[int, typer.Option(help="Flink TaskManagers.", min=1)] = 1,
    slots: Annotated[int, typer.Option(help="Task slots of each TaskManager.", min=1)] = 2,
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


@app.command(epilog="Example: streamgauge status --json")
def status(
    folder: FolderOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per part.")] = False,
) -> None:
    """Show how each part of the local cluster is."""
    from streamgauge.infra.local import cluster

    for part in cluster.status(folder or cluster_folder()):
        if as_json:
            print(json.dumps(asdict(part), default=str))
        else:
            print(f"{part.name:<16} {part.state:<10} {part.pid or '-':<8} {part.log}")


@app.command(epilog="Example: streamgauge down --wipe")
def down(
    folder: FolderOption = None,
    wipe: Annotated[
        bool, typer.Option("--wipe", help="Remove topics, checkpoints and logs too.")
    ] = False,
) -> None:
    """Stop the local cluster; data stays unless it is wiped."""
    from streamgauge.infra.local import cluster

    cluster.down(folder or cluster_folder(), wipe, to_stderr)


@app.command(
    epilog="Example: streamgauge produce --data DIR --topic telemetry.events.v1 --partitions 4 "
    "--format arrow --rate 5000"
)
def produce(
    data: Annotated[Path, typer.Option(help="Folder with <entity>.test.parquet files, or NAB.")],
    topic: Annotated[str, typer.Option(help="Topic to fill.")],
    config: AnyConfigOption = None,
    bootstrap_servers: ServersOption = None,
    data_format: Annotated[
        Literal["json", "arrow"],
        typer.Option("--format", help="json: an event a message; arrow: many."),
    ] = "json",
    rate: Annotated[
        float | None, typer.Option(help="Events per second. [default: as fast as it goes]")
    ] = None,
    replicas: Annotated[int, typer.Option(help="Send every entity this many times.")] = 1,
    part: Annotated[Literal["train", "test"], typer.Option(help="Part of the data.")] = "test",
    limit: Annotated[
        int | None, typer.Option(help="Stop after this many events. [default: all]")
    ] = None,
    malformed_share: Annotated[
        float, typer.Option(help="Share of events made malformed, for trying dead letters.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Chooses the malformed events.")] = 0,
    partitions: Annotated[
        int | None, typer.Option(help="Create a missing topic with so many partitions.", min=1)
    ] = None,
    named: Annotated[
        bool, typer.Option("--named", help="JSON features by name, not as an array.")
    ] = False,
    cadence_s: Annotated[
        float | None,
        typer.Option(help="Seconds between invented event times. [default: by data set]"),
    ] = None,
) -> None:
    """Play a data set into a Kafka topic; prints what was sent as JSON."""
    from streamgauge.pipeline.data.produce import produce as send

    servers, settings = access(config, bootstrap_servers)
    report = send(
        data,
        topic,
        servers,
        data_format,
        rate,
        replicas,
        part,
        limit,
        malformed_share,
        seed,
        partitions,
        named,
        cadence_s,
        settings,
    )
    to_stderr(
        f"produced {report.events:,} events in {report.seconds:.1f} s; "
        f"{report.dead_letters:,} of them must become dead letters"
    )
    print(json.dumps({**asdict(report), "dead_letters": report.dead_letters}))


training.add_to(app)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: streamgauge run --config job.yaml --set flink.parallelism=4",
)
def run(
    context: typer.Context,
    config: ConfigOption,
    overrides: SetOption = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Run Flink inside the job server, without a cluster.")
    ] = False,
    savepoint: Annotated[
        str | None, typer.Option(help="Start from the state of this savepoint.")
    ] = None,
    state: StateOption = None,
) -> None:
    """Submit the live job to Flink; options that are not known here go to Beam."""
    # What is wrong with the words is told before Beam is loaded, which takes seconds.
    loaded, extra = load(config, overrides), beam_arguments(context.args)
    from streamgauge.pipeline.jobs.run import run as submit

    job_id = submit(loaded, embedded, savepoint, extra, to_stderr, state)
    if job_id is not None:
        print(job_id)


@app.command(
    epilog="Example: streamgauge stop -c job.yaml; `run --savepoint PATH` goes on from there"
)
def stop(
    config: ConfigOption,
    overrides: SetOption = None,
    savepoint: Annotated[bool, typer.Option(help="Keep the state, to go on from it later.")] = True,
    savepoint_dir: Annotated[
        str | None, typer.Option(help="URI of the folder for it. [default: the cluster's]")
    ] = None,
) -> None:
    """Stop the live job; prints the path of its savepoint."""
    loaded = load(config, overrides)
    from streamgauge.pipeline.jobs.run import stop as end

    path = end(loaded, savepoint, savepoint_dir, to_stderr)
    if path is not None:
        print(path)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: streamgauge backtest -c job.yaml --from 2024-01-17T00:00:00Z --to latest",
)
def backtest(
    context: typer.Context,
    config: ConfigOption,
    start: Annotated[
        str, typer.Option("--from", help="earliest, a time, or partition:offset,…")
    ] = "earliest",
    end: Annotated[
        str, typer.Option("--to", help="latest, a time, or partition:offset,…")
    ] = "latest",
    out: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("build/backtest"),
    runner: Annotated[
        Literal["inprocess", "flink"], typer.Option(help="Where the replay runs.")
    ] = "inprocess",
    state: StateOption = None,
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Leave what entities remember in OUT/state.")
    ] = False,
    overrides: SetOption = None,
) -> None:
    """Replay a range of the input through the live graph, into files; prints the summary."""
    loaded, extra = load(config, overrides), beam_arguments(context.args)
    from streamgauge.pipeline.replay.backtest import backtest as replay

    _, summary = replay(
        loaded, start, end, out, runner, extra, to_stderr, state=state, keep_state=keep_state
    )
    to_stderr(f"scores, alerts and report are in {out}")
    print(json.dumps(summary))


@app.command(epilog="Example: streamgauge audit -c job.yaml --entities 50")
def audit(
    config: ConfigOption,
    entities: Annotated[int, typer.Option(help="Size of the sample of entities.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Chooses the sample.", min=0)] = 0,
    entity: Annotated[
        list[str] | None, typer.Option(help="Audit this entity, not a sample; repeatable.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Where the job began to read. [default: input.start]"),
    ] = None,
    end: Annotated[
        str, typer.Option("--to", help="latest, a time, or partition:offset,…")
    ] = "latest",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object more, as the last line.")
    ] = False,
    overrides: SetOption = None,
) -> None:
    """Score a sample of entities again from the log; compare bits with what the job wrote."""
    loaded = load(config, overrides)
    from streamgauge.pipeline.audit.audit import audit as examine

    report = examine(loaded, entities, seed, entity or (), start, end, to_stderr)
    for line in report.lines():
        print(line)
    if as_json:
        print(json.dumps(report.to_json()))
    if not report.is_exact:
        raise typer.Exit(EXIT_NOT_EXACT)


@alerts_app.command("tail", epilog="Example: streamgauge alerts tail --from-beginning --json")
def alerts_tail(
    config: AnyConfigOption = None,
    bootstrap_servers: ServersOption = None,
    topic: Annotated[
        str | None, typer.Option(help="Alert topic. [default: the file's, or anomaly.alerts.v1]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest alert.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Stop after this many alerts.", min=1)] = None,
    idle_s: Annotated[
        float | None, typer.Option(help="Stop when no alert came for so many seconds.")
    ] = None,
) -> None:
    """Follow the alert topic."""
    from streamgauge.pipeline import config as configs
    from streamgauge.pipeline.alerts.tail import tail

    servers, settings = access(config, bootstrap_servers)
    if topic is None:
        topic = configs.Alerts().topic if config is None else configs.load(config).alerts.topic
    tail(servers, topic, as_json, from_beginning, limit, idle_s, settings)


@app.command(epilog="Example: streamgauge doctor --config job.yaml")
def doctor(
    config: ConfigOption,
    overrides: SetOption = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="The job will bring its own Flink.")
    ] = False,
) -> None:
    """Check broker, topics, artifact, schema and runner; name the first thing that is wrong."""
    from streamgauge.pipeline.jobs.doctor import examine, exit_code, first_wrong

    findings = examine(config, tuple(overrides or ()), embedded)
    wrong = first_wrong(findings)
    if wrong is not None:
        to_stderr(f"{PROGRAM}: mend this first: {wrong.detail}")
    raise typer.Exit(exit_code(findings))


@app.command(epilog="Example: streamgauge demo --out build/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report and summary.")] = Path("build/demo"),
) -> None:
    """Replay bundled telemetry with labelled incidents; needs Python only."""
    from streamgauge.pipeline.replay.demo import demo as show

    show(out)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        print(installed(PROGRAM))
    except PackageNotFoundError:
        raise ConfigError(f"version: {PROGRAM} must be installed; only its source is") from None


if __name__ == "__main__":
    main()
