"""The command line: `streamgauge COMMAND`. Data goes to stdout, progress to stderr.

Exit codes: 0 success, 1 an audit found scores that are not exact, or `status` a part or job that
is not healthy, 2 an error that the operator can fix (one line names it), 130 interrupted.
The commands import large libraries when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from streamgauge import __version__
from streamgauge.models.errors import ConfigError, StreamgaugeError
from streamgauge.pipeline.cli import cluster, jobs, training
from streamgauge.pipeline.cli.deploy import deploy_app
from streamgauge.pipeline.cli.options import (
    BEHIND_DASHES,
    PROGRAM,
    AnyConfigOption,
    Commands,
    ConfigOption,
    ServersOption,
    SetOption,
    StateOption,
    access,
    beam_arguments,
    load,
)
from streamgauge.pipeline.cli.state import state_app
from streamgauge.pipeline.console.progress import to_stderr

EXIT_NOT_EXACT, EXIT_OPERATOR_ERROR, EXIT_INTERRUPTED = 1, 2, 130
# More BLAS threads make scoring slower, and the last bits of scores depend on their number.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Training needs more threads. Evaluation trains and scores, so it limits only BLAS.
MORE_THREADS = {"train": ONE_THREAD, "tune": ONE_THREAD, "evaluate": ONE_THREAD[1:]}

#: Libraries of the extra "train"; all others belong to the extra "run".
TRAIN_LIBRARIES = {"optuna", "sklearn", "sqlalchemy", "tensorboardX", "torch"}

app = Commands(
    name=PROGRAM,
    help="Streaming anomaly detection per entity: Kafka in, explained alerts out.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First steps: streamgauge demo | streamgauge up | streamgauge doctor --config job.yaml",
)
alerts_app = Commands(help="Follow the alert topic.")
cluster.add_to(app)
training.add_to(app)
jobs.add_to(app)
app.add_typer(alerts_app, name="alerts")
app.add_typer(state_app, name="state")
app.add_typer(deploy_app, name="deploy")


def main() -> None:
    """Run one command and exit with its exit code."""
    # A process that is started in the background may inherit SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    for name in ONE_THREAD:  # must be set before numpy is imported
        if name not in MORE_THREADS.get(command, ()):
            os.environ.setdefault(name, "1")
    # Beam warns at every start that an optional package is missing; it is not needed here.
    logging.getLogger().addFilter(lambda record: "crcmod" not in str(record.msg))
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", PROGRAM):
            raise
        extra = "train" if library in TRAIN_LIBRARIES else "run"
        to_stderr(
            f"{PROGRAM}: {command} needs {library}, which is not installed; "
            f"`pip install '{PROGRAM}[{extra}]'` installs it"
        )
        sys.exit(EXIT_OPERATOR_ERROR)
    except Exception as error:
        # A file error that names its file is the operator's: a path given to the command.
        is_file_error = isinstance(error, OSError) and error.filename is not None
        if not isinstance(error, (StreamgaugeError, *_foreign_errors())) and not is_file_error:
            raise
        to_stderr(f"{PROGRAM}: {' '.join(str(error).split())}")
        sys.exit(EXIT_OPERATOR_ERROR)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """The options that stand before a command."""


def _foreign_errors() -> list[type[Exception]]:
    """Error classes of the cluster and the broker whose modules the command has loaded."""
    known = (("streamgauge.infra.errors", "InfraError"), ("confluent_kafka", "KafkaException"))
    return [getattr(sys.modules[name], error) for name, error in known if name in sys.modules]


@app.command(
    epilog="Example: streamgauge produce --data DIR --topic telemetry.events.v1 --partitions 4 "
    "--format arrow --rate 5000"
)
def produce(
    *,
    data: Annotated[
        Path, typer.Option(help="Folder with <entity>.test.parquet files, or in the layout of NAB.")
    ],
    topic: Annotated[str, typer.Option(help="Topic to send to.")],
    config: AnyConfigOption = None,
    bootstrap_servers: ServersOption = None,
    data_format: Annotated[
        Literal["json", "arrow"],
        typer.Option("--format", help="json: one event per message; arrow: many."),
    ] = "json",
    rate: Annotated[
        float | None, typer.Option(help="Events per second. [default: as fast as possible]")
    ] = None,
    replicas: Annotated[
        int, typer.Option(help="Send every entity this many times, under different names.")
    ] = 1,
    part: Annotated[Literal["train", "test"], typer.Option(help="Part of the data set.")] = "test",
    limit: Annotated[
        int | None, typer.Option(help="Stop after this many events. [default: all]")
    ] = None,
    malformed_share: Annotated[
        float, typer.Option(help="Share of events to make malformed, to test dead letters.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the choice of malformed events.")] = 0,
    partitions: Annotated[
        int | None,
        typer.Option(help="Create a missing topic with this number of partitions.", min=1),
    ] = None,
    named: Annotated[
        bool, typer.Option("--named", help="JSON features by name instead of as an array.")
    ] = False,
    cadence_s: Annotated[
        float | None,
        typer.Option(
            help="Seconds between invented event times. [default: 60 or 300, by data set]"
        ),
    ] = None,
) -> None:
    """Send a data set to a Kafka topic; prints what was sent as JSON."""
    from streamgauge.pipeline.data.payloads import Selection
    from streamgauge.pipeline.data.produce import ProduceRequest
    from streamgauge.pipeline.data.produce import produce as send

    servers, settings = access(config, bootstrap_servers)
    request = ProduceRequest(
        data,
        topic,
        servers,
        data_format=data_format,
        named=named,
        part=part,
        cadence_s=cadence_s,
        selection=Selection(
            replicas=replicas, limit=limit, malformed_share=malformed_share, seed=seed
        ),
        rate=rate,
        create_topic_partitions=partitions,
        settings=settings,
    )
    report = send(request)
    to_stderr(
        f"produced {report.events:,} events in {report.seconds:.1f} s; "
        f"{report.dead_letters:,} of them must become dead letters"
    )
    print(json.dumps({**asdict(report), "dead_letters": report.dead_letters}))


@app.command(
    context_settings={**BEHIND_DASHES},
    epilog="Example: streamgauge backtest -c job.yaml --from 2024-01-17T00:00:00Z --to latest",
)
def backtest(
    *,
    context: typer.Context,
    config: ConfigOption,
    start: Annotated[
        str, typer.Option("--from", help="Start: earliest, an event time, or partition:offset,…")
    ] = "earliest",
    end: Annotated[
        str, typer.Option("--to", help="End: latest, an event time, or partition:offset,…")
    ] = "latest",
    out: Annotated[Path, typer.Option(help="Folder for all output.")] = Path("build/backtest"),
    runner: Annotated[
        Literal["inprocess", "flink"], typer.Option(help="Where the replay runs.")
    ] = "inprocess",
    state: StateOption = None,
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Write the final entity state to OUT/state.")
    ] = False,
    overrides: SetOption = None,
) -> None:
    """Replay a range of the input through the live graph, into files; prints a summary.

    With --runner flink, options for Beam may follow after --.
    """
    loaded, extra = load(config, overrides), beam_arguments(context.args)
    if extra and runner != "flink":
        raise ConfigError(f"--runner: must be flink for options for Beam; got {runner!r}")
    from streamgauge.pipeline.replay.backtest import backtest as replay

    _, summary = replay(
        loaded,
        start,
        end,
        out=out,
        runner=runner,
        beam_args=extra,
        state=state,
        keep_state=keep_state,
    )
    to_stderr(f"scores, alerts and report are in {out}")
    print(json.dumps(summary))


@app.command(epilog="Example: streamgauge audit -c job.yaml --entities 50")
def audit(
    *,
    config: ConfigOption,
    entities: Annotated[int, typer.Option(help="Number of entities in the sample.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the sample.", min=0)] = 0,
    entity: Annotated[
        list[str] | None, typer.Option(help="Audit this entity instead of a sample; repeatable.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Where the job began to read. [default: input.start]"),
    ] = None,
    end: Annotated[
        str, typer.Option("--to", help="End: latest, a record time, or partition:offset,…")
    ] = "latest",
    as_json: Annotated[
        bool, typer.Option("--json", help="Also print one JSON object, as the last line.")
    ] = False,
    overrides: SetOption = None,
) -> None:
    """Verify scores against the log: score a sample of entities again and compare the bits."""
    loaded = load(config, overrides)
    from streamgauge.pipeline.audit.audit import audit as examine

    report = examine(loaded, entities=entities, seed=seed, named=entity or (), start=start, end=end)
    for line in report.lines():
        print(line)
    if as_json:
        print(json.dumps(report.to_json()))
    if not report.is_exact:
        raise typer.Exit(EXIT_NOT_EXACT)


@alerts_app.command("tail", epilog="Example: streamgauge alerts tail --from-beginning --json")
def alerts_tail(
    *,
    config: AnyConfigOption = None,
    bootstrap_servers: ServersOption = None,
    topic: Annotated[
        str | None,
        typer.Option(help="Alert topic. [default: that of the file, or anomaly.alerts.v1]"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line.")
    ] = False,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest alert.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Stop after this many alerts.", min=1)] = None,
    idle_s: Annotated[
        float | None, typer.Option(help="Stop when no alert has arrived for this many seconds.")
    ] = None,
    entity: Annotated[
        list[str] | None, typer.Option(help="Only alerts of this entity; repeatable.")
    ] = None,
    severity: Annotated[
        Literal["warning", "critical"] | None, typer.Option(help="Only alerts of this severity.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Only alerts about events since this time, also older ones: ISO 8601, or a "
            "duration before now as 90m, 24h or 7d."
        ),
    ] = None,
) -> None:
    """Follow the alert topic: print each alert once, as soon as it arrives."""
    from streamgauge.pipeline import config as configs
    from streamgauge.pipeline.alerts.filters import AlertFilter, since_us
    from streamgauge.pipeline.alerts.tail import tail

    wanted = AlertFilter(
        entities=frozenset(entity or ()),
        severity=severity,
        since_us=None if since is None else since_us(since, time.time()),
    )
    servers, settings = access(config, bootstrap_servers)
    if topic is None:
        topic = configs.Alerts().topic if config is None else configs.load(config).alerts.topic
    tail(
        servers,
        topic,
        as_json=as_json,
        from_beginning=from_beginning or since is not None,
        limit=limit,
        idle_s=idle_s,
        wanted=wanted,
        settings=settings,
    )


@app.command(epilog="Example: streamgauge demo --out build/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report and summary.")] = Path("build/demo"),
) -> None:
    """Replay bundled telemetry with labelled anomalies; needs Python only."""
    from streamgauge.pipeline.replay.demo import demo as show

    show(out)


@app.command(epilog="Example: streamgauge version")
def version() -> None:
    """Print the version."""
    print(__version__)


if __name__ == "__main__":
    main()
