"""Alerts as JSON CloudEvents: one message per transition of an alert, with its explanation."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.typehints import with_output_types

from streamgauge.models.blocks.scored_block import NEW_NORMAL, Transition
from streamgauge.transforms import metrics
from streamgauge.transforms.messages.cloudevents import cloud_event, decode_data, source_of
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing

_TRANSITION_ENCODER = msgspec.msgpack.Encoder()
_TRANSITION_DECODER = msgspec.msgpack.Decoder(Transition)

FEATURES_NAMED = 3  # in the explanation; the message holds more


def encode_transition(transition: Transition) -> bytes:
    """The bytes of a transition between the scoring step and `FormatAlerts`."""
    return _TRANSITION_ENCODER.encode(transition)


@with_output_types(bytes)
class FormatAlerts(beam.DoFn):
    """Encoded transitions -> messages for the alert topic, one for each."""

    def __init__(self, topic: str, model_digest: str) -> None:
        self._topic = topic
        self._digest = model_digest
        self._alerts = metrics.counter(metrics.ALERTS)

    def process(self, element: bytes) -> Iterator[bytes]:
        self._alerts.inc()
        transition = _TRANSITION_DECODER.decode(element)
        yield encode_outgoing(alert_message(self._topic, self._digest, transition))


def alert_message(topic: str, digest: str, transition: Transition) -> Outgoing:
    """The message for the alert topic about one transition.

    Args:
        topic: the telemetry topic.
        digest: the artifact's.
        transition: of an alert about an event of `topic`.
    """
    t = transition
    return cloud_event(
        {
            "id": _identity(topic, digest, t.status, (t.partition, t.offset, t.row)),
            # "episode" is part of the hash; another word would change the id of every alert.
            "alert_id": _identity(
                topic, digest, "episode", (t.opened_partition, t.opened_offset, t.opened_row)
            ),
            "status": t.status,
            "reason": t.reason,
            "severity": t.severity,
            "entity_id": t.entity_id,
            "event": {
                "topic": topic,
                "partition": t.partition,
                "offset": t.offset,
                "row": t.row,
                "time_us": t.event_time_us,
            },
            "score": t.score,
            "threshold": t.threshold,
            "rarity_1_in_n": t.rarity_1_in_n,
            "model": {"digest": digest},
            "features": [
                {"name": name, "value": value, "expected": expected, "contribution": share}
                for name, value, expected, share in t.features
            ],
            "window": {"opened_time_us": t.opened_time_us, "events": t.events, "peak": t.peak},
            "explanation": explain(t),
        },
        event_type=f"io.streamgauge.alert.{t.status}.v1",
        source=source_of(topic),
        subject=t.entity_id,
        time_us=t.event_time_us,
    )


def explain(transition: Transition) -> str:
    """One sentence for the person who is paged."""
    t = transition
    lasted = f"{t.events:,} events ({(t.event_time_us - t.opened_time_us) / 60e6:,.0f} min)"
    if t.reason == NEW_NORMAL:
        levels = ", ".join(
            f"{name} was about {mean:.4g}, is now about {value:.4g}"
            for name, value, mean, _ in t.features[:FEATURES_NAMED]
            if value is not None
        )
        return f"new normal: {levels}" if levels else f"new normal after {lasted}"
    if t.status == "closed":
        return f"back to normal after {lasted}"
    features = ", ".join(
        f"{name} is {'missing' if value is None else f'{value:.4g}'}, expected {expected:.4g}"
        for name, value, expected, _ in t.features[:FEATURES_NAMED]
    )
    rarity = f"once in {t.rarity_1_in_n:,.0f} events of this entity: {features}"
    return f"still anomalous after {lasted}; {rarity}" if t.status == "updated" else rarity


@dataclass(frozen=True, slots=True)
class AlertMessage:
    """One message of the alert topic: a CloudEvent in Kafka's binary mode."""

    topic: str
    partition: int
    offset: int
    headers: Mapping[str, str]
    #: The alert record; None if the message is not one.
    alert: Mapping[str, Any] | None

    @property
    def event_id(self) -> str:
        """Equal for repeats; a message without an id is taken for unique."""
        return self.headers.get("ce_id", f"{self.topic}/{self.partition}/{self.offset}")


def decode_alert(value: bytes) -> dict[str, Any]:
    """The alert record in a message's value.

    Raises:
        ValueError: the value is not a JSON object.
    """
    return decode_data(value)


def decode_headers(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """CloudEvents attributes and other headers as text."""
    return {name: (value or b"").decode(errors="replace") for name, value in headers}


def _identity(topic: str, digest: str, kind: str, event: tuple[int, int, int]) -> str:
    """A deterministic id: equal on replay, after a failover, and on any runner.

    Args:
        topic: the telemetry topic.
        digest: the artifact's.
        kind: what is identified at the event.
        event: partition, offset, row.
    """
    partition, offset, row = event
    text = f"{topic}\0{partition}\0{offset}\0{row}\0{digest}\0{kind}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
