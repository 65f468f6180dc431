"""Arrow as other libraries and careless producers write it: taken, or refused with a reason."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.models.events import validation
from streamgauge.models.events.decoder import DETAIL_CHARACTERS_MAX, Decoder
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.validation import Message

CASES = Path(__file__).parents[2] / "cases"
TIME = 1_704_067_200_000_000
NOW = 1_735_689_700_000_000  # after every time in the files of the cases
SCHEMA = Schema((Feature("f00"), Feature("f01")))
ZSTD = pa.ipc.IpcWriteOptions(compression="zstd")
ROW = pa.list_(pa.float32(), 2)


def stream(names, columns, options=None):
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays(columns, names=names)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def by_name(entity=None, time=None, f00=None, *, options=None):
    """Two events of which single columns are replaced."""
    columns = [
        pa.array(["a", "b"]) if entity is None else entity,
        pa.array([TIME, TIME + 1]) if time is None else time,
        pa.array([1.0, 2.0]) if f00 is None else f00,
    ]
    return stream(["entity_id", "event_time_us", "f00"], columns, options)


def by_list(features):
    columns = [pa.array(["a", "b", "c"][: len(features)]), pa.array([TIME] * len(features))]
    return stream(["entity_id", "event_time_us", "features"], [*columns, features])


GOOD = by_name()


def decode(*payloads, schema=SCHEMA, limits=None):
    messages = [Message(10 + i, NOW, payload) for i, payload in enumerate(payloads)]
    return Decoder(schema, limits).decode(0, messages, 10, 10 + len(payloads))


def refused_among_good_ones(payload, **kwargs):
    """Check that a message becomes one dead letter and its neighbours are decoded."""
    block, [letter] = decode(GOOD, payload, GOOD, **kwargs)
    assert block.offset.tolist() == [10, 10, 12, 12]
    assert (letter.offset, letter.row) == (11, -1)
    assert len(letter.detail) <= DETAIL_CHARACTERS_MAX
    assert letter.detail.isprintable()
    return letter


def case(name):
    """The message of a case, and the schema of a model that it fits."""
    payload = next(CASES.glob(f"*/{name}")).read_bytes()
    columns = pa.ipc.open_stream(payload).schema.names
    names = {name for name in columns if name[0] == "f"}
    if "features" in names:
        names = {"f00", "f01", "f02"}
    return payload, Schema(tuple(map(Feature, sorted(names))))


# --- case 01: a column name that occurs twice


@pytest.mark.parametrize(
    ("name", "column"), [("repeated-feature", "f00"), ("repeated-entity", "entity_id")]
)
def test_a_message_with_a_repeated_column_is_refused_and_names_it(name, column):
    payload, _ = case(f"{name}.arrows")
    letter = refused_among_good_ones(payload)
    assert letter.reason == validation.UNREADABLE
    assert letter.detail == f"column '{column}' must occur once; it occurs 2 times"


@pytest.mark.parametrize("column", ["entity_id", "event_time_us", "f00", "features"])
@pytest.mark.parametrize("options", [None, ZSTD])
@pytest.mark.parametrize("times", [2, 3])
def test_every_wanted_column_may_occur_once(column, options, times):
    columns = {
        "entity_id": pa.array(["a"]),
        "event_time_us": pa.array([TIME]),
        "f00": pa.array([1.0]),
        "features": pa.array([[1, 2]], ROW),
    }
    wanted = [name for name in columns if name == column or name != "features"]
    names = wanted + [column] * (times - 1)
    letter = refused_among_good_ones(stream(names, [columns[name] for name in names], options))
    assert f"'{column}' must occur once; it occurs {times} times" in letter.detail


def test_a_repeated_column_that_nobody_asked_for_does_no_harm():
    payload = stream(
        ["entity_id", "x", "event_time_us", "x", "f00"],
        [pa.array(["a"]), pa.array([1]), pa.array([TIME]), pa.array(["?"]), pa.array([1.0])],
    )
    block, dead = decode(GOOD, payload)
    assert (len(block), dead) == (3, [])


# --- case 02: whole numbers past 2^53


@pytest.mark.parametrize(
    ("name", "value"),
    [("memory-limit-unlimited", 18446744073709551615), ("bytes-total-int64", (1 << 53) + 1)],
)
def test_a_whole_number_past_2_to_the_53_is_rounded_to_float32(name, value):
    payload, schema = case(f"{name}.arrows")
    block, dead = decode(payload, schema=schema)
    assert (len(block), dead) == (2, [])
    assert np.float32(value) in block.features


@pytest.mark.parametrize("value", [0, 1, (1 << 53) - 1, (1 << 53) + 1, (1 << 63) - 1, 1 << 63])
@pytest.mark.parametrize("kind", [pa.uint64(), pa.int64(), pa.decimal128(20, 0)])
def test_whole_numbers_are_those_of_json(value, kind):
    if value >= 1 << 63 and kind == pa.int64():
        value = -value
    payload = by_name(f00=pa.array([value, None], kind))
    text = f'{{"entity_id":"a","event_time_us":{TIME},"features":{{"f00":{value}}}}}'
    json, _ = decode(text.encode())
    block, [letter] = decode(payload)
    assert block.features.tobytes() == json.features.tobytes()
    assert letter.reason == validation.MISSING_VALUE


def test_the_case_of_json_is_the_case_of_arrow():
    text = (CASES / "02-uint64-sentinel" / "same-as-json.jsonl").read_bytes()
    payload, schema = case("memory-limit-unlimited.arrows")
    block, dead = decode(*text.splitlines(), payload, schema=schema)
    assert dead == []
    assert np.sum(block.features == np.float32(1.8446744e19)) == 2


# --- case 07: what lies behind the end of the first stream


def test_all_streams_of_a_message_are_decoded():
    payload, schema = case("two-streams.arrows")
    block, dead = decode(payload, payload, schema=schema)
    assert dead == []
    assert block.offset.tolist() == [10] * 5 + [11] * 5
    assert block.row.tolist() == [0, 1, 2, 3, 4] * 2


def test_bytes_behind_a_stream_make_a_dead_letter():
    payload, _ = case("stream-and-rubbish.arrows")
    letter = refused_among_good_ones(payload)
    assert letter.reason == validation.UNREADABLE
    assert letter.detail == "Arrow stream: 35 bytes follow the end of the stream"


@pytest.mark.parametrize("rubbish", [b"\0", b"\0" * 8, b"{}", b"\xff" * 4, GOOD[:-20], GOOD[4:]])
def test_no_byte_of_a_message_is_passed_over(rubbish):
    assert refused_among_good_ones(GOOD + rubbish).reason == validation.UNREADABLE


def test_streams_of_one_message_may_differ_and_number_their_rows_through():
    bad_row = by_list(pa.array([[1, 2], [3, 4], None], ROW))
    text = by_name(pa.array(["x", "y"]).dictionary_encode(), pa.array([None, TIME], pa.int64()))
    block, dead = decode(bad_row + GOOD + text)
    assert block.entity_id.to_pylist() == ["a", "b", "a", "b", "y"]
    assert block.row.tolist() == [0, 1, 3, 4, 6]
    assert [(letter.row, letter.detail.rpartition(" ")[2]) for letter in dead] == [
        (2, "null"),
        (5, "null"),
    ]


def test_a_message_is_refused_whole_if_one_of_its_streams_is():
    refused_among_good_ones(GOOD + by_name(pa.array([1, 2])))
    refused_among_good_ones(by_name(f00=pa.array([True, False])) + GOOD)


def test_a_stream_without_its_end_marker_is_whole():
    block, dead = decode(GOOD[:-8])
    assert (len(block), dead) == (2, [])


# --- case 08: the types that other libraries write

OTHER_TYPES = sorted(path.name for path in (CASES / "08-arrow-types-of-other-libraries").iterdir())


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_the_types_of_other_libraries_are_read(name):
    payload, schema = case(name)
    block, dead = decode(payload, payload, schema=schema)
    assert (len(block), dead) == (4, [])
    assert not np.isnan(block.features).any()


IDS = pa.array(["a", "ü" * 20])


@pytest.mark.parametrize(
    "entity",
    [
        IDS.cast(pa.large_string()),
        IDS.cast(pa.string_view()),
        IDS.dictionary_encode(),
        IDS.cast(pa.large_string()).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.uint8()), IDS.take(pa.array([1, 0]))),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("options", [None, ZSTD])
def test_texts_of_every_layout_are_entity_ids(entity, options):
    block, dead = decode(by_name(entity, options=options))
    assert dead == []
    assert block.entity_id.to_pylist() == ["a", "ü" * 20]
    assert block.entity_id.type == pa.string()


@pytest.mark.parametrize(
    "time",
    [
        pa.array([TIME, TIME + 1], pa.timestamp("us")),
        pa.array([TIME, TIME + 1], pa.timestamp("us", "Europe/Berlin")),
        pa.array([TIME * 1000, TIME * 1000 + 1999], pa.timestamp("ns", "UTC")),
        pa.array([TIME, TIME + 1], pa.uint64()),
        pa.array([TIME, TIME + 1], pa.float64()),
    ],
    ids=lambda column: str(column.type),
)
def test_times_of_every_type_are_read(time):
    block, dead = decode(by_name(time=time))
    assert dead == []
    assert block.event_time_us.tolist() == [TIME, TIME + 1]


@pytest.mark.parametrize(("unit", "per_s"), [("s", 1), ("ms", 1_000)])
def test_coarse_time_stamps_are_read(unit, per_s):
    seconds = TIME // 1_000_000
    for values in ([seconds * per_s, None], [seconds * per_s, (1 << 63) - 1]):
        block, [letter] = decode(by_name(time=pa.array(values, pa.timestamp(unit, "UTC"))))
        assert block.event_time_us.tolist() == [TIME]
        assert (letter.row, letter.reason) == (1, validation.BAD_TIME)


LISTS = [[1.0, 2.0], [3.0, None]]


@pytest.mark.parametrize("value", [pa.float16(), pa.float32(), pa.float64(), pa.int64()])
@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize("make", [pa.list_, pa.large_list, lambda item: pa.list_(item, 2)])
def test_lists_of_every_kind_are_features(make, nullable, value):
    lists = LISTS if nullable else [[1, 2], [3, 4]]
    item = pa.field("item", value, nullable=nullable)
    number = np.float16 if value == pa.float16() else lambda v: v
    came = [[v if v is None else number(v) for v in row] for row in lists]
    block, dead = decode(by_list(pa.array(came, make(item))))
    assert dead == []
    np.testing.assert_array_equal(block.features, np.array(lists, np.float32))


def test_a_column_of_nothing_but_null_is_missing_and_categories_of_numbers_are_numbers():
    names = ["entity_id", "event_time_us", "f00", "f01"]
    numbers = pa.array([2.5, 2.5]).dictionary_encode()
    columns = [pa.array(["a", "b"]), pa.array([TIME, TIME]), pa.nulls(2), numbers]
    block, dead = decode(stream(names, columns))
    assert dead == []
    np.testing.assert_array_equal(block.features, np.array([[np.nan, 2.5]] * 2, np.float32))


@pytest.mark.parametrize(
    ("payload", "reason", "came"),
    [
        (by_name(pa.array([1, 2])), validation.BAD_ENTITY, "int64"),
        (by_name(pa.array([b"a", b"b"])), validation.BAD_ENTITY, "binary"),
        (by_name(pa.array([1, 2]).dictionary_encode()), validation.BAD_ENTITY, "dictionary"),
        (by_name(time=pa.array(["now", "x"])), validation.BAD_TIME, "string"),
        (by_name(time=pa.array([1, 2], pa.date32())), validation.BAD_TIME, "date32"),
        (by_name(f00=pa.array(["1", "2"])), validation.BAD_FEATURES, "string"),
        (by_name(f00=pa.array([True, False])), validation.BAD_FEATURES, "bool"),
        (by_list(pa.array([["1", "2"]] * 2)), validation.BAD_FEATURES, "list<item: string>"),
        (by_list(pa.array([[1, 2, 3]] * 2, pa.list_(pa.float32(), 3))), "bad_features", "[3]"),
        (by_list(pa.array([1.0, 2.0])), validation.BAD_FEATURES, "double"),
    ],
)
def test_a_type_that_does_not_fit_is_named(payload, reason, came):
    letter = refused_among_good_ones(payload)
    assert letter.reason == reason
    assert came in letter.detail


# --- case 09: one null row takes only itself


@pytest.mark.parametrize("name", ["null-list-row", "null-time-row"])
def test_a_null_row_takes_only_itself(name):
    payload, schema = case(f"{name}.arrows")
    block, [letter] = decode(payload, schema=schema)
    assert (len(block), letter.row) == (2, 1)
    assert block.row.tolist() == [0, 2]
    assert letter.detail.endswith("got null")


@pytest.mark.parametrize("make", [pa.list_, pa.large_list, lambda item: pa.list_(item, 2)])
def test_a_null_list_of_any_kind_takes_only_itself(make):
    block, [letter] = decode(by_list(pa.array([[1, 2], None, [3, 4]], make(pa.float32()))))
    np.testing.assert_array_equal(block.features, np.array([[1, 2], [3, 4]], np.float32))
    assert (letter.row, letter.detail) == (1, "features must be 2 numbers; got null")
    again, [same] = decode(letter.payload)
    assert (len(again), same.detail) == (0, letter.detail)


def test_a_list_of_another_length_takes_only_itself():
    block, [letter] = decode(by_list(pa.array([[1.0], [1.0, 2.0]])))
    assert block.row.tolist() == [1]
    assert (letter.row, letter.detail) == (0, "features must be 2 numbers; got 1")


@pytest.mark.parametrize(
    ("time", "came"),
    [
        (pa.array([None, TIME], pa.timestamp("ms")).cast(pa.timestamp("ms", "UTC")), "null"),
        (pa.array([None, TIME], pa.uint64()), "null"),
        (pa.array([None, TIME], pa.float64()), "null"),
        (pa.array([1.5, TIME], pa.float64()), "1.5"),
        (pa.array([float("nan"), TIME], pa.float64()), "nan"),
        (pa.array([-1, TIME], pa.int64()), "-1"),
    ],
)
def test_a_time_that_is_none_is_named_for_what_it_is(time, came):
    _, [letter, *_] = decode(by_name(time=time))
    assert (letter.row, letter.reason) == (0, validation.BAD_TIME)
    assert letter.detail.endswith(f"got {came}")


# --- fault F7: whatever it is, it becomes a dead letter


class PythonType(pa.ExtensionType):
    """A type that fails when it is read."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "tests.python_type")

    def __arrow_ext_serialize__(self):
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        raise KeyError("from a stranger")


def test_an_extension_type_is_refused_even_if_reading_it_fails():
    storage = pa.array([1, 2])
    pa.register_extension_type(PythonType())
    try:
        payload = by_name(f00=pa.ExtensionArray.from_storage(PythonType(), storage))
        letter = refused_among_good_ones(payload)
        assert letter.reason == validation.UNREADABLE
    finally:
        pa.unregister_extension_type("tests.python_type")
    assert refused_among_good_ones(by_name(f00=_tensor())).reason == validation.BAD_FEATURES


def _tensor():
    kind = pa.fixed_shape_tensor(pa.float32(), [1])
    return pa.ExtensionArray.from_storage(kind, pa.array([[1], [2]], pa.list_(pa.float32(), 1)))


def test_names_of_a_megabyte_end_in_a_short_detail():
    long = "n" * 1_200_000
    assert "nnn" in refused_among_good_ones(stream([long], [pa.array([1])])).detail
    column = pa.array([{long: 1}, {long: 2}])
    assert "struct<nnn" in refused_among_good_ones(by_name(f00=column)).detail
    schema = Schema((Feature(long),))
    payload = stream(["entity_id", "event_time_us", long, long], [
        pa.array(["a"]), pa.array([TIME]), pa.array([1.0]), pa.array([1.0]),
    ])  # fmt: skip
    _, [letter] = decode(payload, schema=schema)
    assert len(letter.detail) <= DETAIL_CHARACTERS_MAX


TYPES = [
    *(pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.null()),
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view()),
    *(pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.date32(), pa.date64(), pa.time64("us")),
    *(pa.duration("us"), pa.decimal128(10, 2), pa.decimal256(40, 1), pa.month_day_nano_interval()),
    *(pa.binary(4), pa.struct([("x", pa.int8())]), pa.map_(pa.string(), pa.int8())),
    *(pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.float64())),
    *(pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.int64())),
    *(pa.list_(pa.string()), pa.list_(pa.list_(pa.float32(), 2), 2), pa.list_view(pa.float32())),
    *(pa.run_end_encoded(pa.int32(), pa.float64()), pa.dense_union([pa.field("x", pa.int8())])),
]
NAMES = ["entity_id", "event_time_us", "features", "f00", "f01", "else", ""]


def _column(kind: pa.DataType) -> pa.Array:
    """Two rows of a type: null where that is possible."""
    if pa.types.is_run_end_encoded(kind):
        return pa.RunEndEncodedArray.from_arrays([2], pa.array([1.0]))
    if pa.types.is_union(kind):
        one = pa.array([1, 2], pa.int8())
        return pa.UnionArray.from_dense(pa.array([0, 0], pa.int8()), pa.array([0, 1], pa.int32()),
                                        [one])  # fmt: skip
    return pa.nulls(2, kind)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(TYPES)), max_size=8), st.data())
def test_every_type_under_every_name_is_decoded_or_refused(extra, data):
    events = [("entity_id", pa.string()), ("event_time_us", pa.int64()), ("f00", pa.float64())]
    columns = data.draw(st.permutations(events[: data.draw(st.integers(0, 3))] + extra))
    if not columns:
        return
    options = data.draw(st.sampled_from([None, ZSTD]))
    payload = stream([name for name, _ in columns], [_column(kind) for _, kind in columns], options)
    block, dead = decode(GOOD, payload, GOOD + payload, GOOD)
    assert all(letter.reason and len(letter.detail) <= DETAIL_CHARACTERS_MAX for letter in dead)
    offsets = block.offset.tolist()
    assert offsets.count(10) == offsets.count(13) == 2
    assert 11 in offsets or 11 in [letter.offset for letter in dead]
    whole = [letter.offset for letter in dead if letter.row == -1]
    rows = {offset: offsets.count(offset) for offset in (11, 12)}
    for offset, size in ((11, 2), (12, 4)):
        alone = [letter for letter in dead if letter.offset == offset and letter.row >= 0]
        assert rows[offset] + len(alone) == (0 if offset in whole else size)


# --- faults F7 and F8: limits hold for what is unpacked


def bomb(columns, names, rows, options=ZSTD):
    payload = stream(names, columns(rows), options)
    assert len(payload) < 400_000
    return payload


def zeros(rows, width):
    return pa.FixedSizeListArray.from_arrays(pa.nulls(rows * width, pa.float32()), width)


LIMITS = DecodeLimits(unpacked_bytes_max=1_000_000)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(compression):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    rows = 20_000
    columns = [
        pa.array(["a"] * rows),
        pa.array([TIME] * rows),
        pa.array(np.zeros(rows)),
        pa.array(np.zeros((rows, 100)).tolist(), pa.list_(pa.float64(), 100)),
    ]
    payload = stream(["entity_id", "event_time_us", "f00", "else"], columns, options)
    before = pa.total_allocated_bytes()
    pool = pa.default_memory_pool()
    peak = pool.max_memory()
    letter = refused_among_good_ones(payload, limits=LIMITS)
    assert letter.reason == validation.TOO_LARGE
    assert letter.detail.startswith("an Arrow message may unpack to 1000000 bytes; got 16")
    assert pool.max_memory() - max(peak, before) < 1_000_000


def test_columns_that_nobody_asked_for_are_not_unpacked():
    rows = 20_000
    columns = [pa.array(["a"] * rows), pa.array([TIME] * rows), pa.array(np.zeros(rows))]
    names = ["entity_id", "event_time_us", "f00"]
    wide = pa.array(np.zeros((rows, 100)).tolist(), pa.list_(pa.float64(), 100))
    payload = stream([*names, "else"], [*columns, wide], ZSTD)
    [part] = _opened(payload).parts
    assert part.schema.names == names
    assert sum(batch.nbytes for batch in part.batches) < 1_000_000
    block, dead = decode(payload)
    assert (len(block), dead) == (rows, [])


def _opened(payload):
    decoder = Decoder(SCHEMA)
    return decoder._arrow._open(0, Message(0, TIME, payload))


LONG = "x" * 10_000


@pytest.mark.parametrize(
    "entity",
    [
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(200, np.int8)), pa.array([LONG])),
        pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(200, np.int8)), pa.array([LONG], pa.large_string())
        ),
    ],
    ids=lambda column: str(column.type),
)
def test_a_text_that_unfolds_past_the_limit_is_refused(entity):
    columns = [entity, pa.array([TIME] * 200), pa.array(np.zeros(200))]
    payload = stream(["entity_id", "event_time_us", "f00"], columns)
    letter = refused_among_good_ones(payload, limits=LIMITS)
    assert letter.reason == validation.TOO_LARGE
    assert "2000000" in letter.detail


def test_views_of_one_long_text_are_counted_as_they_unfold():
    entity = pa.array([LONG] + ["y" * 13] * 199).cast(pa.string_view())
    columns = [entity, pa.array([TIME] * 200), pa.array(np.zeros(200))]
    payload = stream(["entity_id", "event_time_us", "f00"], columns)
    first = re.search(rb"\x10\x27\0\0xxxx.{8}", payload, re.DOTALL)[0]
    forged = re.sub(rb"\x0d\0\0\0yyyy.{8}", lambda _: first, payload, flags=re.DOTALL)
    letter = refused_among_good_ones(forged, limits=LIMITS)
    assert letter.reason == validation.TOO_LARGE
    assert letter.detail.endswith("may unfold to 1000000 bytes; got 2000000")


def test_few_values_of_many_events_of_a_wide_model_are_counted_as_they_unfold():
    wide = Schema(tuple(Feature(f"f{i:02d}") for i in range(1_000)))
    columns = [pa.array(["a"] * 300), pa.array([TIME] * 300), pa.array(np.zeros(300))]
    payload = stream(["entity_id", "event_time_us", "f00"], columns, ZSTD)
    _, [letter] = decode(payload, schema=wide, limits=LIMITS)
    assert letter.detail.endswith("may unpack to 1000000 bytes; got 1200000")


def test_a_run_is_unpacked_in_parts_of_the_limit():
    rows = 10_000
    columns = [pa.array(["a"] * rows), pa.array([TIME] * rows), pa.array(np.zeros(rows))]
    payload = stream(["entity_id", "event_time_us", "f00"], columns, ZSTD)
    block, dead = decode(*[payload] * 8, limits=LIMITS)
    assert (len(block), dead) == (8 * rows, [])
    assert block.offset.tolist() == np.repeat(np.arange(10, 18), rows).tolist()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=9), st.booleans())
def test_altered_bytes_never_end_the_decoder(place, patch, is_packed):
    whole = bytearray(by_name(IDS.dictionary_encode(), options=ZSTD if is_packed else None))
    place %= len(whole)
    whole[place : place + len(patch)] = patch
    block, dead = decode(GOOD, bytes(whole), GOOD)
    offsets = block.offset.tolist()
    assert offsets.count(10) == offsets.count(12) == 2
    assert 11 in offsets or dead
