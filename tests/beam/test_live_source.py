"""The reader's pace: it rests at the end of a partition and takes full blocks of a backlog."""

import time

import msgspec
import numpy as np
import pytest

from streamgauge.models.blocks.chain import new_ends
from streamgauge.models.blocks.position import Position, decode_position, encode_position
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.validation import Message
from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.runner.keys import partition_key
from streamgauge.transforms.sources.live import BLOCKS_PER_POLL, Polling, PollPartitions
from streamgauge.transforms.sources.source import Source

TIME = 1_704_067_200_000_000
REST_MS = 500
BLOCK_EVENTS = 100
KEY = partition_key(0, 128)


class Value:
    """A state cell."""

    def __init__(self, value):
        self.value = value

    def read(self):
        return self.value

    def write(self, value):
        self.value = value


class Timer:
    """A timer that records its delay, seconds."""

    def set(self, at):
        self.in_s = at.micros / 1e6 - time.time()


class Log:
    """A partition's reader in memory: returns at most the requested bytes of its messages."""

    def __init__(self, messages):
        self.remaining = messages
        self.reads = 0

    def read(self, offset, bytes_max, wait_s):
        self.reads += 1
        taken = []
        while self.remaining and sum(len(message.payload) for message in taken) < bytes_max:
            taken.append(self.remaining.pop(0))
        return taken, taken[-1].offset + 1 if taken else offset

    def close(self):
        """There is no connection."""


def message(offset):
    event = {"entity_id": f"host-{offset % 7}", "event_time_us": TIME, "features": [1.5, 2.5]}
    return Message(offset, TIME, msgspec.json.encode(event))


@pytest.fixture
def step():
    schema = Schema((Feature("cpu"), Feature("mem")))
    source = Source(
        access=KafkaAccess("nowhere:1"),
        group="group",
        topic="topic",
        schema=schema,
        limits=DecodeLimits(),
        shards=2,
        routing="entity",
        block_events_max=BLOCK_EVENTS,
        max_parallelism=128,
    )
    polling = Polling(
        start="earliest",
        on_missing_offset="fail",
        discovery_interval_s=30.0,
        poll_interval_ms=REST_MS,
    )
    step = PollPartitions(source, polling)
    step.setup()
    return step


def fire(step, position, timer):
    return list(step.poll(KEY, position, timer))


def test_a_partition_that_was_read_to_its_end_rests(step):
    log = step._readers[0] = Log([message(offset) for offset in range(5)])
    position, timer = Value(encode_position(Position(0, new_ends(2)))), Timer()
    assert len(fire(step, position, timer)) == 2  # the piece of each shard
    assert log.reads == 1
    assert timer.in_s == pytest.approx(REST_MS / 1000, abs=0.2)
    at = decode_position(position.read(), 2)
    assert (at.next_offset, np.unique(at.ends).tolist()) == (5, [5])


def test_a_partition_without_new_messages_rests_and_writes_no_state(step):
    step._readers[0] = Log([])
    before = encode_position(Position(7, new_ends(2)))
    position, timer = Value(before), Timer()
    assert fire(step, position, timer) == []
    assert timer.in_s == pytest.approx(REST_MS / 1000, abs=0.2)
    assert position.read() is before


def test_a_reader_with_a_backlog_takes_full_blocks_and_polls_again_at_once(step):
    log = step._readers[0] = Log([message(offset) for offset in range(100 * BLOCK_EVENTS)])
    position, timer = Value(encode_position(Position(0, new_ends(2)))), Timer()
    fire(step, position, timer)
    assert log.reads == BLOCKS_PER_POLL
    assert timer.in_s < 0.2
    before = decode_position(position.read(), 2).next_offset
    fire(step, position, timer)  # now it knows the size of this partition's events
    taken = decode_position(position.read(), 2).next_offset - before
    assert taken == pytest.approx(BLOCKS_PER_POLL * BLOCK_EVENTS, rel=0.05)
