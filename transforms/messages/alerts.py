"""Turns what is said about alerts into messages: JSON CloudEvents that explain themselves."""

import hashlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.metrics import Metrics
from apache_beam.typehints import with_output_types

from streamgauge.models.blocks.scored_block import NEW_NORMAL, Transition
from streamgauge.transforms.messages.cloudevents import cloud_event
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing

_DECODER = msgspec.msgpack.Decoder(Transition)
_JSON = msgspec.json.Encoder()

NAMED = 3  # features in a sentence; the alert holds more


class FormatAlerts(beam.PTransform):
    """Transitions -> messages for the alert topic."""

    def __init__(self, topic: str, model_digest: str) -> None:
        super().__init__()
        self._topic = topic
        self._digest = model_digest

    def expand(self, transitions: Any) -> Any:
        return transitions | "Format" >> beam.ParDo(_Format(self._topic, self._digest))


@with_output_types(bytes)
class _Format(beam.DoFn):
    """One alert per transition."""

    def __init__(self, topic: str, model_digest: str) -> None:
        self._topic = topic
        self._digest = model_digest
        self._raised = Metrics.counter("streamgauge", "alerts")

    def process(self, element: bytes) -> Iterator[bytes]:
        self._raised.inc()
        yield encode_outgoing(alert_message(self._topic, self._digest, _DECODER.decode(element)))


def alert_message(topic: str, digest: str, transition: Transition) -> Outgoing:
    """The alert about `transition` of an event of `topic`, scored by the model `digest`."""
    t = transition
    episode = _identity(topic, digest, "episode", t.opened_partition, t.opened_offset, t.opened_row)
    alert_id = _identity(topic, digest, t.status, t.partition, t.offset, t.row)
    data = {
        "id": alert_id,
        "alert_id": episode,
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
    }
    return cloud_event(
        alert_id,
        f"io.streamgauge.alert.{t.status}.v1",
        f"/streamgauge/{topic}",
        t.entity_id,
        t.event_time_us,
        _JSON.encode(data),
    )


def explain(transition: Transition) -> str:
    """One sentence for the person who is paged."""
    t = transition
    lasted = f"{t.events:,} events ({(t.event_time_us - t.opened_time_us) / 60e6:,.0f} min)"
    if t.reason == NEW_NORMAL:
        moved = ", ".join(
            f"{name} was about {mean:.4g}, is now about {value:.4g}"
            for name, value, mean, _ in t.features[:NAMED]
            if value is not None
        )
        return f"new normal: {moved}" if moved else f"new normal after {lasted}"
    if t.status == "closed":
        return f"back to normal after {lasted}"
    named = ", ".join(
        f"{name} is {'missing' if value is None else f'{value:.4g}'}, expected {expected:.4g}"
        for name, value, expected, _ in t.features[:NAMED]
    )
    told = f"once in {t.rarity_1_in_n:,.0f} events of this entity: {named}"
    return f"still anomalous after {lasted}; {told}" if t.status == "updated" else told


def _identity(topic: str, digest: str, kind: str, partition: int, offset: int, row: int) -> str:
    """A deterministic id: equal on replay, after a failover, and on any runner."""
    text = f"{topic}\0{partition}\0{offset}\0{row}\0{digest}\0{kind}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
