"""One rule for all readers: plain JSON, other JSON, Arrow, and the key of a tombstone."""

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.json_scanner import read_plain
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.validation import (
    BAD_ENTITY,
    BAD_TIME,
    FUTURE_TIME,
    DecodeLimits,
    EventRules,
    Message,
    has_entity_size,
    is_event_time,
)

SCHEMA = Schema((Feature("a"),))
TIME = 1_704_067_200_000_000
SIZES = [(0, False), (1, True), (256, True), (257, False)]
TIMES = [
    (946_684_799_999_999, BAD_TIME),
    (946_684_800_000_000, None),
    (TIME + 300_000_000, None),
    (TIME + 300_000_001, FUTURE_TIME),
    (4_102_444_800_000_000, BAD_TIME),
]


def plain_json(entity_id, time_us):
    event = {"entity_id": entity_id, "event_time_us": time_us, "features": [1.0]}
    message = Message(0, TIME, msgspec.json.encode(event))
    scanned = read_plain([message], EventRules(SCHEMA, DecodeLimits()))
    letters = Decoder(SCHEMA).decode(0, [message], 0, 1)[1]
    assert (scanned is None) == bool(letters)
    return letters


def other_json(entity_id, time_us):
    event = {"unknown": 1, "entity_id": entity_id, "event_time_us": time_us, "features": {"a": 1}}
    return Decoder(SCHEMA).decode(0, [Message(0, TIME, msgspec.json.encode(event))], 0, 1)[1]


def arrow(entity_id, time_us):
    columns = [pa.array([entity_id]), pa.array([time_us]), pa.array([1.0], pa.float32())]
    batch = pa.record_batch(columns, ["entity_id", "event_time_us", "a"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    message = Message(0, TIME, sink.getvalue().to_pybytes())
    return Decoder(SCHEMA).decode(0, [message], 0, 1)[1]


def tombstone(entity_id, time_us):
    message = Message(0, TIME, b"", erased_key=entity_id.encode())
    return Decoder(SCHEMA).decode(0, [message], 0, 1)[1]


# A message with an empty key is no tombstone.
READ = [(read, *size) for read in (plain_json, other_json, arrow) for size in SIZES]
READ += [(tombstone, *size) for size in SIZES[1:]]


@pytest.mark.parametrize(("read", "size", "allowed"), READ)
def test_every_reader_has_the_same_bounds_of_entity_ids(read, size, allowed):
    letters = read("x" * size, TIME)
    assert [letter.reason for letter in letters] == ([] if allowed else [BAD_ENTITY])


@pytest.mark.parametrize(("time_us", "reason"), TIMES)
@pytest.mark.parametrize("read", [plain_json, other_json, arrow])
def test_every_reader_has_the_same_bounds_of_event_time(read, time_us, reason):
    letters = read("host", time_us)
    assert [letter.reason for letter in letters] == ([reason] if reason else [])


def test_the_rules_hold_for_arrays_as_for_single_values():
    sizes = np.array([size for size, _ in SIZES])
    assert has_entity_size(sizes).tolist() == [has_entity_size(int(size)) for size in sizes]
    times = np.array([time for time, _ in TIMES])
    one_by_one = [is_event_time(int(time), TIME + 300_000_000) for time in times]
    assert is_event_time(times, TIME + 300_000_000).tolist() == one_by_one
