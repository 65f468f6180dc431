"""Bytewax: `stateful_map` per key, with its recovery store written once an epoch."""

from __future__ import annotations

import datetime

import bytewax.connectors.kafka.operators as kafka
import bytewax.operators as op
import numpy as np
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from gru import Gru
from task import Task, given

Keyed = tuple[str, dict]


def build(task: Task) -> Dataflow:
    """The flow: read, decode, score, write."""
    gru = Gru.load(task.weights)
    fresh = np.zeros((1, gru.hidden), np.float32)

    def decode(message: KafkaSourceMessage) -> Keyed:
        event = orjson.loads(message.value)
        return event["entity_id"], event

    def score(hidden: np.ndarray | None, event: dict) -> tuple[np.ndarray, dict]:
        x = np.array([event["features"]], np.float32)
        found, after = gru.step(x, fresh if hidden is None else hidden)
        return after, {"event_time_us": event["event_time_us"], "score": float(found[0])}

    def encode(keyed: Keyed) -> KafkaSinkMessage:
        entity_id, found = keyed
        return KafkaSinkMessage(entity_id.encode(), orjson.dumps({"entity_id": entity_id, **found}))

    flow = Dataflow("bench")
    read = kafka.input("read", flow, brokers=[task.servers], topics=[task.topic])
    events = op.map("decode", read.oks, decode)
    scored = op.stateful_map("score", events, score)  # ("entity", {"score": …})
    messages = op.map("encode", scored, encode)
    kafka.output("write", messages, brokers=[task.servers], topic=task.out)
    return flow


def main() -> None:
    """Run the flow on one worker."""
    task = given()
    recovery = None
    if task.durable_s:
        store = task.work / "recovery"
        if not store.exists():
            store.mkdir()
            init_db_dir(store, 1)
        recovery = RecoveryConfig(store)
    interval = datetime.timedelta(seconds=task.durable_s or 10.0)
    cli_main(build(task), recovery_config=recovery, epoch_interval=interval)


if __name__ == "__main__":
    main()
