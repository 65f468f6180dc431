"""The part that runs the pool of Python workers; Beam asks it for one SDK worker per slot."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from streamgauge.infra.processes import parts
from streamgauge.infra.processes.ports import Ports
from streamgauge.infra.processes.process import is_listening, marked

#: The kernel's name of every SDK worker process (15 bytes at most); `worker_pool` sets it.
WORKER_NAME = "sg-sdk-worker"


def pool_part(
    directory: Path, ports: Ports, paths: Iterable[Path] = (), tied: bool = False
) -> parts.Part:
    """Describe the worker pool of a cluster folder.

    Args:
        directory: the cluster's folder.
        ports: the cluster's ports.
        paths: more folders in which workers find modules.
        tied: end with the caller.
    """
    return parts.Part(
        name="workers",
        command=[
            sys.executable,
            "-P",
            "-m",
            "streamgauge.infra.local.worker_pool",
            str(ports.workers),
        ],
        environment=parts.environment(directory, paths, **_worker_environment()),
        ports=("workers",),
        is_healthy=lambda _: is_listening(ports.workers),
        deadline_s=60.0,
        supervision="tied" if tied else "none",
    )


def worker_pids(directory: Path) -> list[int]:
    """List the live SDK workers of a cluster, including those whose pool is gone."""
    pids = marked(f"{parts.MARK}={directory}")
    return sorted(pid for pid in pids if _name(pid) == WORKER_NAME)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it has ended
        return ""


def _worker_environment() -> dict[str, str]:
    # Several workers share the cores. With a BLAS pool each, throughput falls from 128,000 to
    # 92,000 events/s, and the scorer's results are equal bit for bit only with one thread.
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # Blocks of a megabyte are allocated in one thread and freed in another. By default glibc
    # maps and unmaps each of them and keeps an arena per thread, and Arrow returns freed memory
    # to the kernel: page faults would then take a third of the time.
    memory = {
        "MALLOC_MMAP_THRESHOLD_": "268435456",
        "MALLOC_TRIM_THRESHOLD_": "536870912",
        "MALLOC_ARENA_MAX": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    # A worker that starts `python` gets the Python of this environment.
    bin_folder = str(Path(sys.executable).parent)
    return {
        **threads,
        **memory,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
