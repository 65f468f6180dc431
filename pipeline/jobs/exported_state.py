"""State outside the runner: export it, see into it, forget an entity, start a job from it.

A live job with `state.folder` keeps a snapshot of each shard there. Snapshots of different
moments fit together: each says how far its shard had come, and a job that starts from
them reads every partition from the lowest place of any shard, each shard passing over
what it has seen. So they outlive savepoints, runners and their upgrades.
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
from streamgauge.transforms.kafka.client import PartitionReader
from streamgauge.transforms.kafka.producer import new_output_producer
from streamgauge.transforms.runner.snapshot_store import newest_snapshots, read_file, write_snapshot

MANIFEST = "manifest.json"


class ExportedShard(msgspec.Struct, frozen=True):
    """One file of an export."""

    file: str
    sha256: str
    entities: int
    positions: dict[int, int]


class Manifest(msgspec.Struct, frozen=True):
    """What an export holds; written last, so that half an export is not taken for one."""

    format: int
    artifact: str
    topic: str
    shards: int
    routing: str
    #: By shard; a shard that has seen nothing yet has no file.
    files: dict[int, ExportedShard]

    @property
    def entities(self) -> int:
        """How many entities are remembered."""
        return sum(one.entities for one in self.files.values())


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Where an entity is remembered, and what."""

    path: str
    #: Of its shard.
    snapshot: ShardSnapshot
    #: One record.
    row: np.void


def layout_of(config: Config, artifact: Artifact) -> Layout:
    """The rows of a job's tables."""
    return Scorer(artifact, config.scoring.policy, config.alerts.policy).layout


def starting_offsets(config: Config, artifact: Artifact, folder: str) -> dict[int, int]:
    """Where each partition must be read from by a job that starts from the state in `folder`.

    Raises:
        ConfigError: there is no state, or the log no longer holds what comes after it.
        StateFormatError: it is damaged, or of another artifact, topic or cut.
    """
    offsets = start_offsets(headers_of(config, artifact, folder))
    for partition, offset in offsets.items():
        _check_in_log(config, partition, offset)
    return offsets


def headers_of(config: Config, artifact: Artifact, folder: str) -> list[SnapshotHeader]:
    """What each shard's newest snapshot in `folder` says of itself, all fit for a job of `config`.

    Raises:
        ConfigError: there is no state.
        StateFormatError: it is damaged, or of another artifact, topic or cut.
    """
    layout, origin = layout_of(config, artifact), graph.origin(config)
    headers = []
    for path, data in _files(folder):
        header = decode_header(data, path)
        check_header(header, path, layout, origin)
        headers.append(header)
    return headers


def export(config: Config, artifact: Artifact, out: Path) -> Manifest:
    """Copy the newest snapshot of each shard of the job `config` names to `out`, verified.

    Raises:
        ConfigError: the job keeps no snapshots, or `out` is not empty.
    """
    folder = graph.state_folder(config)
    if folder is None:
        raise ConfigError("state.folder: must be set for a job whose state is exported; it is not")
    return _copy(config, artifact, folder, out)


def import_(config: Config, artifact: Artifact, folder: str, out: Path) -> Manifest:
    """Verify the state in `folder` for a job of `config`; write it anew to `out`.

    Every row is read, and written in the format of this release, where workers can reach it.

    Raises:
        ConfigError: the log no longer holds what comes after it, or `out` is not empty.
        StateFormatError: it is damaged, or of another artifact, topic or cut.
    """
    starting_offsets(config, artifact, folder)
    return _copy(config, artifact, folder, out)


def find(config: Config, artifact: Artifact, folder: str, entity_id: str) -> Found:
    """What the state in `folder` remembers of an entity.

    Raises:
        ConfigError: nothing.
    """
    for path, snapshot in _snapshots(config, artifact, folder):
        [place] = snapshot.table.find([entity_id]).tolist()
        if place >= 0:
            return Found(path, snapshot, snapshot.table.rows[place])
    raise ConfigError(f"--entity: must be remembered in {folder}; {entity_id!r} is not")


def erase(config: Config, artifact: Artifact, folder: str, entity_id: str) -> str:
    """Take an entity out of the newest snapshots in `folder`; returns the file it was in.

    Raises:
        ConfigError: it is not remembered there.
    """
    origin = graph.origin(config)
    erased = None
    for path, snapshot in _snapshots(config, artifact, folder):
        table = snapshot.table
        [place] = table.find([entity_id]).tolist()
        if place < 0:
            continue
        table.retain(np.delete(np.arange(len(table)), place))
        table.forget_names({entity_id})
        _rewrite(path, snapshot, encode_snapshot(snapshot, origin))
        erased = path
    if erased is None:
        raise ConfigError(f"--entity: must be remembered in {folder}; {entity_id!r} is not")
    return erased


def erase_live(
    config: Config, artifact: Artifact, entity_id: str, partition: int | None
) -> tuple[int, int]:
    """Have a live job forget an entity, by a tombstone in its own partition of the input.

    So the erasure has its place in the log, and every replay erases there too.

    Args:
        config: the job.
        artifact: its artifact.
        entity_id: the entity.
        partition: where the entity's events lie; None looks it up in the job's snapshots.

    Returns:
        Partition and offset of the tombstone.
    """
    if partition is None:
        folder = graph.state_folder(config)
        if folder is None:
            raise ConfigError("--partition: must be given for a job without state.folder")
        partition = int(find(config, artifact, folder, entity_id).row["partition"])
    producer, sent = new_output_producer(graph.access(config)), []

    def delivered(error: Any, message: Any) -> None:
        sent.append(error or message.offset())

    producer.produce(config.input.topic, None, entity_id.encode(), partition, on_delivery=delivered)
    producer.flush()
    if not isinstance(sent[0], int):
        raise ConfigError(f"--partition: the broker must take partition {partition}; {sent[0]}")
    return partition, sent[0]


def describe(found: Found, artifact: Artifact) -> dict[str, Any]:
    """What is remembered of an entity, as plain JSON types."""
    row, names = found.row, artifact.schema.names
    spread = np.sqrt(row["var"].astype(np.float64))
    return {
        "shard": found.snapshot.shard,
        "partition": int(row["partition"]),
        "position": found.snapshot.epoch.reached[int(row["partition"])].end_offset,
        "last_event_time_us": int(row["event_time_us"]),
        "events": int(row["event_count"]),
        "smoothed_score": [float(row["smoothed_fast"]), float(row["smoothed_slow"])],
        "episode": {
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
    """The manifest of an export, its files verified.

    Raises:
        StateDamagedError: a file is missing or was altered.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise StateDamagedError(
            f"{folder / MANIFEST}: must be the manifest of an export; {error}"
        ) from (None)
    for one in manifest.files.values():
        found = hashlib.sha256(read_file(str(folder / one.file))).hexdigest()
        if found != one.sha256:
            raise StateDamagedError(
                f"{folder / one.file}: SHA-256 must be {one.sha256[:16]}…; got {found[:16]}…; "
                "export the state again"
            )
    return manifest


def _copy(config: Config, artifact: Artifact, folder: str, out: Path) -> Manifest:
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out: must be an empty folder; {out} holds files")
    out.mkdir(parents=True, exist_ok=True)
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


def _snapshots(
    config: Config, artifact: Artifact, folder: str
) -> Iterator[tuple[str, ShardSnapshot]]:
    layout, origin = layout_of(config, artifact), graph.origin(config)
    for path, data in _files(folder):
        yield path, decode_snapshot(data, path, layout, origin)


def _files(folder: str) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each shard's newest snapshot in `folder`; of an export, verified."""
    if "://" not in folder and (Path(folder) / MANIFEST).exists():
        read_manifest(Path(folder))
    paths = newest_snapshots(folder)
    if not paths:
        raise ConfigError(
            f"state: {folder} must hold snapshots of shards; it holds none. A job keeps them "
            "where state.folder says, every state.snapshot_interval_s seconds"
        )
    for _, path in sorted(paths.items()):
        yield path, read_file(path)


def _check_in_log(config: Config, partition: int, offset: int) -> None:
    reader = PartitionReader(graph.access(config), config.name, config.input.topic, partition)
    try:
        low, high = reader.offset_at("earliest"), reader.offset_at("latest")
    finally:
        reader.close()
    if not low <= offset <= high:
        raise ConfigError(
            f"state: partition {partition} of {config.input.topic!r} must hold offset {offset}, "
            f"where the state ends; it holds {low} to {high}. Export a newer state"
        )


def _rewrite(path: str, snapshot: ShardSnapshot, data: bytes) -> None:
    folder = path.rpartition("/")[0]
    manifest_at = Path(folder) / MANIFEST
    if "://" in path or not manifest_at.exists():
        write_snapshot(folder, snapshot.shard, int(time.time() * 1000), data)
        return
    Path(path).write_bytes(data)
    manifest = msgspec.json.decode(manifest_at.read_bytes(), type=Manifest)
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
    """A file's own name, of a local path or a URI."""
    return re.split(r"[/\\]", path)[-1]
