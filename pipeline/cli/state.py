"""The commands `streamgauge state …`: entity state outside the runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.cli.options import Commands, ConfigOption, SetOption, load
from streamgauge.pipeline.console.progress import to_stderr

if TYPE_CHECKING:
    from streamgauge.models.artifacts.artifact import Artifact
    from streamgauge.pipeline.config import Config

state_app = Commands(help="Export, import, inspect and erase entity state.")

FromOption = Annotated[
    str | None,
    typer.Option("--state", help="Folder of exported state. [default: the snapshots of the job]"),
]
EntityOption = Annotated[str, typer.Option("--entity", help="Id of the entity.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for the output; must be empty.")]


@state_app.command(
    "export", epilog="Example: streamgauge state export -c job.yaml --out state-2024-05-01"
)
def export_(config: ConfigOption, out: OutOption, overrides: SetOption = None) -> None:
    """Verify and copy the newest snapshots of the job; `run --state` resumes from them."""
    from streamgauge.pipeline.jobs import exported_state

    loaded, artifact = _job(config, overrides)
    _narrate(exported_state.export(loaded, artifact, out), out)


@state_app.command(
    "import",
    epilog="Example: streamgauge state import -c job.yaml --state backup --out /mnt/shared/state",
)
def import_(
    config: ConfigOption,
    state: Annotated[
        str, typer.Option("--state", help="Folder of exported state, of any release.")
    ],
    out: OutOption,
    overrides: SetOption = None,
) -> None:
    """Verify that the job can start from exported state; write it in the current format."""
    from streamgauge.pipeline.jobs import exported_state

    loaded, artifact = _job(config, overrides)
    _narrate(exported_state.import_(loaded, artifact, state, out), out)


@state_app.command(epilog="Example: streamgauge state inspect -c job.yaml --entity machine-1-1")
def inspect(
    *,
    config: ConfigOption,
    entity: EntityOption,
    state: FromOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    overrides: SetOption = None,
) -> None:
    """Show the state of an entity."""
    from streamgauge.pipeline.jobs import exported_state

    loaded, artifact = _job(config, overrides)
    stored = exported_state.find(loaded, artifact, _folder(loaded, state), entity)
    description = {
        "entity": entity,
        "file": stored.path,
        **exported_state.describe(stored, artifact),
    }
    if as_json:
        print(json.dumps(description))
        return
    for line in _lines(description):
        print(line)


@state_app.command(epilog="Example: streamgauge state erase -c job.yaml --entity machine-1-1")
def erase(
    *,
    config: ConfigOption,
    entity: EntityOption,
    state: FromOption = None,
    partition: Annotated[
        int | None,
        typer.Option(help="Partition of the entity's events. [default: from the snapshots]"),
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Erase an entity: from exported state, or without --state from the running job."""
    from streamgauge.pipeline.jobs import exported_state

    loaded, artifact = _job(config, overrides)
    if state is not None:
        to_stderr(f"erased {entity!r} from {exported_state.erase(loaded, artifact, state, entity)}")
        return
    partition, offset = exported_state.erase_live(loaded, artifact, entity, partition=partition)
    to_stderr(
        f"sent a tombstone for {entity!r}: {loaded.input.topic}, partition {partition}, offset "
        f"{offset}; the job erases the entity there, and later snapshots do not contain it"
    )


def _job(path: Path, overrides: list[str] | None) -> tuple[Config, Artifact]:
    loaded = load(path, overrides)
    from streamgauge.pipeline.jobs.preflight import load_artifact

    return loaded, load_artifact(loaded)


def _folder(config: Config, state: str | None) -> str:
    from streamgauge.pipeline.graph import state_folder

    folder = state or state_folder(config)
    if folder is None:
        raise ConfigError("--state: must be given for a job without state.folder")
    return folder


def _narrate(manifest: Any, out: Path) -> None:
    to_stderr(
        f"{manifest.entities:,} entities of {len(manifest.files)} shards are in {out}; "
        f"`streamgauge run --state {out}` resumes from it"
    )


def _lines(description: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in description.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines
