"""PyFlink: a KeyedProcessFunction with a value state per entity, on a mini cluster of its own.

Default bundles, state on the heap, checkpoints at `--durable-s`, output at least once.
`SG_MODE` is Flink's `python.execution-mode`. In process mode a state cache for all entities
was tried without gain. The connector comes from Maven; `SG_CONNECTOR` names
its jar.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import orjson
from gru import Gru
from pyflink.common import Configuration, Types, WatermarkStrategy
from pyflink.common.serialization import SimpleStringSchema
from pyflink.datastream import (
    KeyedProcessFunction,
    RuntimeContext,
    StreamExecutionEnvironment,
)
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import (
    KafkaOffsetsInitializer,
    KafkaRecordSerializationSchema,
    KafkaSink,
    KafkaSource,
)
from pyflink.datastream.state import ValueStateDescriptor
from task import Task, given


class Score(KeyedProcessFunction):
    """One GRU step per event."""

    def __init__(self, weights: str) -> None:
        self._weights = weights

    def open(self, runtime_context: RuntimeContext) -> None:
        """Load the weights, once per worker."""
        self._gru = Gru.load(self._weights)
        self._fresh = bytes(4 * self._gru.hidden)
        described = ValueStateDescriptor("hidden", Types.PICKLED_BYTE_ARRAY())
        self._hidden = runtime_context.get_state(described)

    def process_element(self, value: tuple, ctx: KeyedProcessFunction.Context) -> Iterator[str]:
        """Score one event against the entity's hidden vector and keep the next one."""
        entity_id, time_us, features = value
        hidden = np.frombuffer(self._hidden.value() or self._fresh, np.float32)[None]
        found, after = self._gru.step(np.array([features], np.float32), hidden)
        self._hidden.update(after.tobytes())
        score = {"entity_id": entity_id, "event_time_us": time_us, "score": float(found[0])}
        yield orjson.dumps(score).decode()


def decode(text: str) -> tuple:
    """The event of a JSON message."""
    event = orjson.loads(text)
    return event["entity_id"], event["event_time_us"], event["features"]


def environment(task: Task) -> StreamExecutionEnvironment:
    """A mini cluster in this process' JVM."""
    settings = Configuration()
    settings.set_string("parallelism.default", "1")
    settings.set_string("pipeline.jars", f"file://{os.environ['SG_CONNECTOR']}")
    settings.set_string("state.checkpoints.dir", f"file://{task.work}/checkpoints")
    settings.set_string("python.execution-mode", os.environ["SG_MODE"])
    settings.set_string("rest.bind-address", "127.0.0.1")
    settings.set_string("rest.bind-port", "0")
    env = StreamExecutionEnvironment.get_execution_environment(settings)
    if task.durable_s:
        env.enable_checkpointing(int(task.durable_s * 1000))
    return env


def main() -> None:
    """Build the job and run it."""
    task = given()
    env = environment(task)
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(task.servers)
        .set_topics(task.topic)
        .set_group_id(task.group)
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    schema = (
        KafkaRecordSerializationSchema.builder()
        .set_topic(task.out)
        .set_value_serialization_schema(SimpleStringSchema())
        .build()
    )
    sink = (
        KafkaSink.builder()
        .set_bootstrap_servers(task.servers)
        .set_record_serializer(schema)
        .set_delivery_guarantee(DeliveryGuarantee.AT_LEAST_ONCE)
        .build()
    )
    (
        env.from_source(source, WatermarkStrategy.no_watermarks(), "telemetry")
        .map(decode)
        .key_by(lambda event: event[0], Types.STRING())
        .process(Score(str(task.weights)), Types.STRING())
        .sink_to(sink)
    )
    env.execute("bench")


if __name__ == "__main__":
    main()
