"""Beam as its guide shows it: a stateful DoFn keyed by entity, one state cell per entity.

Reads with streamgauge's reader, because Beam's Kafka source for Python needs a second Java
environment. Its decoding is therefore by blocks and faster than that of its users.
"""

from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import msgspec
import numpy as np
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from bench.peers.gru import Gru
from streamgauge.models.blocks.block import decode_block
from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing
from streamgauge.transforms.sinks.topic import WriteTopic
from streamgauge.transforms.sources.live import ReadTelemetry


class Score(beam.DoFn):
    """One GRU step per event."""

    HIDDEN = ReadModifyWriteStateSpec("hidden", BytesCoder())

    def __init__(self, weights: str) -> None:
        self._weights = weights

    def setup(self) -> None:
        """Load the weights, once per worker."""
        self._gru = Gru.load(Path(self._weights))
        self._fresh = bytes(4 * self._gru.hidden)

    def process(
        self,
        element: tuple[str, tuple[int, bytes]],
        hidden: beam.transforms.userstate.AccumulatingRuntimeState = beam.DoFn.StateParam(HIDDEN),
    ) -> Iterator[bytes]:
        """Score one event against the entity's hidden vector and keep the next one."""
        entity_id, (time_us, features) = element
        before = np.frombuffer(hidden.read() or self._fresh, np.float32)[None]
        found, after = self._gru.step(np.frombuffer(features, np.float32)[None], before)
        hidden.write(after.tobytes())
        score = {"entity_id": entity_id, "event_time_us": time_us, "score": float(found[0])}
        key = entity_id.encode()
        yield encode_outgoing(Outgoing(key, msgspec.json.encode(score), []))


def events(element: tuple[bytes, bytes]) -> Iterator[tuple[str, tuple[int, bytes]]]:
    """The events of a block, one element each."""
    block = decode_block(element[1])
    times, names = block.event_time_us.tolist(), block.entity_id.to_pylist()
    for name, time_us, features in zip(names, times, block.features, strict=True):
        yield name, (time_us, features.tobytes())


def build(
    root: beam.Pipeline, reading: ReadTelemetry, kafka: KafkaAccess, out: str, weights: str
) -> None:
    """Put the steps together."""
    read = root | "Read" >> reading
    each = read.blocks | "Events" >> beam.FlatMap(events).with_output_types(
        tuple[str, tuple[int, bytes]]
    )
    scored = each | "Score" >> beam.ParDo(Score(weights)).with_output_types(bytes)
    scored | "Write" >> WriteTopic(kafka, out)
