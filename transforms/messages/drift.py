"""Drift reports as JSON CloudEvents: the statistics of a window, compared with training."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.drift.reference import report
from streamgauge.models.drift.windows import LOSS_SCALE, WindowReport
from streamgauge.transforms.messages.cloudevents import cloud_event, decode_data, source_of
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing

EVENTS_SHOWN = 10_000_000  # of a window, to estimate the size of a report
HEADERS_BYTES_MAX = 4_096  # of the longest topic name, and framing


def encode_drift_report(topic: str, artifact: Artifact, window: WindowReport) -> bytes:
    """The element for the drift topic about one window of a shard."""
    statistics = report(
        artifact.drift_reference,
        artifact.schema.names,
        window.counts,
        loss_sum=window.loss_sum / LOSS_SCALE,
        events=window.events,
    )
    return encode_outgoing(drift_message(topic, artifact.digest, window, statistics))


def drift_report_bytes_max(artifact: Artifact) -> int:
    """About the size of the largest drift report of `artifact`; a report cannot be split."""
    counts = np.full_like(artifact.drift_reference.counts, EVENTS_SHOWN)
    window = WindowReport(
        shard=0,
        start_us=0,
        end_us=0,
        first=(0, 0),
        events=EVENTS_SHOWN,
        loss_sum=EVENTS_SHOWN,
        counts=counts,
    )
    return len(encode_drift_report("", artifact, window)) + HEADERS_BYTES_MAX


def drift_message(
    topic: str, digest: str, window: WindowReport, statistics: dict[str, Any]
) -> Outgoing:
    """The message for the drift topic about one window of a shard.

    Counts are whole numbers, so the reports of several shards, or of several parts of a window,
    add up exactly.

    Args:
        topic: the telemetry topic.
        digest: the artifact's.
        window: the counts.
        statistics: the comparison with training, see `models.drift.reference.report`.
    """
    partition, offset = window.first
    data = {
        "id": f"{topic}/{digest[:16]}/{window.shard}/{window.start_us}/{partition}/{offset}",
        "shard": window.shard,
        "window": {"from_us": window.start_us, "to_us": window.end_us},
        "model": {"digest": digest},
        **statistics,
        "sketch": {"counts": window.counts.tolist(), "loss_sum_fixed": window.loss_sum},
    }
    return cloud_event(
        data,
        event_type="io.streamgauge.drift.window.v1",
        source=source_of(topic),
        subject=f"shard-{window.shard}",
        time_us=window.end_us,
    )


def decode_drift_report(value: bytes) -> dict[str, Any]:
    """The drift report in a message's value.

    Raises:
        ValueError: the value is not a JSON object.
    """
    return decode_data(value)
