"""The local cluster as a whole: `up`, `status`, `down`, and faults for tests.

A cluster is a folder. `cluster.json` holds its settings, `run/` one record per process, `logs/`
one log per part; the broker's data and the checkpoints have folders beside these.
"""

from __future__ import annotations

import fcntl
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamgauge.infra.errors import PartError
from streamgauge.infra.local import flink, jars, kafka, workers
from streamgauge.infra.local.info import ClusterInfo, ClusterSpec
from streamgauge.infra.narrate import Narrate, silent
from streamgauge.infra.processes import lifecycle
from streamgauge.infra.processes.lifecycle import PartStatus
from streamgauge.infra.processes.parts import Part, log_path
from streamgauge.infra.processes.process import log_tail, wait_until
from streamgauge.infra.processes.slowness import slowness


def up(spec: ClusterSpec, narrate: Narrate = silent) -> ClusterInfo:
    """Start the parts that do not run yet, wait until all are healthy, and return the addresses.

    Raises:
        InfraError: Java or Maven missing, a taken port, a part that does not come up. Parts
            that this call started are stopped again.
    """
    jar_sets = jars.resolve(narrate, spec.jar_cache)
    directory = spec.directory.resolve()
    info = ClusterInfo(
        directory, spec.task_managers, spec.slots, spec.ports, jar_sets, spec.worker_paths
    )
    with _locked(directory):
        running = _running(directory)
        if running:
            _check_same(info)
        todo = [part for part in _parts(info) if part.name not in running]
        if not running:
            flink.clear_scratch(directory)
        if todo:
            flink.write_config(directory, info.ports, info.slots)
            info.save()
            narrate("starting " + ", ".join(part.name for part in todo))
        timeout_s = spec.start_timeout_s
        lifecycle.start(todo, directory, info.ports, narrate=narrate, timeout_s=timeout_s)
        for part in _parts(info):
            lifecycle.await_healthy(part, directory, timeout_s)
    narrate(f"{'up' if todo else 'already up'} in {directory}")
    return info


def status(directory: Path) -> list[PartStatus]:
    """Return the state of every part of the cluster in a folder."""
    info = ClusterInfo.load(directory)
    return [lifecycle.part_status(part, info.directory) for part in _parts(info)]


def down(directory: Path, wipe: bool = False, narrate: Narrate = silent) -> None:
    """Stop every process of the cluster; fine when none runs.

    Args:
        directory: the cluster's folder.
        wipe: also remove the folder, topics and checkpoints included.
        narrate: receives one line per step.
    """
    info = ClusterInfo.load(directory)
    with _locked(info.directory):
        running = _running(info.directory)
        narrate(f"stopping {', '.join(running)}" if running else "nothing runs")
        lifecycle.stop_parts(info.directory, info.part_names)
        strays = lifecycle.stop_strays(info.directory)
        if strays:
            narrate(f"stopped {strays} workers that no pool owned")
    if wipe:
        shutil.rmtree(info.directory)
        narrate(f"removed {info.directory}")


def start_part(info: ClusterInfo, name: str, narrate: Narrate = silent) -> None:
    """Start one part that does not run, and wait until it is healthy."""
    part = _part(info, name)
    if lifecycle.is_running(info.directory, name):
        raise PartError(f"{name} already runs as process {info.pids.get(name)}")
    lifecycle.start([part], info.directory, info.ports, narrate=narrate)


def stop_part(info: ClusterInfo, name: str) -> None:
    """Stop one part until it is started again, its supervisor included."""
    lifecycle.stop_parts(info.directory, [_part(info, name).name])


def kill_part(info: ClusterInfo, name: str, signal_number: int = signal.SIGKILL) -> int:
    """Signal the process that does a part's work and return its pid; a supervisor stays."""
    record = lifecycle.working(info.directory, _part(info, name).name)
    if record is None or not record.send(signal_number):
        raise PartError(f"{name} does not run, so it cannot be signalled")
    if signal_number == signal.SIGKILL:  # so that no caller takes it for its successor
        wait_until(lambda: not record.is_alive(), 5.0)
    return record.pid


def await_part(info: ClusterInfo, name: str, deadline_s: float | None = None) -> int:
    """Wait until a part is healthy (again) and return the pid of its working process."""
    part = _part(info, name)
    deadline_s = part.deadline_s * slowness() if deadline_s is None else deadline_s
    if not wait_until(lambda: lifecycle.is_healthy(part, info.directory), deadline_s):
        log = log_path(info.directory, name)
        raise PartError(f"{name} is not healthy after {deadline_s:g} s:\n{log_tail(log)}")
    return info.pids[name]


def worker_pids(info: ClusterInfo) -> list[int]:
    """List the live Python SDK workers."""
    return workers.worker_pids(info.directory)


def _parts(info: ClusterInfo) -> list[Part]:
    """Describe all parts, in the order in which they start."""
    directory, ports, jar_sets = info.directory, info.ports, info.jars
    return [
        kafka.broker_part(directory, ports, jar_sets),
        *([flink.zookeeper_part(directory, ports, jar_sets)] if ports.zookeeper else []),
        flink.jobmanager_part(directory, ports, jar_sets),
        *(
            flink.taskmanager_part(directory, ports, jar_sets, index, info.slots)
            for index in range(info.task_managers)
        ),
        flink.job_server_part(directory, ports, jar_sets),
        workers.pool_part(directory, ports, info.worker_paths),
    ]


def _part(info: ClusterInfo, name: str) -> Part:
    for part in _parts(info):
        if part.name == name:
            return part
    raise PartError(f"a part is one of {', '.join(info.part_names)}; got {name!r}")


def _running(directory: Path) -> list[str]:
    """Name the parts of the cluster in this folder, if there is one, that run."""
    if not (directory / "cluster.json").exists():
        return []
    names = ClusterInfo.load(directory).part_names
    return [name for name in names if lifecycle.is_running(directory, name)]


def _check_same(info: ClusterInfo) -> None:
    before = ClusterInfo.load(info.directory)
    for name in ("task_managers", "slots", "ports", "worker_paths"):
        was, wanted = getattr(before, name), getattr(info, name)
        if was != wanted:
            raise PartError(
                f"the cluster in {info.directory} runs with {name} = {was}; asked for {wanted}:"
                " `streamgauge down` first, or use another folder"
            )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let only one `up` or `down` work on a folder at a time."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
