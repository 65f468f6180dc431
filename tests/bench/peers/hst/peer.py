"""River's HalfSpaceTrees, one model per entity: another detector, which learns continuously.

10 trees of height 8, River's defaults; it expects features within known limits. Models are
lost with the process.
"""

from __future__ import annotations

import msgspec
from confluent_kafka import Consumer, Producer
from river.anomaly import HalfSpaceTrees
from task import given

LIMITS = (-4.0, 4.0)  # of standard normal noise


class Event(msgspec.Struct):
    """A JSON event."""

    entity_id: str
    event_time_us: int
    features: list[float]


def main() -> None:
    """Read, score, learn and write until it is stopped."""
    task = given()
    consumer = Consumer(
        {
            "bootstrap.servers": task.servers,
            "group.id": task.group,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([task.topic])
    producer = Producer({"bootstrap.servers": task.servers, "linger.ms": 5})
    decode, encode = msgspec.json.Decoder(Event).decode, msgspec.json.Encoder().encode
    models: dict[str, HalfSpaceTrees] = {}
    while True:
        for message in consumer.consume(1_000, 0.01):
            event = decode(message.value())
            x = dict(enumerate(event.features))
            model = models.get(event.entity_id)
            if model is None:
                limits = dict.fromkeys(x, LIMITS)
                model = models[event.entity_id] = HalfSpaceTrees(limits=limits, seed=0)
            score = model.score_one(x)
            model.learn_one(x)
            found = {"event_time_us": event.event_time_us, "score": score}
            producer.produce(
                task.out, encode({"entity_id": event.entity_id, **found}), message.key()
            )
        producer.poll(0)


if __name__ == "__main__":
    main()
