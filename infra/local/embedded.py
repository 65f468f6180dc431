"""Flink inside the job server's JVM, with a worker pool: a live run without a cluster.

For `run --embedded`: both processes end with the caller, also when it is killed. State is
on the heap and checkpoints die with the process; production and tests use `cluster`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamgauge.infra.local import flink, jars, workers
from streamgauge.infra.narrate import Narrate, silent
from streamgauge.infra.processes import lifecycle
from streamgauge.infra.processes.ports import Ports


@dataclass(frozen=True, slots=True)
class EmbeddedInfo:
    """The addresses at which the embedded Flink accepts jobs."""

    #: Beam's `--job_endpoint`.
    job_endpoint: str
    #: Beam's `--environment_config` for `--environment_type=EXTERNAL`.
    worker_endpoint: str


@contextmanager
def embedded(
    directory: Path,
    narrate: Narrate = silent,
    jar_cache: Path | None = None,
    worker_paths: tuple[Path, ...] = (),
) -> Iterator[EmbeddedInfo]:
    """Run job server and worker pool on free ports for the duration of a `with` block.

    Args:
        directory: folder for logs and scratch files; nothing in it is needed afterwards.
        narrate: receives one line per step.
        jar_cache: `None` is the user's cache folder.
        worker_paths: more folders in which workers find modules.

    Raises:
        InfraError: Java is missing, a download failed, or a part does not come up.
    """
    directory = directory.resolve()
    ports = Ports.free()
    jar_sets = jars.resolve(narrate, jar_cache)
    flink.write_config(directory, ports, slots=1)
    todo = [
        flink.job_server_part(directory, ports, jar_sets, embedded=True),
        workers.pool_part(directory, ports, worker_paths, tied=True),
    ]
    try:
        lifecycle.start(todo, directory, ports, narrate=narrate)
        yield EmbeddedInfo(f"localhost:{ports.job}", f"localhost:{ports.workers}")
    finally:
        lifecycle.stop_parts(directory, [part.name for part in todo])
        lifecycle.stop_strays(directory)
