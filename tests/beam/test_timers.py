"""Timers fire and get the state of their key: on `BundleBasedDirectRunner`, with a `TestStream`.

That runner has a test clock. The steps set timers by the wall clock, so it is replaced by one that
advances by `TICK_S` at each call: a timer that is set again is then after the test clock's time.
"""

import itertools

import apache_beam as beam
import msgspec
import pytest
from apache_beam.coders import BytesCoder, TupleCoder
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing import test_stream
from apache_beam.utils.timestamp import Timestamp

from fixtures.artifacts import make_artifact
from fixtures.blocks import START_US, STEP_US, make_block
from fixtures.broker import mock_broker
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.block import decode_block, encode_block
from streamgauge.models.blocks.position import NO_TOPIC_ID
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import from_dict
from streamgauge.transforms import score
from streamgauge.transforms.kafka.client import FIRST_MESSAGES
from streamgauge.transforms.messages.cloudevents import decode_data
from streamgauge.transforms.messages.outgoing import decode_outgoing
from streamgauge.transforms.runner.keys import partition_key, shard_keys
from streamgauge.transforms.runner.snapshot_store import newest_snapshots
from streamgauge.transforms.sinks.files import WriteParts, read_parts
from streamgauge.transforms.sources import live
from streamgauge.transforms.sources.source import DEAD_LETTERS

TICK_S = 10_000
SHARDS = 2
PAIRS = TupleCoder([BytesCoder(), BytesCoder()])


@pytest.fixture
def artifact_dir(tmp_path):
    return make_artifact(tmp_path / "a")


@pytest.fixture
def artifact(artifact_dir):
    return artifacts.load(artifact_dir)


@pytest.fixture
def config(artifact_dir, tmp_path):
    return from_dict(
        {
            "artifact": str(artifact_dir),
            "name": "job",
            "scoring": {"shards": SHARDS, "warmup_events": 30},
            "state": {"folder": str(tmp_path / "state")},
        }
    )


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch):
    ticks = itertools.count(TICK_S, TICK_S)

    class Clock:
        @staticmethod
        def now():
            return Timestamp(next(ticks))

    for module in (score, live):
        monkeypatch.setattr(module, "Timestamp", Clock)


def start(stream, step):
    """A pipeline over `stream`, and the outputs of `step` in it."""
    options = PipelineOptions([])
    options.view_as(StandardOptions).streaming = True
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    return pipeline, pipeline | stream | step


def read(directory, kind):
    elements = read_parts(directory, kind)
    return [decode_data(message.value) for data in elements for message in decode_outgoing(data)]


def test_both_timers_of_the_scorer_fire_with_its_state(config, artifact, tmp_path):
    key = shard_keys(SHARDS, 128)[1]
    state = graph.live_state(config)
    stream = (
        test_stream.TestStream(coder=PAIRS)
        .add_elements([(key, encode_block(make_block(["a", "b", "a"])))])
        .advance_processing_time(TICK_S + config.health.interval_s + 1)
        .advance_watermark_to_infinity()
    )
    pipeline, outputs = start(stream, graph.scoring(config, artifact, state, is_live=True))
    for tag in (score.HEALTH, score.DRIFT):
        outputs[tag] | tag >> WriteParts(str(tmp_path), tag)
    pipeline.run().wait_until_finish()
    [health] = read(tmp_path, score.HEALTH)  # of the heartbeat
    assert (health["shard"], health["entities"], health["counts"]["scored"]) == (1, 2, 3)
    [drift] = read(tmp_path, score.DRIFT)  # of the end of input
    assert (drift["shard"], drift["events"]) == (1, 3)
    assert list(newest_snapshots(graph.state_folder(config))) == [1]


def test_the_timer_of_the_reader_fires_with_its_position(config, artifact, monkeypatch, tmp_path):
    producer, address = mock_broker()
    for i in range(FIRST_MESSAGES):
        event = {"entity_id": "a", "event_time_us": START_US + i * STEP_US, "features": [1, 2, 3]}
        producer.produce(config.input.topic, msgspec.json.encode(event), partition=1)
    assert producer.flush(30) == 0
    monkeypatch.setattr(live, "POLL_WAIT_S", 60.0)  # it returns as soon as the messages are there
    # Only brokers of Kafka itself answer with topic ids; librdkafka would wait for 30 s.
    monkeypatch.setattr(live, "topic_identity", lambda access, topic: NO_TOPIC_ID)
    source = graph.source(
        from_dict({"artifact": "unused", "kafka": {"bootstrap_servers": address}}), artifact
    )
    polling = live.Polling(
        start="earliest", on_missing_offset="fail", discovery_interval_s=30.0, poll_interval_ms=20
    )
    stream = (
        test_stream.TestStream(coder=PAIRS)
        .add_elements([(partition_key(1, 128), live.FROM_CONFIGURED + NO_TOPIC_ID)])
        .advance_processing_time(TICK_S + 1)
        .advance_watermark_to_infinity()
    )
    step = beam.ParDo(live.PollPartitions(source, polling)).with_outputs(
        DEAD_LETTERS, main="blocks"
    )
    pipeline, outputs = start(stream, step)
    blocks = outputs.blocks | beam.Values().with_output_types(bytes)
    blocks | WriteParts(str(tmp_path), "blocks")
    pipeline.run().wait_until_finish()
    blocks = [decode_block(data) for data in read_parts(tmp_path, "blocks")]
    assert [(block.partition, len(block)) for block in blocks if len(block)] == [
        (1, FIRST_MESSAGES)
    ]
