"""CloudEvents 1.0 in Kafka's binary mode: attributes as `ce_` headers, data as the value.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

from datetime import UTC, datetime

from streamgauge.transforms.messages.outgoing import Outgoing


def cloud_event(
    event_id: str, event_type: str, source: str, subject: str, time_us: int, data: bytes
) -> Outgoing:
    """A CloudEvent about `subject`, which is also the Kafka key.

    Args:
        event_id: unique for its source; equal for a repeat of the same event.
        event_type: e.g. `io.streamgauge.alert.opened.v1`.
        source: URI reference of what the event comes from.
        subject: the entity.
        time_us: when it happened, microseconds since 1970.
        data: JSON.
    """
    moment = datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="microseconds")
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_type": event_type,
        "ce_source": source,
        "ce_subject": subject,
        "ce_time": moment.replace("+00:00", "Z"),
        "content-type": "application/json",
    }
    headers = [(name, value.encode()) for name, value in attributes.items()]
    return Outgoing(subject.encode(), data, headers, time_us // 1000)
