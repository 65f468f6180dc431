"""Every counter of the job, by name: names are a contract with dashboards and tests.

Counters are Beam metrics of the namespace `streamgauge`. They count attempts: a bundle that is
retried counts twice. Exact counts are part of a shard's state and reported on the health topic.
"""

from __future__ import annotations

from apache_beam.metrics.metric import Metrics

NAMESPACE = "streamgauge"

DISCOVERY_UNREACHABLE = "discovery_unreachable"
MESSAGES_READ = "messages_read"
OFFSET_RESETS = "offset_resets"
EVENTS_SCORED = "events_scored"
LATE_EVENTS = "late_events"
DUPLICATE_BLOCKS = "duplicate_blocks"
HELD_BLOCKS = "held_blocks"
DESYNCS = "desyncs"
ALERTS = "alerts"
OUTPUTS_SET_ASIDE = "outputs_set_aside"

#: name -> what it counts.
COUNTERS = {
    DISCOVERY_UNREACHABLE: "partition discoveries that failed because no broker answered",
    MESSAGES_READ: "Kafka messages read from the telemetry topic",
    OFFSET_RESETS: "partitions that were continued at another offset because theirs was lost",
    EVENTS_SCORED: "events scored",
    LATE_EVENTS: "events older than the last event of their entity",
    DUPLICATE_BLOCKS: "blocks dropped because their events were scored before",
    HELD_BLOCKS: "blocks held until the block before them arrives",
    DESYNCS: "gaps in a partition's chain of blocks that were given up",
    ALERTS: "messages written to the alert topic",
    OUTPUTS_SET_ASIDE: "output messages that the broker refuses for what they are, not written",
}


def counter(name: str) -> Metrics.DelegatingCounter:
    """The Beam counter `name`, one of `COUNTERS`."""
    if name not in COUNTERS:
        raise KeyError(f"counter {name!r} must be listed in streamgauge.transforms.metrics")
    return Metrics.counter(NAMESPACE, name)
