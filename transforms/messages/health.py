"""Shard health as JSON CloudEvents: the shard's positions and its counts of irregularities."""

from __future__ import annotations

import dataclasses
from typing import Any

from streamgauge.models.state.snapshot_file import ShardSnapshot
from streamgauge.transforms.messages.cloudevents import cloud_event, decode_data, source_of
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing


def encode_health(topic: str, snapshot: ShardSnapshot, time_ms: int) -> bytes:
    """The element for the health topic about one shard at `time_ms`, milliseconds since 1970."""
    return encode_outgoing(health_message(topic, snapshot, time_ms))


def health_message(topic: str, snapshot: ShardSnapshot, time_ms: int) -> Outgoing:
    """The message for the health topic about one shard at `time_ms`, milliseconds since 1970.

    Counts are part of the shard's state: a job that is restored resumes them too.
    """
    epoch, table = snapshot.epoch, snapshot.table
    digest = table.layout.digest
    data = {
        "id": f"{topic}/{digest[:16]}/{snapshot.shard}/{time_ms}",
        "shard": snapshot.shard,
        "time_ms": time_ms,
        "model": {"digest": digest},
        "entities": len(table),
        "positions": {str(p): at.end_offset for p, at in sorted(epoch.reached.items())},
        "held_blocks": epoch.held,
        "log_bytes": epoch.log_bytes,
        "counts": dataclasses.asdict(epoch.counts),
    }
    return cloud_event(
        data,
        event_type="io.streamgauge.shard.health.v1",
        source=source_of(topic),
        subject=f"shard-{snapshot.shard}",
        time_us=time_ms * 1000,
    )


def decode_health(value: bytes) -> dict[str, Any]:
    """The health report in a message's value.

    Raises:
        ValueError: the value is not a JSON object.
    """
    return decode_data(value)
