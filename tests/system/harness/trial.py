"""One row of the fault matrix: a live job under steady traffic, faults, and the comparison.

An independent reader measures recovery: the time from the fault to the score of an event that
was sent *after* the job had restarted. Scores that were in transit, or that come from a part not
yet affected, do not count.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fixtures.deadlines import deadline
from streamgauge.infra.errors import InfraError
from streamgauge.infra.local.info import ClusterInfo
from system.harness import live, outcome
from system.harness.results import Row, Table
from system.harness.traffic import Traffic

Fault = Callable[[], object]
RECOVERY_S_MAX = 120.0


class Trial:
    """A job on a topic of its own, fed from the start to `finish`."""

    def __init__(
        self,
        cluster: ClusterInfo,
        artifact: Path,
        jobs: live.Jobs,
        fault: str,
        limit_s: float,
        **sections: Any,
    ) -> None:
        self.cluster, self.jobs = cluster, jobs
        self.row = Row(fault, limit_s=deadline(limit_s))
        topic = live.new_name("fleet")
        live.create_topic(cluster, topic, outcome.PARTITIONS)
        self.config = live.job_config(cluster, artifact, topic, **sections)
        self.traffic = Traffic(cluster, topic, outcome.PARTITIONS)
        self.job_id = ""
        self._tail: live.Tail | None = None

    def begin(self) -> None:
        """Start job and traffic; returns when scores flow and a checkpoint is complete."""
        self.jobs.at_end(self.traffic.end)
        self.traffic.start()
        self.job_id = self.jobs.start(self.config)
        self.watch()
        self.await_new_score()
        before = self.jobs.checkpoints(self.job_id)
        live.wait_for(
            lambda: self.jobs.checkpoints(self.job_id) > before, "a checkpoint", self.jobs
        )

    def watch(self) -> None:
        """Read the scores that the job writes from now on."""
        self._tail = live.Tail(self.cluster, self.config)
        self.jobs.at_end(self._tail.close)

    def look_away(self) -> None:
        """Leave the broker before it is killed: kafka-python forgets to close what is refused."""
        assert self._tail is not None
        self._tail.close()
        self._tail = None

    def restored(self) -> int:
        """Return how often the job restarted from a checkpoint or savepoint."""
        return self.jobs.rest.checkpoints(self.job_id)["counts"]["restored"]

    def strike(self, fault: Fault) -> None:
        """Inject a fault that restarts the job, and measure the time until it has recovered."""
        before = self.restored()
        began = time.monotonic()
        fault()
        live.wait_for(
            lambda: self._restored_if_known() > before, f"{self.row.fault} felt", self.jobs
        )
        self.await_new_score()
        self.row.recovery_s.append(time.monotonic() - began)

    def recover(self) -> None:
        """Measure the time from now, the end of a lasting fault, until the job has recovered."""
        began = time.monotonic()
        if self._tail is None:
            self.watch()
        self.await_new_score()
        self.row.recovery_s.append(time.monotonic() - began)

    def await_new_score(self, deadline_s: float = RECOVERY_S_MAX) -> None:
        """Wait for the score of an event that the broker acknowledged after this call."""
        marks, tail = self.traffic.ends(), self._tail
        assert tail is not None
        live.wait_for(
            lambda: any(offset > marks.get(p, -1) for p, offset in tail.newest()),
            "a score of an event sent just now",
            self.jobs,
            deadline_s,
        )

    def await_more(self, events: int) -> None:
        """Wait until the traffic has sent so many more events."""
        until = self.traffic.events + events
        live.wait_for(lambda: self.traffic.events >= until, f"{events} events sent", self.jobs)

    def finish(self, table: Table) -> Row:
        """End the traffic, wait for every output, compare it bit for bit, and record the row."""
        self.traffic.end()
        expected = outcome.score_offline(self.cluster, self.config)
        self.row.restarts = self.restored()
        outcome.await_outputs(self.cluster, self.config, expected, self.jobs)
        self.jobs.cancel_all()
        reckon(self.row, outcome.read_outputs(self.cluster, self.config), expected)
        # Events that the broker acknowledged and then lost are not in `expected`.
        self.row.missing += self.traffic.events - self.row.events
        settle(self.row, table)
        return self.row

    def _restored_if_known(self) -> int:
        with contextlib.suppress(InfraError):
            return self.restored()
        return 0


def reckon(row: Row, actual: outcome.Outputs, expected: outcome.Expected) -> None:
    """Count the outputs that are missing, differ, or were published twice."""
    unique = outcome.without_repeats(actual.scores)
    letters = {name: (about["reason"], payload) for name, about, payload in actual.letters}
    wanted = {name: (one.reason, one.payload) for name, one in expected.letters.items()}
    row.events = len(expected.scores) + len(wanted)
    row.repeats = len(actual.scores) - len(unique) + len(actual.letters) - len(letters)
    row.missing = len(expected.scores) - len(unique) + len(wanted.keys() - letters.keys())
    row.differing = outcome.differing(actual.scores, expected.scores)
    row.differing += sum(wanted.get(name) != letter for name, letter in letters.items())
    row.alerts_equal = outcome.alert_events(actual.alerts) == outcome.transition_events(
        expected.transitions
    )


def settle(row: Row, table: Table) -> None:
    """Set the verdict, record the row, and fail if it is bad."""
    worst = max(row.recovery_s, default=0.0)
    bad = {
        "missing": row.missing,
        "differing bits": row.differing,
        "other alerts": not row.alerts_equal,
        "too slow": row.limit_s is not None and worst > row.limit_s,
    }
    row.verdict = ", ".join(name for name, is_so in bad.items() if is_so) or "ok"
    table.add(row)
    assert row.verdict == "ok", row
