"""Shard health as JSON CloudEvents: how far a shard is, and what went otherwise than planned."""

from __future__ import annotations

import dataclasses

import msgspec

from streamgauge.models.state.snapshot_file import ShardSnapshot
from streamgauge.transforms.messages.cloudevents import cloud_event
from streamgauge.transforms.messages.outgoing import encode_outgoing

_JSON = msgspec.json.Encoder()


def encode_health(topic: str, found: ShardSnapshot, time_ms: int) -> bytes:
    """The message for the health topic about one shard at `time_ms`, milliseconds since 1970.

    Counts go back with the state when a job is restored, like everything else in it.
    """
    epoch, table = found.epoch, found.table
    health_id = f"{topic}/{table.layout.digest[:16]}/{found.shard}/{time_ms}"
    data = {
        "id": health_id,
        "shard": found.shard,
        "time_ms": time_ms,
        "model": {"digest": table.layout.digest},
        "entities": len(table),
        "positions": {str(p): at.end_offset for p, at in sorted(epoch.reached.items())},
        "held_blocks": epoch.held,
        "log_bytes": epoch.log_bytes,
        "counts": dataclasses.asdict(epoch.counts),
    }
    return encode_outgoing(
        cloud_event(
            health_id,
            "io.streamgauge.shard.health.v1",
            f"/streamgauge/{topic}",
            f"shard-{found.shard}",
            time_ms * 1000,
            _JSON.encode(data),
        )
    )
