"""Entity state outside the runner: export, import, inspect, erase, and start a job from it.

A live job with `state.folder` writes a snapshot of each shard to that folder. Snapshots of
different times can be used together: each records the position of its shard in the log. A job
that starts from them reads every partition from the lowest position of all shards, and each
shard skips the events that its state already contains. Snapshots therefore stay usable when
savepoints do not, for instance after an upgrade of the runner.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError, StateDamagedError
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import Layout
from streamgauge.models.state.snapshot_file import (
    ShardSnapshot,
    SnapshotHeader,
    check_header,
    decode_header,
    decode_snapshot,
    encode_snapshot,
    start_offsets,
)
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.jobs.preflight import snapshots_in
from streamgauge.pipeline.jobs.ranges import check_retained
from streamgauge.transforms.kafka.producer import new_output_producer
from streamgauge.transforms.runner.snapshot_store import read_file, write_snapshot

MANIFEST = "manifest.json"


class ExportedShard(msgspec.Struct, frozen=True):
    """One file of an export."""

    file: str
    sha256: str
    entities: int
    positions: dict[int, int]


class Manifest(msgspec.Struct, frozen=True):
    """The contents of an export. It is written last, so an incomplete export has no manifest."""

    format: int
    artifact: str
    topic: str
    shards: int
    routing: str
    #: By shard; a shard without events has no file.
    files: dict[int, ExportedShard]

    @property
    def entities(self) -> int:
        """The number of entities in all files."""
        return sum(file.entities for file in self.files.values())


@dataclass(frozen=True, slots=True, eq=False)
class StoredEntity:
    """The state of one entity in a snapshot."""

    #: The file of the snapshot.
    path: str
    #: The snapshot of the entity's shard.
    snapshot: ShardSnapshot
    #: The record of the entity.
    row: np.void


def layout_of(config: Config, artifact: Artifact) -> Layout:
    """The layout of the entity rows of a job."""
    return Scorer(artifact, config.scoring.policy, config.alerts.policy).layout


def starting_offsets(config: Config, artifact: Artifact, folder: str) -> dict[int, int]:
    """The offset, by partition, at which a job that starts from the state in `folder` must read.

    Raises:
        ConfigError: there is no state, or the events after it are no longer in the log.
        StateFormatError: the state is damaged, or of another artifact, topic or sharding.
    """
    offsets = start_offsets(headers_of(config, artifact, folder))
    check_retained(config, offsets)
    return offsets


def headers_of(config: Config, artifact: Artifact, folder: str) -> list[SnapshotHeader]:
    """The headers of the newest snapshots in `folder`; each is checked to fit the job.

    Raises:
        ConfigError: there is no state.
        StateFormatError: the state is damaged, or of another artifact, topic or sharding.
    """
    layout, origin = layout_of(config, artifact), graph.origin(config)
    headers = []
    for path, data in _files(folder):
        header = decode_header(data, path)
        check_header(header, path, layout, origin)
        headers.append(header)
    return headers


def export(config: Config, artifact: Artifact, out: Path) -> Manifest:
    """Verify the newest snapshot of each shard of the job, and copy it to `out`.

    Raises:
        ConfigError: the job writes no snapshots, or `out` is not empty.
    """
    folder = graph.state_folder(config)
    if folder is None:
        raise ConfigError(
            "state.folder: must be set for a job whose snapshots are exported; it is not set"
        )
    return _copy(config, artifact, folder, out)


def import_(config: Config, artifact: Artifact, folder: str, out: Path) -> Manifest:
    """Verify that the job can start from the state in `folder`, and write the state to `out`.

    Every row is read, and written in the format of this release.

    Raises:
        ConfigError: the events after the state are no longer in the log, or `out` is not empty.
        StateFormatError: the state is damaged, or of another artifact, topic or sharding.
    """
    starting_offsets(config, artifact, folder)
    return _copy(config, artifact, folder, out)


def find(config: Config, artifact: Artifact, folder: str, entity_id: str) -> StoredEntity:
    """The state of an entity in `folder`.

    Raises:
        ConfigError: the folder holds no state of this entity.
    """
    for path, snapshot in _snapshots(config, artifact, folder):
        [index] = snapshot.table.find([entity_id]).tolist()
        if index >= 0:
            return StoredEntity(path, snapshot, snapshot.table.rows[index])
    raise _unknown_entity(folder, entity_id)


def erase(config: Config, artifact: Artifact, folder: str, entity_id: str) -> str:
    """Remove an entity from the newest snapshots in `folder`; returns the file that held it.

    Raises:
        ConfigError: the folder holds no state of this entity.
    """
    origin = graph.origin(config)
    erased = None
    for path, snapshot in _snapshots(config, artifact, folder):
        table = snapshot.table
        [index] = table.find([entity_id]).tolist()
        if index < 0:
            continue
        table.retain(np.delete(np.arange(len(table)), index))
        table.forget_names({entity_id})
        _rewrite(path, snapshot, encode_snapshot(snapshot, origin))
        erased = path
    if erased is None:
        raise _unknown_entity(folder, entity_id)
    return erased


def erase_live(
    config: Config, artifact: Artifact, entity_id: str, *, partition: int | None
) -> tuple[int, int]:
    """Erase an entity from a live job by sending a tombstone to the input topic.

    The tombstone has an offset in the log, so every replay erases the entity at the same point.

    Args:
        config: the configuration of the job.
        artifact: the artifact of the job.
        entity_id: the entity.
        partition: the partition of the entity's events; None takes it from the snapshots.

    Returns:
        Partition and offset of the tombstone.

    Raises:
        ConfigError: the partition is unknown, or the broker refuses the tombstone.
    """
    if partition is None:
        folder = graph.state_folder(config)
        if folder is None:
            raise ConfigError("--partition: must be given for a job without state.folder")
        partition = int(find(config, artifact, folder, entity_id).row["partition"])
    producer, reports = new_output_producer(graph.access(config)), []

    def delivered(error: Any, message: Any) -> None:
        reports.append(error or message.offset())

    producer.produce(
        config.input.topic,
        None,
        entity_id.encode(),
        partition=partition,
        on_delivery=delivered,
    )
    producer.flush()
    if not isinstance(reports[0], int):
        raise ConfigError(
            f"--partition: the broker must accept partition {partition}; {reports[0]}"
        )
    return partition, reports[0]


def describe(stored: StoredEntity, artifact: Artifact) -> dict[str, Any]:
    """The state of an entity as plain JSON types."""
    row, names = stored.row, artifact.schema.names
    spread = np.sqrt(row["var"].astype(np.float64))
    return {
        "shard": stored.snapshot.shard,
        "partition": int(row["partition"]),
        "position": stored.snapshot.epoch.reached[int(row["partition"])].end_offset,
        "last_event_time_us": int(row["event_time_us"]),
        "events": int(row["event_count"]),
        "smoothed_score": [float(row["smoothed_fast"]), float(row["smoothed_slow"])],
        "alert": {
            "is_open": bool(row["alert_events"]),
            "events": int(row["alert_events"]),
            "since_us": int(row["alert_time_us"]) if row["alert_events"] else None,
        },
        "budget": {
            "threshold": float(np.exp(row["log_threshold"])),
            "credit": float(row["credit"]),
        },
        "hidden": {
            "size": int(row["hidden"].size),
            "norm": float(np.linalg.norm(row["hidden"])),
            "blake2b": hashlib.blake2b(row["hidden"].tobytes(), digest_size=8).hexdigest(),
        },
        "features": {
            name: {"mean": float(row["mean"][i]), "std": float(spread[i])}
            for i, name in enumerate(names)
        },
    }


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export; its files are verified.

    Raises:
        StateDamagedError: a file is missing or was altered.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise StateDamagedError(
            f"{folder / MANIFEST}: must be the manifest of an export; {error}"
        ) from None
    for shard in manifest.files.values():
        digest = hashlib.sha256(read_file(str(folder / shard.file))).hexdigest()
        if digest != shard.sha256:
            raise StateDamagedError(
                f"{folder / shard.file}: SHA-256 must be {shard.sha256[:16]}…; got {digest[:16]}…; "
                "export the state again"
            )
    return manifest


def _copy(config: Config, artifact: Artifact, folder: str, out: Path) -> Manifest:
    _make_empty_folder(out)
    origin, files = graph.origin(config), {}
    for path, snapshot in _snapshots(config, artifact, folder):
        data = encode_snapshot(snapshot, origin)
        name = _name(path)
        (out / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        ends = {p: progress.end_offset for p, progress in sorted(snapshot.epoch.reached.items())}
        files[snapshot.shard] = ExportedShard(name, digest, len(snapshot.table), ends)
    manifest = Manifest(1, artifact.digest, origin.topic, origin.shards, origin.routing, files)
    _write_manifest(out, manifest)
    return manifest


def _make_empty_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        is_empty = not any(out.iterdir())
    except OSError as error:
        raise ConfigError(
            f"--out: must be a folder that can be written; {out}: {error.strerror}"
        ) from error
    if not is_empty:
        raise ConfigError(f"--out: must be an empty folder; {out} holds files")


def _snapshots(
    config: Config, artifact: Artifact, folder: str
) -> Iterator[tuple[str, ShardSnapshot]]:
    layout, origin = layout_of(config, artifact), graph.origin(config)
    for path, data in _files(folder):
        yield path, decode_snapshot(data, path, layout, origin)


def _files(folder: str) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each shard's newest snapshot; the files of an export are verified."""
    if "://" not in folder and (Path(folder) / MANIFEST).exists():
        read_manifest(Path(folder))
    paths = snapshots_in(folder, "state")
    if not paths:
        raise ConfigError(
            f"state: {folder} must hold snapshots of shards; it holds none. A job writes them to "
            "state.folder, every state.snapshot_interval_s seconds"
        )
    for _, path in sorted(paths.items()):
        yield path, read_file(path)


def _unknown_entity(folder: str, entity_id: str) -> ConfigError:
    return ConfigError(f"--entity: must have state in {folder}; {entity_id!r} has none")


def _rewrite(path: str, snapshot: ShardSnapshot, data: bytes) -> None:
    folder = path.rpartition("/")[0]
    manifest_path = Path(folder) / MANIFEST
    if "://" in path or not manifest_path.exists():
        write_snapshot(folder, snapshot.shard, int(time.time() * 1000), data)
        return
    Path(path).write_bytes(data)
    manifest = msgspec.json.decode(manifest_path.read_bytes(), type=Manifest)
    now = msgspec.structs.replace(
        manifest.files[snapshot.shard],
        sha256=hashlib.sha256(data).hexdigest(),
        entities=len(snapshot.table),
    )
    files = manifest.files | {snapshot.shard: now}
    _write_manifest(Path(folder), msgspec.structs.replace(manifest, files=files))


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")


def _name(path: str) -> str:
    """The file name of a local path or a URI."""
    return re.split(r"[/\\]", path)[-1]
