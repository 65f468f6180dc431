"""Snapshots of shards as files in a folder that workers and operators can reach.

The folder is any that Beam's file systems know: a local path, `s3://…`, `gs://…`, `hdfs://…`. A
file is written under a temporary name and then renamed, so a reader never sees an incomplete one.
The newest two files of each shard are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems

from streamgauge.models.errors import StateDamagedError

# The one before the newest is kept for a reader that opened it before it was replaced.
SNAPSHOTS_KEPT = 2
_MIME_TYPE = "application/octet-stream"
_NAME = re.compile(r"shard-(\d{5})\.(\d{13})\.parquet$")


def write_snapshot(folder: str, shard: int, time_ms: int, data: bytes) -> str:
    """Write the snapshot of `shard` at `time_ms` and delete old ones; returns its path."""
    _make_folder(folder)
    path = FileSystems.join(folder, f"shard-{shard:05d}.{time_ms:013d}.parquet")
    unfinished = path + ".part"
    with FileSystems.create(unfinished, _MIME_TYPE) as file:
        file.write(data)
    FileSystems.rename([unfinished], [path])
    if old := _paths_of(folder, f"shard-{shard:05d}.*")[:-SNAPSHOTS_KEPT]:
        FileSystems.delete(old)
    return path


def newest_snapshots(folder: str) -> dict[int, str]:
    """Shard -> path of its newest snapshot in `folder`."""
    return {_shard_of(path): path for path in _paths_of(folder, "shard-*")}


def read_file(path: str) -> bytes:
    """All bytes of a file.

    Raises:
        StateDamagedError: the file does not exist or cannot be read.
    """
    try:
        with FileSystems.open(path, _MIME_TYPE) as file:
            return bytes(file.read())
    except OSError as error:
        raise StateDamagedError(f"{path}: cannot be read ({error})") from None


def _paths_of(folder: str, pattern: str) -> Sequence[str]:
    """Paths of the snapshots in `folder` that match `pattern`, oldest first."""
    [matched] = FileSystems.match([FileSystems.join(folder, f"{pattern}.parquet")])
    paths = [metadata.path for metadata in matched.metadata_list if _NAME.search(metadata.path)]
    return sorted(paths, key=lambda path: path.rpartition("shard-")[2])


def _shard_of(path: str) -> int:
    name = _NAME.search(path)
    assert name, path
    return int(name[1])


def _make_folder(folder: str) -> None:
    if not FileSystems.exists(folder):
        try:
            FileSystems.mkdirs(folder)
        except OSError:  # another worker may have created it meanwhile
            assert FileSystems.exists(folder), folder
