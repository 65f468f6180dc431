"""Drift reports as JSON CloudEvents: what a window looked like beside training."""

from __future__ import annotations

import msgspec

from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.drift.reference import report
from streamgauge.models.drift.windows import LOSS_SCALE, WindowReport
from streamgauge.transforms.messages.cloudevents import cloud_event
from streamgauge.transforms.messages.outgoing import encode_outgoing

_JSON = msgspec.json.Encoder()


def encode_drift_report(topic: str, artifact: Artifact, window: WindowReport) -> bytes:
    """The message for the drift topic about one shard's window.

    Counts are in the report as whole numbers, so reports of several shards, or of
    several parts of a window, add up exactly.
    """
    statistics = report(
        artifact.drift_reference,
        artifact.schema.names,
        window.counts,
        loss_sum=window.loss_sum / LOSS_SCALE,
        events=window.events,
    )
    partition, offset = window.first
    report_id = (
        f"{topic}/{artifact.digest[:16]}/{window.shard}/{window.start_us}/{partition}/{offset}"
    )
    data = {
        "id": report_id,
        "shard": window.shard,
        "window": {"from_us": window.start_us, "to_us": window.end_us},
        "model": {"digest": artifact.digest},
        **statistics,
        "sketch": {"counts": window.counts.tolist(), "loss_sum_fixed": window.loss_sum},
    }
    subject = f"shard-{window.shard}"
    return encode_outgoing(
        cloud_event(
            report_id,
            "io.streamgauge.drift.window.v1",
            f"/streamgauge/{topic}",
            subject,
            window.end_us,
            _JSON.encode(data),
        )
    )
