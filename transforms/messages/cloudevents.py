"""CloudEvents 1.0 in Kafka's binary mode: attributes are `ce_` headers, data is the value.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from streamgauge.transforms.messages.outgoing import Outgoing

_JSON = msgspec.json.Encoder()


def cloud_event(
    data: dict[str, Any], *, event_type: str, source: str, subject: str, time_us: int
) -> Outgoing:
    """A CloudEvent with JSON data.

    Args:
        data: the payload; its "id" is unique for the source and equal for a repeated event.
        event_type: for example `io.streamgauge.alert.opened.v1`.
        source: URI reference of the origin of the event.
        subject: what the event is about, for instance the entity; also the Kafka key.
        time_us: event time, microseconds since 1970.
    """
    moment = datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="microseconds")
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": data["id"],
        "ce_type": event_type,
        "ce_source": source,
        "ce_subject": subject,
        "ce_time": moment.replace("+00:00", "Z"),
        "content-type": "application/json",
    }
    headers = [(name, value.encode()) for name, value in attributes.items()]
    return Outgoing(subject.encode(), _JSON.encode(data), headers)


def source_of(topic: str) -> str:
    """The CloudEvents source of all messages about `topic`."""
    return f"/streamgauge/{topic}"


def decode_data(value: bytes) -> dict[str, Any]:
    """The JSON object in the value of a CloudEvent.

    Raises:
        ValueError: the value is not a JSON object.
    """
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"value must be a JSON object; {error}") from None
