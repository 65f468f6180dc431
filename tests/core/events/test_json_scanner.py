"""The compiled scanner decodes a message as msgspec does, or reports that it is not plain."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fixtures.deadlines import deadline
from fixtures.paths import ROOT, SOURCE
from streamgauge.models.events.json_decoder import JsonEvents
from streamgauge.models.events.json_scanner import PROBED, read_plain
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.validation import EventRules, Message

TIME = 1_704_067_200_000_000
LIMITS = DecodeLimits(message_bytes_max=2_000)
RULES = EventRules(Schema((Feature("a"), Feature("b"), Feature("c"))), LIMITS)
ONE = EventRules(Schema((Feature("a"),)), LIMITS)
PLAIN = b'{"entity_id":"host-1","event_time_us":1704067200000000,"features":[1.5,null,-2e3]}'
NASTY = b'\x00\x01\t\n "\\,:{}[]+-.0159eEnN\x7f\x80\xc3\xed\xff'

NUMBERS = [
    "0", "1", "-7", "1.5", "-0.25", "1e5", "1E-7", "1e+5", "0e5", "0.0", "0e-5", "-0.0", "-0",
    "0.000000000000000001", "0.0000000000000000000001", "1e22", "1e23", "1e-22", "1e-23",
    "0.00012345678901234567", "-0.00000000000000000000000000001", "999999999999999999",
    "1000000000000000000", "9999999999999999999", "0." + "0" * 400 + "1", "9007199254740991",
    "9007199254740992", "9007199254740993", "0.12345678901234567",
    "123456789012345678", "18446744073709551617", "1" * 400, "0." + "3" * 400, "1e400", "1e-400",
    "1e39", "4e38", "1e00000000000000000005", "1e18446744073709551617", "null",
]  # fmt: skip
BROKEN = [
    "01", "00", "+1", "1.", ".5", "-", "1e", "1e+", "-.5", "NaN", "Infinity", "-Infinity", "true",
    '"1"', "[1]", "[]", "{}", "nul", "nulll", "", "1 2", "--1", "1.5.5", "0x10", "1_0", "-00",
]  # fmt: skip
TIMES = [
    str(TIME), str(TIME + 300_000_000), str(TIME + 300_000_001), "946684800000000",
    "946684799999999", "4102444800000000", "0" + str(TIME), "-1", "-0", "1.704e15", f"{TIME}.0",
    str(TIME) + "0" * 20, "18446744073709551617", "null", "true", '"1"', "",
]  # fmt: skip
NAMES = [
    '"host"', '""', '"' + "x" * 256 + '"', '"' + "x" * 257 + '"', '"a\\nb"', '"a\\u0041"',
    '"\\ud800"', '"é"', '"\x01"', '"\t"', '"\x7f"', '"\ud800"', '"a', "a", "null", "5", '"a"b"',
    '"' + "é" * 128 + '"', '"' + "é" * 129 + '"', '" "',
]  # fmt: skip
GUARDED = """
import ctypes, mmap, sys
import numpy as np
from streamgauge.models.events.json_scanner import scan
from test_json_scanner import BROKEN, NASTY, NUMBERS, PLAIN, TIME

libc = ctypes.CDLL(None, use_errno=True)
memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert libc.mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
page = np.frombuffer(memory, np.uint8, mmap.PAGESIZE)

def read(message):
    text = page[len(page) - len(message):]
    text[:] = np.frombuffer(message, np.uint8)
    scanned = scan(text, np.array([len(text)]), np.array([TIME]), np.empty(3, np.float32), 2_000)
    return len(scanned[0])

spaced = PLAIN.replace(b":", b" :").replace(b",", b", ") + b" "
endings = [b"%c" % byte for byte in NASTY] + [b"0", b"null", b'"entity_id"', b'"event_time_us"']
for plain in (PLAIN, spaced):
    for end in range(1, len(plain) + 1):
        whole = read(plain[:end])
        assert whole == (plain[:end].strip() == plain.strip()), plain[:end]
        for ending in endings:
            read(plain[:end] + ending)
for number in NUMBERS + BROKEN:
    head = PLAIN[: PLAIN.index(b"1.5")] + number.encode()
    for end in range(len(head) - len(number), len(head) + 1):
        read(head[-2_000:][:end] if end else head)
print("all read")
"""
spaces = st.sampled_from(["", "", "", " ", "\n", "\t\r ", "\x0b", "\ufeff", "\x00"])
mostly = st.integers(0, 9)


@st.composite
def payloads(draw):
    """A plain message, or one with one or more deviations."""

    def of(good, bad, odds=1):
        return draw(st.sampled_from(bad if draw(mostly) < odds else good))

    size = of([3], [0, 1, 2, 4])
    items = [of(NUMBERS, BROKEN, draw(st.integers(0, 1))) for _ in range(size)]
    gap = draw(spaces)
    features = "[" + f"{gap},".join(items) + gap + "]"
    features = of([features], ['{"a":1,"c":null}', '{"z":1}', "null", features[:-1], "[1,2,3,]"])
    fields = [
        ("entity_id", of(NAMES[:1], NAMES, 3)),
        ("event_time_us", of(TIMES[:1], TIMES, 3)),
        ("features", features),
    ]
    fields = draw(st.permutations(fields))
    if draw(mostly) == 0:
        fields.append(draw(st.sampled_from([*fields, ("more", "1"), ("entity_i", "1")])))
    if draw(mostly) == 0:
        fields.pop()
    a, b, c, d = (draw(spaces) for _ in range(4))
    text = ",".join(f'{a}"{key}"{b}:{c}{value}{d}' for key, value in fields)
    behind = of([""], ["{}", ",", "x", " \n", "\x00", "null"])
    return (f"{b}{{{text}}}{a}{behind}").encode(errors="surrogatepass")


def told(rules, messages, scans):
    [columns], refused = JsonEvents(rules, scans=scans).decode(messages)
    return (
        columns.offset.tolist(),
        columns.row.tolist(),
        columns.event_time_us.tolist(),
        columns.entity_id.to_pylist(),
        (columns.features.dtype, columns.features.shape, columns.features.tobytes()),
        columns.entity_id.type,
        [(place, row, error.reason, error.detail, own) for place, row, error, own in refused],
    )


def same(given_payloads, rules=RULES, timestamp_us=TIME):
    messages = [Message(7 + 2 * i, timestamp_us, one) for i, one in enumerate(given_payloads)]
    assert told(rules, messages, True) == told(rules, messages, False)
    for message in messages:
        assert told(rules, [message], True) == told(rules, [message], False)


def is_plain(payload, rules=RULES, timestamp_us=TIME):
    return read_plain([Message(0, timestamp_us, payload)], rules) is not None


@given(st.lists(payloads(), max_size=8))
@settings(max_examples=400, deadline=None)
@example([])
@example([b""])
@example([b"", PLAIN, b"", PLAIN])
def test_both_ways_give_the_same(given_payloads):
    same(given_payloads)


@given(st.lists(st.binary(max_size=60), max_size=5))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused_alike(given_payloads):
    same([PLAIN, *given_payloads, PLAIN])


@pytest.mark.parametrize("text", NUMBERS + BROKEN)
def test_numbers_of_every_spelling_are_read_alike(text):
    same([b'{"entity_id":"a","event_time_us":%d,"features":[%b]}' % (TIME, text.encode())], ONE)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_every_spelling_are_read_alike(name):
    same([PLAIN.replace(b'"host-1"', name.encode(errors="surrogatepass"))])


@pytest.mark.parametrize("time", TIMES)
def test_times_of_every_spelling_are_read_alike(time):
    same([PLAIN.replace(str(TIME).encode(), time.encode())])


def test_every_truncation_and_every_replaced_byte_is_read_alike():
    spaced = PLAIN.replace(b":", b" :\t").replace(b",", b"\n, ") + b" "
    for plain in (PLAIN, spaced):
        cut = [plain[:end] for end in range(len(plain))]
        replaced = [
            plain[:at] + bytes([byte]) + plain[at + 1 :]
            for at in range(len(plain))
            for byte in NASTY
        ]
        assert is_plain(plain)
        same([plain, *cut, *replaced, plain])


def test_a_message_that_its_neighbour_would_complete_is_refused():
    for end in range(1, len(PLAIN)):
        same([PLAIN[:end], PLAIN[end:]])


def test_numbers_are_the_float32_of_the_nearest_double():
    rng = np.random.default_rng(5)
    digits, powers = rng.integers(1, 16, 200_000), rng.integers(-22, 23, 200_000)
    mantissas = rng.integers(0, 10**15, 200_000) // 10 ** (15 - digits)
    points = rng.integers(0, 16, 200_000)
    texts = []
    for mantissa, power, point in zip(mantissas + 1, powers, points, strict=True):
        written = str(mantissa)
        if point < len(written) - 1:
            written = f"{written[: point + 1]}.{written[point + 1 :]}"
            power = int(power) + len(written) - 2 - point
        texts.append(f"{'-' if mantissa % 2 else ''}{written}e{power}")
    payload = b'{"entity_id":"a","event_time_us":%d,"features":[%b]}'
    messages = [Message(i, TIME, payload % (TIME, t.encode())) for i, t in enumerate(texts)]
    scanned = read_plain(messages, ONE)
    assert len(scanned.message_index) > 190_000
    expected = np.array([float(texts[i]) for i in scanned.message_index]).astype(np.float32)
    assert scanned.features[:, 0].tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "payload",
    [
        PLAIN,
        b' \n{ "features" : [ 1 , 2.50 , null ] ,\t"event_time_us" : 1704067200000000 ,'
        b'"entity_id":"a b"\r}\n',
        msgspec.json.encode(
            {"event_time_us": TIME, "entity_id": "x" * 256, "features": [1e-7, 0.1, 1e22]}
        ),
        PLAIN.replace(b"1.5", b"-0.012345678901234567").replace(b"-2e3", b"71.23456789012345"),
        PLAIN.replace(b"1.5", b"0.00030000000000000003").replace(b"-2e3", b"1.234567890123456e-05"),
    ],
)
def test_what_senders_write_is_plain(payload):
    assert is_plain(payload)
    same([payload])


def test_nothing_is_read_after_the_last_byte():
    """The bytes end at the end of a page, and reading the next page is a fault."""
    here = Path(__file__).parent
    told = subprocess.run(
        [sys.executable, "-c", GUARDED],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(here), str(ROOT / "tests"), str(SOURCE)]),
        },
        capture_output=True,
        text=True,
        timeout=deadline(120),
    )
    assert (told.returncode, told.stdout.split()[:1]) == (0, ["all"]), told.stderr


def test_a_message_over_the_limit_is_refused_alike():
    for size in (LIMITS.message_bytes_max, LIMITS.message_bytes_max + 1):
        payload = PLAIN + b" " * (size - len(PLAIN))
        assert is_plain(payload) == (size == LIMITS.message_bytes_max)
        same([PLAIN, payload, PLAIN])


@pytest.mark.parametrize(
    "timestamp_us", [-1, 0, 2**62, 2**63 - 1, -(2**63), 2**63, 2**70, -(2**70)]
)
def test_any_kafka_timestamp_is_read_alike(timestamp_us):
    same([PLAIN, PLAIN], timestamp_us=timestamp_us)


@pytest.mark.parametrize("future_s_max", [0, 2**50, 2**62, -(2**62)])
def test_any_limit_on_the_future_is_read_alike(future_s_max):
    rules = EventRules(RULES.schema, DecodeLimits(future_s_max=future_s_max))
    for timestamp_us in (TIME, 0, -(2**63)):
        same([PLAIN], rules, timestamp_us)


def test_a_long_run_is_read_alike_wherever_its_plain_messages_are():
    other = PLAIN.replace(b"1.5", b"0.12345678901234567").replace(b"host-1", "h\u00e9".encode())
    broken = PLAIN[:-1]
    for first, then in ((other, PLAIN), (PLAIN, other), (broken, PLAIN), (PLAIN, broken)):
        same([first] * PROBED + [then, first] * (4 * PROBED))


def test_numbers_beside_the_middle_of_two_float32_go_the_right_way():
    """Only there, an error in the last bit of a double changes the float32."""
    rng = np.random.default_rng(6)
    texts = ["1"]  # a long run is read if its beginning has something plain
    for exponent in range(-25, 26):
        ten = Fraction(10) ** exponent
        for start in 2.0 ** rng.uniform(46, 55, 600):
            value = float(int(start) * ten)
            if value < 1e38:
                low = np.float32(value)
                middle = (Fraction(float(low)) + Fraction(float(np.nextafter(low, np.inf)))) / 2
                mantissa = round(middle / ten)
                texts.extend(f"{mantissa + step}e{exponent}" for step in (-1, 0, 1))
    payload = b'{"entity_id":"a","event_time_us":%d,"features":[%b]}'
    messages = [Message(i, TIME, payload % (TIME, t.encode())) for i, t in enumerate(texts)]
    [columns], _ = JsonEvents(ONE).decode(messages)
    assert len(read_plain(messages, ONE).message_index) > 30_000
    expected = np.array([float(text) for text in texts]).astype(np.float32)
    assert columns.features[:, 0].tobytes() == expected.tobytes()
