"""Which state a job may start from: the record of each job, and its newest checkpoint.

A checkpoint or savepoint does not say which job wrote it. `run` therefore writes a record into
the job's checkpoint folder once the job runs, and `stop` writes it into the savepoint:

    <state.checkpoints.dir>/<job id>/streamgauge.json    name, identity, savepoint of the stop
    <state.checkpoints.dir>/<job id>/chk-<n>/_metadata   retained checkpoints
    <savepoint>/streamgauge.json                         name, identity

Records are read and written where this machine sees the folder as files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlparse

from streamgauge.infra.flink_rest import FlinkRest
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.console.progress import Narrate

FILE = "streamgauge.json"
FORMAT = 1
#: Flink writes it last: a folder without it is no complete checkpoint.
METADATA = "_metadata"

#: What state belongs to: names of settings and parts of the artifact, with their values.
Identity = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job that was started."""

    name: str
    identity: Identity
    #: Where the job was stopped to; None while it runs, and after a crash.
    savepoint: str | None = None


def identity_of(config: Config, artifact: Artifact) -> Identity:
    """What must be equal for a job to start from the state of another."""
    return {
        "input.topic": config.input.topic,
        "input.routing": config.input.routing,
        "scoring.shards": config.scoring.shards,
        "flink.max_parallelism": config.flink.max_parallelism,
        "features of the artifact": artifact.schema.fingerprint(),
        "artifact": artifact.digest[:12],
    }


def check_savepoint(savepoint: str, identity: Identity, narrate: Narrate) -> None:
    """Check that a savepoint or checkpoint is of a job with the same identity.

    Without a record nothing is known, and a line is emitted.

    Raises:
        ConfigError: it is of another job; every difference is named.
    """
    folder = _local(savepoint)
    if folder is not None and folder.name == METADATA:
        folder = folder.parent
    record = None if folder is None else _read(folder / FILE) or _read(folder.parent / FILE)
    if record is None:
        narrate(
            f"warning: no {FILE} at {savepoint}, so the model, topic, routing and shards of this "
            "state are not checked"
        )
        return
    differences = [
        f"{name} is {record.identity.get(name)!r} there and {value!r} here"
        for name, value in identity.items()
        if record.identity.get(name) != value
    ]
    if differences:
        raise ConfigError(
            f"--savepoint: must be of a job with the same settings; {savepoint}: "
            f"{', '.join(differences)}. Change them back, or start without state with --fresh"
        )


def refuse_to_start_empty(rest: FlinkRest, name: str) -> None:
    """Check that no checkpoint or savepoint of a job of this name is left.

    Raises:
        ConfigError: there is one; the newest is named.
    """
    folder = checkpoint_folder(rest)
    newest = None if folder is None else newest_state(folder, name)
    if newest is not None:
        time = datetime.fromtimestamp(_time_s(newest), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        raise ConfigError(
            f"name: job {name!r} has state of {time}; resume from it with `--savepoint {newest}`, "
            "or start without state with `--fresh`"
        )


def newest_state(folder: Path, name: str) -> Path | None:
    """The newest checkpoint or savepoint of the jobs of this name; None if there is none."""
    return max(_states(folder, name), key=_time_s, default=None)


def record_start(rest: FlinkRest, job_id: str, record: JobRecord, narrate: Narrate) -> None:
    """Write the record of a job that runs into its checkpoint folder."""
    folder = checkpoint_folder(rest)
    if folder is None:
        narrate(
            "warning: this machine does not see the checkpoint folder of Flink, so a later run "
            "does not find the newest checkpoint"
        )
        return
    _write(folder / job_id / FILE, record, narrate)


def record_stop(rest: FlinkRest, job_id: str, savepoint: str, narrate: Narrate) -> None:
    """Write the record of a job into the savepoint to which it was stopped."""
    folder = checkpoint_folder(rest)
    record = None if folder is None else _read(folder / job_id / FILE)
    if folder is None or record is None:
        return
    if target := _local(savepoint):
        _write(target / FILE, record, narrate)
    stopped = dataclasses.replace(record, savepoint=savepoint)
    _write(folder / job_id / FILE, stopped, narrate)


def checkpoint_folder(rest: FlinkRest) -> Path | None:
    """The folder that holds a folder of checkpoints per job; None if it is not seen here."""
    folder = _local(rest.settings().get("state.checkpoints.dir", ""))
    return folder if folder is not None and folder.is_dir() else None


def _states(folder: Path, name: str) -> Iterator[Path]:
    """The checkpoints and savepoints of the jobs of this name."""
    for file in folder.glob(f"*/{FILE}"):
        record = _read(file)
        if record is None or record.name != name:
            continue
        yield from (metadata.parent for metadata in file.parent.glob(f"chk-*/{METADATA}"))
        savepoint = _local(record.savepoint or "")
        if savepoint is not None and (savepoint / METADATA).exists():
            yield savepoint


def _time_s(state: Path) -> float:
    """When a checkpoint or savepoint was complete."""
    return (state / METADATA).stat().st_mtime


def _local(uri: str) -> Path | None:
    """The path of a URI or path; None for another file system, or for nothing.

    >>> _local("file:/data/a%20b"), _local("s3://bucket/a")
    (PosixPath('/data/a b'), None)
    """
    parts = urlparse(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme or not uri else Path(uri)


def _read(file: Path) -> JobRecord | None:
    """The record in a file; None if there is no file.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        data = json.loads(file.read_text())
        if data["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}; got {data['format']!r}")
        return JobRecord(data["name"], dict(data["identity"]), data["savepoint"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file}: must be the record of a job ({type(error).__name__}: {error}); without the "
            "file, its state is not checked"
        ) from None


def _write(file: Path, record: JobRecord, narrate: Narrate) -> None:
    """Write a record; the job runs without it, so a failure is a warning."""
    unfinished = file.with_suffix(".part")
    try:
        file.parent.mkdir(exist_ok=True)
        unfinished.write_text(
            json.dumps({"format": FORMAT, **dataclasses.asdict(record)}, indent=2) + "\n"
        )
        unfinished.replace(file)
    except OSError as error:
        narrate(f"warning: no record of the job at {file}: {error.strerror or error}")
