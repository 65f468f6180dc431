"""Decoding messages into columns, and into dead letters for what cannot be read."""

from dataclasses import replace

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.models.events import validation
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.validation import Message

TIME = 1_704_067_200_000_000
NOW = TIME + 1_000_000
SCHEMA = Schema((Feature("cpu"), Feature("mem"), Feature("net")))


def as_json(entity_id="host", event_time_us=TIME, features=(1, 2.5, 3)):
    event = {"entity_id": entity_id, "event_time_us": event_time_us, "features": features}
    return msgspec.json.encode(event)


def as_arrow(entities, times, features, names=("entity_id", "event_time_us", "features")):
    columns = [
        pa.array(entities, pa.string()),
        pa.array(times, pa.int64()),
        pa.array(features, pa.list_(pa.float32(), len(features[0]))),
    ]
    batch = pa.record_batch(columns, names=list(names))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def as_dictionary(entities, times, features):
    columns = [
        pa.array(entities).dictionary_encode(),
        pa.array(times, pa.int64()),
        pa.array(features, pa.list_(pa.float32(), len(features[0]))),
    ]
    batch = pa.record_batch(columns, names=["entity_id", "event_time_us", "features"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def run(*payloads, schema=SCHEMA, limits=None):
    messages = [Message(10 + i, NOW, payload) for i, payload in enumerate(payloads)]
    return Decoder(schema, limits).decode(4, messages, 10, 10 + len(payloads))


def reason(payload, **kwargs):
    block, [letter] = run(payload, **kwargs)
    assert len(block) == 0
    assert (letter.partition, letter.offset) == (4, 10)
    return letter.reason, letter.detail


def test_json_events_become_columns():
    block, dead = run(as_json("a"), as_json("b", TIME + 5, (4, None, 6)))
    assert dead == []
    assert (block.partition, block.first_offset, block.end_offset) == (4, 10, 12)
    assert block.entity_id.to_pylist() == ["a", "b"]
    assert block.offset.tolist() == [10, 11]
    assert block.event_time_us.tolist() == [TIME, TIME + 5]
    np.testing.assert_array_equal(
        block.features, np.array([[1, 2.5, 3], [4, np.nan, 6]], np.float32)
    )


def test_features_by_name_are_put_in_order_and_unknown_ones_ignored():
    block, _ = run(as_json(features={"net": 3, "extra": 9, "cpu": 1}))
    np.testing.assert_array_equal(block.features, np.array([[1, np.nan, 3]], np.float32))


def test_arrow_rows_become_columns():
    block, dead = run(as_arrow(["a", "b"], [TIME, TIME], [[1, 2, 3], [4, None, 6]]), as_json("c"))
    assert dead == []
    assert block.offset.tolist() == [10, 10, 11]
    assert block.row.tolist() == [0, 1, 0]
    assert block.entity_id.to_pylist() == ["a", "b", "c"]
    np.testing.assert_array_equal(block.features[1], np.array([4, np.nan, 6], np.float32))


def test_arrow_columns_by_name_are_put_in_order():
    batch = pa.record_batch(
        [pa.array(["a"]), pa.array([TIME]), pa.array([3.0]), pa.array([1], pa.int32())],
        names=["entity_id", "event_time_us", "net", "cpu"],
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    block, _ = run(sink.getvalue().to_pybytes())
    np.testing.assert_array_equal(block.features, np.array([[1, np.nan, 3]], np.float32))


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", validation.UNREADABLE),
        (b"{", validation.UNREADABLE),
        (b"\xff\xfe", validation.UNREADABLE),
        (b"[" * 100_000, validation.UNREADABLE),
        (b'"text"', validation.UNREADABLE),
        (as_json()[:-3], validation.UNREADABLE),
        (b'{"event_time_us":1,"features":[1,2,3]}', validation.UNREADABLE),
        (as_json(entity_id=7), validation.UNREADABLE),
        (as_json(event_time_us=str(TIME)), validation.UNREADABLE),
        (as_json(features=("1", 2, 3)), validation.UNREADABLE),
        (as_json().replace(b"2.5", b"NaN"), validation.UNREADABLE),
        (as_json().replace(b"2.5", b"1e999"), validation.UNREADABLE),
        (as_json(entity_id=""), validation.BAD_ENTITY),
        (as_json(entity_id="x" * 257), validation.BAD_ENTITY),
        (as_json(event_time_us=TIME // 1000), validation.BAD_TIME),
        (as_json(event_time_us=TIME // 1_000_000), validation.BAD_TIME),
        (as_json(event_time_us=TIME * 1000), validation.BAD_TIME),
        (as_json(event_time_us=-1), validation.BAD_TIME),
        (as_json(event_time_us=NOW + 301_000_000), validation.FUTURE_TIME),
        (as_json(features=(1, 2)), validation.BAD_FEATURES),
        (as_json(features={"other": 1}), validation.BAD_FEATURES),
        (as_json(features=(1e39, 2, 3)), validation.BAD_FEATURES),
        (as_json(features=(None, None, None)), validation.MISSING_VALUE),
        (as_arrow(["a"], [TIME], [[1.0, 2.0]]), validation.BAD_FEATURES),
        (as_arrow(["a"], [TIME], [[1.0, 2.0, 3.0]])[:100], validation.UNREADABLE),
        (as_arrow(["a"], [TIME], [[1.0, 2.0, 3.0]], ("e", "t", "f")), validation.BAD_ENTITY),
        (b"\xff\xff\xff\xff" + bytes(range(200)), validation.UNREADABLE),
    ],
)
def test_bad_message_becomes_a_dead_letter_with_its_reason(payload, expected):
    assert reason(payload)[0] == expected


def test_dead_letter_names_field_rule_and_what_came():
    _, detail = reason(as_json(features=(1, 2)))
    assert detail == "features must be 3 numbers; got 2"
    _, detail = reason(as_json(features=(1, 1e300, 3)))
    assert detail == "features: 'mem' must be finite and within float32; got inf"


def test_bad_rows_of_an_arrow_batch_leave_the_good_ones():
    entities = ["a", None, "c", "d", ""]
    times = [TIME, TIME, TIME // 1000, TIME, TIME]
    rows = [[1, 2, 3], [1, 2, 3], [1, 2, 3], [float("inf"), 2, 3], [1, 2, 3]]
    block, dead = run(as_arrow(entities, times, rows))
    assert block.row.tolist() == [0]
    assert [(letter.row, letter.reason) for letter in dead] == [
        (1, validation.BAD_ENTITY),
        (2, validation.BAD_TIME),
        (3, validation.BAD_FEATURES),
        (4, validation.BAD_ENTITY),
    ]


def test_arrow_messages_decoded_together_say_what_each_says_alone():
    """Adjacent messages are checked as one table; a fault of one must not affect another."""
    three = [(1, 2, 3), (4, 5, 6), (7, 8, 9)]
    late, ahead = TIME + 9, NOW + 301_000_000
    payloads = [
        as_arrow(["a", "b", "c"], [TIME, ahead, late], three),  # one bad row
        as_arrow(["d"], [TIME], [(np.inf, 0, 0)]),  # nothing but a bad row
        as_arrow(["e", "f"], [TIME, late], three[:2]),
        as_arrow(["g"], [TIME], [(1, 2)]),  # another schema, refused whole
        as_arrow(["h"], [TIME], [(7, 7, 7)], names=("entity_id", "event_time_us", "else")),
        as_arrow(["i"], [late], three[:1])[:-60],  # cut off
        as_arrow(["j", "k"], [TIME, TIME], three[1:]),
        as_dictionary(["l", "m", "l"], [TIME] * 3, three),
        as_dictionary(["n", "l", "o"], [TIME] * 3, three),
        as_arrow(["p"], [late], three[:1]),
    ]
    block, dead = run(*payloads)
    alone = [run(payload) for payload in payloads]
    entities = [name for one, _ in alone for name in one.entity_id.to_pylist()]
    assert block.entity_id.to_pylist() == entities == list("acefjklmlnlop")
    assert block.offset.tolist() == [10, 10, 12, 12, 16, 16, 17, 17, 17, 18, 18, 18, 19]
    assert block.row.tolist() == [0, 2, 0, 1, 0, 1, 0, 1, 2, 0, 1, 2, 0]
    np.testing.assert_array_equal(block.features, np.concatenate([b.features for b, _ in alone]))
    assert [letter.offset for letter in dead] == [10, 11, 13, 14, 15]
    expected = [letter for _, letters in alone for letter in letters]
    for letter, other in zip(dead, expected, strict=True):
        assert replace(letter, offset=10) == other


def test_one_damaged_arrow_message_takes_no_neighbour_with_it():
    good = as_arrow(["a", "b"], [TIME, TIME], [(1, 2, 3), (4, 5, 6)])
    # The end of the first name is far outside the text; only a full validation notices it.
    damaged = good.replace(
        np.array([0, 1, 2], "<i4").tobytes(), b"\0\0\0\0\xff\xff\xff\x7f\2\0\0\0"
    )
    assert damaged != good
    block, [letter] = run(good, damaged, good)
    assert block.entity_id.to_pylist() == ["a", "b", "a", "b"]
    assert (letter.offset, letter.row, letter.reason) == (11, -1, validation.UNREADABLE)


def test_dead_letter_of_an_arrow_row_can_be_read_again():
    _, [letter] = run(as_arrow(["a"], [TIME // 1000], [[1, 2, 3]]))
    with pa.ipc.open_stream(letter.payload) as reader:
        [row] = reader.read_all().to_pylist()
    assert row == {"entity_id": "a", "event_time_us": TIME // 1000, "features": [1, 2, 3]}


def test_payload_of_a_dead_letter_is_bounded():
    _, [letter] = run(b"x" * 10_000, limits=DecodeLimits(dead_letter_bytes_max=100))
    assert letter.payload == b"x" * 100


def test_a_message_over_the_limit_is_refused_unread():
    limits = DecodeLimits(message_bytes_max=50)
    assert reason(as_json("a" * 60), limits=limits)[0] == validation.TOO_LARGE
    many = as_arrow(["a"] * 9, [TIME] * 9, [[1, 2, 3]] * 9)
    assert reason(many, limits=limits)[0] == validation.TOO_LARGE
    assert reason(many, limits=DecodeLimits(events_per_message_max=8))[0] == validation.TOO_LARGE


def test_missing_values_are_refused_where_the_schema_says_so():
    schema = Schema(SCHEMA.features, missing="refuse")
    payload = as_json(features=(1, None, 3))
    assert reason(payload, schema=schema)[0] == validation.MISSING_VALUE


def test_dead_letters_come_in_offset_order_whatever_their_kind():
    bad_value, bad_text = as_json(features=(1e39, 1, 1)), b"?"
    _, dead = run(bad_value, bad_text, bad_value, bad_text)
    assert [letter.offset for letter in dead] == [10, 11, 12, 13]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_either_an_event_or_a_dead_letter(data):
    for payload in (data, b"\xff\xff\xff\xff" + data):
        block, dead = run(payload)
        assert len(block) + len(dead) == 1


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_flipped_byte_of_an_arrow_batch_loses_no_event_silently(place, value):
    whole = bytearray(as_arrow(["a", "b"], [TIME, TIME], [[1, 2, 3], [4, 5, 6]]))
    whole[place % len(whole)] = value
    block, dead = run(bytes(whole))
    assert len(block) + len(dead) >= 1
    assert np.isfinite(block.features[~np.isnan(block.features)]).all()
