"""One message of every kind, as the encoders write it: for the reference and its tests."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from streamgauge.models.blocks.block import NOTHING_BEFORE, Block
from streamgauge.models.blocks.scored_block import ScoredBlock, Transition
from streamgauge.models.drift import reference
from streamgauge.models.drift.windows import LOSS_SCALE, WindowReport
from streamgauge.models.events.decoder import DeadLetter
from streamgauge.models.state.entity_table import EntityTable, Layout
from streamgauge.models.state.epoch import Epoch, PartitionProgress, ShardCounts
from streamgauge.models.state.snapshot_file import ShardSnapshot
from streamgauge.transforms.messages.alerts import alert_message
from streamgauge.transforms.messages.dead_letters import dead_letter_message
from streamgauge.transforms.messages.drift import drift_message
from streamgauge.transforms.messages.health import health_message
from streamgauge.transforms.messages.outgoing import Outgoing, decode_outgoing
from streamgauge.transforms.messages.scores import encode_scores

TOPIC = "telemetry.events.v1"
#: Of an artifact that does not exist.
DIGEST = "5f2a" * 16
TIME_US = 1_748_505_600_000_000  # 2025-05-29T08:00:00Z
MINUTE_US = 60_000_000


def examples() -> dict[str, Outgoing]:
    """Kind of message -> an example of it."""
    return {
        "telemetry": _telemetry(),
        "alert": alert_message(TOPIC, DIGEST, _transition()),
        "score_arrow": _score("arrow"),
        "score_json": _score("json"),
        "drift": _drift(),
        "dead_letter": dead_letter_message(TOPIC, _dead_letter()),
        "health": _health(),
    }


def _telemetry() -> Outgoing:
    event = {"entity_id": "host-17", "event_time_us": TIME_US, "features": [0.31, None, 12.5]}
    return Outgoing(b"host-17", json.dumps(event).encode(), [])


def _transition() -> Transition:
    return Transition(
        status="opened",
        entity_id="host-17",
        partition=3,
        offset=184_467,
        row=0,
        event_time_us=TIME_US,
        score=9.25,
        rarity_1_in_n=18_500.0,
        threshold=6.5,
        severity="critical",
        opened_partition=3,
        opened_offset=184_467,
        opened_row=0,
        opened_time_us=TIME_US,
        events=1,
        peak=9.25,
        features=[("cpu_load", 0.97, 0.31, 0.75), ("disk_io", None, 12.5, 0.25)],
    )


def _score(form: str) -> Outgoing:
    block = Block(
        partition=3,
        first_offset=184_467,
        end_offset=184_468,
        previous_end=NOTHING_BEFORE,
        offset=np.array([184_467], np.int64),
        row=np.zeros(1, np.int32),
        event_time_us=np.array([TIME_US], np.int64),
        entity_id=pa.array(["host-17"], pa.string()),
        features=np.zeros((1, 2), np.float32),
    )
    scored = ScoredBlock(
        block=block,
        score=np.array([9.25], np.float32),
        rarity_1_in_n=np.array([18_500.0], np.float32),
        verdict=np.array([2], np.uint8),
        confidence=np.ones(1, np.float32),
        loss=np.array([4.5], np.float32),
        transitions=[],
        set_aside={},
        late=0,
        erased=0,
    )
    [element] = encode_scores(TOPIC, DIGEST, scored, form)
    [message] = decode_outgoing(element)
    return message


def _drift() -> Outgoing:
    """Two windows of a ramp: the training data, and the same values shifted."""
    ramp = np.linspace(0.0, 1.0, 64, dtype=np.float32)
    trained = reference.fit(ramp[:, None], ramp, ramp)
    counts = trained.count(ramp[:, None] + np.float32(0.25), ramp)
    window = WindowReport(
        shard=2,
        start_us=TIME_US,
        end_us=TIME_US + 60 * MINUTE_US,
        first=(3, 184_400),
        events=len(ramp),
        loss_sum=len(ramp) * LOSS_SCALE // 2,
        counts=counts,
    )
    statistics = reference.report(
        trained,
        ["cpu_load"],
        window.counts,
        loss_sum=window.loss_sum / LOSS_SCALE,
        events=window.events,
    )
    return drift_message(TOPIC, DIGEST, window, statistics)


def _dead_letter() -> DeadLetter:
    return DeadLetter(
        partition=3,
        offset=184_468,
        row=0,
        reason="bad_event_time",
        detail="event_time_us: must be in the years 2000 to 2099; got 17",
        payload=b'{"entity_id":"host-17","event_time_us":17,"features":[0.31,null,12.5]}',
    )


def _health() -> Outgoing:
    table = EntityTable(Layout.of(np.dtype([("event_count", "<i8")]), "0" * 16, DIGEST))
    table.entity_ids.extend(f"host-{i}" for i in range(4))
    epoch = Epoch(
        log_bytes=81_920,
        counts=ShardCounts(scored=46_100, late=3),
        reached={3: PartitionProgress(0, 184_468)},
    )
    snapshot = ShardSnapshot(shard=2, epoch=epoch, drift=b"", table=table)
    return health_message(TOPIC, snapshot, TIME_US // 1000)
