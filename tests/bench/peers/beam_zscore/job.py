"""Beam's anomaly detection: a z-score per entity over one feature, because it is univariate.

Its state is a pickled detector per entity. It reads with streamgauge's reader, like the other
Beam peer.
"""

from collections.abc import Iterator

import apache_beam as beam
import msgspec
from apache_beam.ml.anomaly.base import AnomalyResult
from apache_beam.ml.anomaly.detectors.zscore import ZScore
from apache_beam.ml.anomaly.transforms import AnomalyDetection

from streamgauge.models.blocks.block import decode_block
from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing
from streamgauge.transforms.sinks.topic import WriteTopic
from streamgauge.transforms.sources.live import ReadTelemetry


def events(element: tuple[bytes, bytes]) -> Iterator[tuple[str, beam.Row]]:
    """The events of a block, one row each."""
    block = decode_block(element[1])
    times, names = block.event_time_us.tolist(), block.entity_id.to_pylist()
    first = block.features[:, 0].tolist()
    for name, time_us, value in zip(names, times, first, strict=True):
        yield name, beam.Row(time_us=time_us, value=value)


def message(element: tuple[str, AnomalyResult]) -> bytes:
    """The score of an event; 0 until the detector has enough events."""
    name, result = element
    time_us, score = result.example.time_us, result.predictions[0].score
    known = 0.0 if score is None or score != score else score
    found = {"entity_id": name, "event_time_us": time_us, "score": known}
    value = msgspec.json.encode(found)
    return encode_outgoing(Outgoing(name.encode(), value, []))


def build(
    root: beam.Pipeline, reading: ReadTelemetry, kafka: KafkaAccess, out: str, weights: str
) -> None:
    """Put the steps together; `weights` are those of the other peers' detector."""
    read = root | "Read" >> reading
    each = read.blocks | "Events" >> beam.FlatMap(events)
    scored = each | "Detect" >> AnomalyDetection(ZScore(features=["value"]))
    messages = scored | "Messages" >> beam.Map(message).with_output_types(bytes)
    messages | "Write" >> WriteTopic(kafka, out)
