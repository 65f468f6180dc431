"""The commands `run`, `stop` and `doctor`: the live job."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from streamgauge.pipeline.cli.options import (
    BEHIND_DASHES,
    PROGRAM,
    ConfigOption,
    SetOption,
    StateOption,
    beam_arguments,
    load,
)
from streamgauge.pipeline.console.progress import to_stderr

#: Long enough for workers to start and for the first checkpoint at the default interval.
WATCH_S = 20.0


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        context_settings={**BEHIND_DASHES},
        epilog="Example: streamgauge run --config job.yaml --set flink.parallelism=4",
    )(run)
    app.command(
        epilog="Example: streamgauge stop -c job.yaml; `run --savepoint PATH` resumes the job"
    )(stop)
    app.command(epilog="Example: streamgauge doctor --config job.yaml")(doctor)


def run(
    *,
    context: typer.Context,
    config: ConfigOption,
    overrides: SetOption = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Run Flink inside the job server, without a cluster.")
    ] = False,
    savepoint: Annotated[
        str | None, typer.Option(help="Start from the state of this savepoint or checkpoint.")
    ] = None,
    state: StateOption = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start without state, although an earlier job has left some."),
    ] = False,
) -> None:
    """Submit the live job to Flink; options for Beam may follow after --."""
    # Errors in arguments are reported before Beam is loaded, which takes seconds.
    loaded, extra = load(config, overrides), beam_arguments(context.args)
    from streamgauge.pipeline.jobs.run import run as submit

    job_id = submit(
        loaded,
        is_embedded=embedded,
        savepoint=savepoint,
        state=state,
        fresh=fresh,
        beam_args=extra,
        watch_s=WATCH_S,
    )
    if job_id is not None:
        print(job_id)


def stop(
    *,
    config: ConfigOption,
    overrides: SetOption = None,
    savepoint: Annotated[
        bool, typer.Option(help="Write a savepoint, from which the job can resume.")
    ] = True,
    savepoint_dir: Annotated[
        str | None,
        typer.Option(help="URI of the folder for the savepoint. [default: that of the cluster]"),
    ] = None,
) -> None:
    """Stop the live job; prints the path of the savepoint."""
    loaded = load(config, overrides)
    from streamgauge.pipeline.jobs.run import stop as end

    path = end(loaded, savepoint, savepoint_dir)
    if path is not None:
        print(path)


def doctor(
    *,
    config: ConfigOption,
    overrides: SetOption = None,
    embedded: Annotated[
        bool,
        typer.Option(
            "--embedded", help="Skip the checks of the cluster: the job starts its own Flink."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of lines.")
    ] = False,
) -> None:
    """Check artifact, state folder, broker, topics and cluster; name the first thing to fix."""
    from streamgauge.pipeline.jobs.doctor import examine, exit_code, first_wrong

    narrate = (lambda text: None) if as_json else print
    findings = examine(config, tuple(overrides or ()), embedded, narrate=narrate)
    wrong = first_wrong(findings)
    if as_json:
        checks = [asdict(finding) for finding in findings]
        print(json.dumps({"ok": wrong is None, "checks": checks}))
    if wrong is not None:
        to_stderr(f"{PROGRAM}: fix this first: {wrong.detail}")
    raise typer.Exit(exit_code(findings))
