"""The task of a peer: its input topic, its output topic and the weights."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """One run of one peer."""

    servers: str
    topic: str
    #: Topic of the scores; the `event_time_us` of its event identifies a score.
    out: str
    #: "json": one event per message; "arrow": many.
    form: str
    #: File with the arrays of `gru.Gru`.
    weights: Path
    #: Folder for the state of the peer; empty unless it is restarted after a kill.
    work: Path
    #: Seconds between two snapshots or commits; 0 for none.
    durable_s: float

    @property
    def group(self) -> str:
        """Consumer group, one per run, so that each run reads from the first offset."""
        return self.out


def given() -> Task:
    """Read the task from the command line."""
    parser = argparse.ArgumentParser()
    for name in ("servers", "topic", "out", "form", "weights", "work"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--durable-s", type=float, default=0.0)
    told = parser.parse_args()
    weights, work = Path(told.weights), Path(told.work)
    return Task(told.servers, told.topic, told.out, told.form, weights, work, told.durable_s)
