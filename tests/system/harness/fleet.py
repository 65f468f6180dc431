"""The input of system tests: server machine data as 1,000 entities, some events malformed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import pytest

from fixtures.paths import DATA
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.pipeline.data.datasets import Dataset, load
from streamgauge.pipeline.data.payloads import Selection
from streamgauge.pipeline.data.produce import ProduceRequest, produce

SMD = DATA / "smd"
MACHINES, REPLICAS, ROWS = 10, 100, 200  # 1,000 entities of 200 events each
EVENTS = MACHINES * REPLICAS * ROWS
TURNS = 8  # JSON and Arrow alternate, so every entity sends both
MALFORMED_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Produced:
    """Counts of what was sent to a topic."""

    events: int
    malformed: int


def produce_fleet(
    cluster: ClusterInfo, topic: str, turns: Sequence[int] = range(TURNS)
) -> Produced:
    """Send 200,000 events of 1,000 entities: JSON and Arrow in turn, 1 % malformed."""
    events = malformed = 0
    rows = ROWS // TURNS
    for turn in turns:
        report = produce(
            ProduceRequest(
                fleet(turn * rows, rows),
                topic,
                cluster.bootstrap_servers,
                data_format="json" if turn % 2 == 0 else "arrow",
                selection=Selection(replicas=REPLICAS, malformed_share=MALFORMED_SHARE, seed=turn),
            ),
            narrate=lambda line: None,
        )
        events += report.events
        malformed += report.dead_letters
    return Produced(events, malformed)


@lru_cache(maxsize=1)
def server_machines() -> Dataset:
    """Load the test part of the server machine data."""
    if not SMD.is_dir():
        pytest.fail(f"these tests read the server machine data; there is no folder {SMD}")
    return load(SMD, "test")


def fleet(first: int, rows: int) -> Dataset:
    """Return rows `[first, first + rows)` of ten machines."""
    whole, part = server_machines(), slice(first, first + rows)
    series = tuple(
        dataclasses.replace(
            one, event_time_us=one.event_time_us[part], values=one.values[part], labels=None
        )
        for one in whole.series[:MACHINES]
    )
    return dataclasses.replace(whole, series=series)
