"""Where snapshots of shards are kept: files in a folder that workers and people can reach.

The folder is any that Beam's file systems know: a local path, `s3://…`, `gs://…`,
`hdfs://…`. A file is written under a name of its own and then renamed, so a reader never
meets half of one; each shard keeps its newest few.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems

from streamgauge.models.errors import StateDamagedError

# A snapshot that is being read may be replaced meanwhile; the one before stays as long.
KEPT = 2
_NAME = re.compile(r"shard-(\d{5})\.(\d{13})\.parquet$")


def write_snapshot(folder: str, shard: int, time_ms: int, data: bytes) -> str:
    """Keep `data` as the snapshot of `shard` at `time_ms`, drop old ones; returns its path."""
    _make(folder)
    path = FileSystems.join(folder, f"shard-{shard:05d}.{time_ms:013d}.parquet")
    unfinished = path + ".part"
    with FileSystems.create(unfinished, "application/octet-stream") as file:
        file.write(data)
    FileSystems.rename([unfinished], [path])
    if old := _paths_of(folder, f"shard-{shard:05d}.*")[:-KEPT]:
        FileSystems.delete(old)
    return path


def newest_snapshots(folder: str) -> dict[int, str]:
    """The path of each shard's newest snapshot in `folder`, by shard."""
    return {_shard_of(path): path for path in _paths_of(folder, "shard-*")}


def read_file(path: str) -> bytes:
    """All bytes of a file.

    Raises:
        StateDamagedError: the file is gone or cannot be read.
    """
    try:
        with FileSystems.open(path, "application/octet-stream") as file:
            return file.read()
    except OSError as error:
        raise StateDamagedError(f"{path}: cannot be read ({error})") from None


def _paths_of(folder: str, pattern: str) -> Sequence[str]:
    """Paths of the snapshots in `folder` that match `pattern`, oldest first."""
    [found] = FileSystems.match([FileSystems.join(folder, f"{pattern}.parquet")])
    paths = [one.path for one in found.metadata_list if _NAME.search(one.path)]
    return sorted(paths, key=lambda path: path.rpartition("shard-")[2])


def _shard_of(path: str) -> int:
    matched = _NAME.search(path)
    assert matched, path
    return int(matched[1])


def _make(folder: str) -> None:
    if not FileSystems.exists(folder):
        try:
            FileSystems.mkdirs(folder)
        except OSError:  # another worker was faster
            assert FileSystems.exists(folder), folder
