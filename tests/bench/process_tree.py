"""CPU and memory of a run's process tree, found by a mark in the environment.

The mark finds children of children too, and orphans, which a walk down the tree would miss.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.5


@dataclass
class Watch:
    """Samples CPU seconds and resident memory of the processes that `find` lists."""

    find: Callable[[], Iterable[int]]
    #: Processes of the benchmark itself, which do not count as other load.
    known: tuple[int, ...] = ()
    #: Process to the name of its program and the CPU seconds it had used when last seen.
    _seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    #: With each sample, CPU seconds by the name of the program.
    _by_name: list[dict[str, float]] = field(default_factory=list)
    #: (wall-clock time, CPU seconds of the tree, of `known`, of the machine; bytes resident).
    _samples: list[tuple[float, float, float, float, int]] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def cpu_seconds(self, start_s: float, end_s: float) -> float:
        """CPU seconds of the tree between two wall-clock times."""
        return self._between(1, start_s, end_s)

    def cpu_by_name(self, start_s: float, end_s: float) -> dict[str, float]:
        """CPU seconds by the name of the program."""
        times = [row[0] for row in self._samples]
        found = {}
        for name in self._by_name[-1] if self._by_name else ():
            used = [by_name.get(name, 0.0) for by_name in self._by_name]
            found[name] = float(np.interp(end_s, times, used) - np.interp(start_s, times, used))
        return found

    def cores_outside(self, start_s: float, end_s: float) -> float:
        """Number of cores that other processes used meanwhile."""
        ours = self._between(1, start_s, end_s) + self._between(2, start_s, end_s)
        return max(0.0, self._between(3, start_s, end_s) - ours) / max(end_s - start_s, 1e-9)

    def resident_bytes(self, start_s: float, end_s: float) -> int:
        """Largest memory of the tree between two wall-clock times."""
        inside = [row[4] for row in self._samples if start_s - 1 <= row[0] <= end_s + 1]
        return max(inside, default=0)

    def _between(self, column: int, start_s: float, end_s: float) -> float:
        table = np.array(self._samples)
        at = np.interp([start_s, end_s], table[:, 0], table[:, column])
        return float(at[1] - at[0])

    def _run(self) -> None:
        while not self._done.wait(SAMPLE_S):
            pids = list(self.find())
            # A process that has ended keeps the value of its last sample.
            self._seen |= {pid: (name_of(pid), used) for pid in pids if (used := cpu_of(pid))}
            by_name: dict[str, float] = {}
            for name, used in self._seen.values():
                by_name[name] = by_name.get(name, 0.0) + used
            self._by_name.append(by_name)
            known = sum(map(cpu_of, (os.getpid(), *self.known)))
            self._samples.append(
                (time.time(), sum(by_name.values()), known, busy(), sum(map(resident, pids)))
            )


def cpu_of(pid: int) -> float:
    """User and system seconds of a process; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def name_of(pid: int) -> str:
    """The kernel's name of a process; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def busy() -> float:
    """Seconds that all cores together were busy since boot."""
    user, nice, system, _, _, irq, soft, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + soft + steal) / CLOCK_TICKS


def resident(pid: int) -> int:
    """Bytes of physical memory, pages shared with others by their share; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def pin(pid: int, core: int) -> None:
    """Keep all threads of a process, and those they start, on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})
