"""Writing to a topic: what is too large is made to fit, what is refused is set aside.

`Broker` stands for confluent-kafka's producer and a broker behind it. It refuses whole batches,
as Kafka does. The real broker is in tests/system/test_outputs.py.
"""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import KafkaError, KafkaException

from fixtures.broker import mock_broker
from streamgauge.models.blocks.block import NOTHING_BEFORE, Block
from streamgauge.models.blocks.scored_block import ScoredBlock
from streamgauge.models.events.decoder import DeadLetter
from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.kafka.topic_log import TopicLog
from streamgauge.transforms.messages.dead_letters import dead_letter_message, decode_dead_letter
from streamgauge.transforms.messages.examples import examples
from streamgauge.transforms.messages.fitting import fit, size_of
from streamgauge.transforms.messages.outgoing import Outgoing, decode_outgoing, encode_outgoing
from streamgauge.transforms.messages.scores import decode_arrow_scores, encode_scores
from streamgauge.transforms.sinks import topic as sink
from streamgauge.transforms.sinks.topic import Produce

EXAMPLES = examples()
KAFKAS_DEFAULT = 1_048_588  # of max.message.bytes
HEADERS = [("content-type", b"text")]


def scores_of(entities: list[str]) -> Outgoing:
    """One Arrow message with a score for each of `entities`."""
    count = len(entities)
    block = Block(
        partition=3,
        first_offset=100,
        end_offset=100 + count,
        previous_end=NOTHING_BEFORE,
        offset=np.arange(100, 100 + count, dtype=np.int64),
        row=np.zeros(count, np.int32),
        event_time_us=np.arange(count, dtype=np.int64),
        entity_id=pa.array(entities, pa.string()),
        features=np.zeros((count, 1), np.float32),
    )
    noise = np.random.default_rng(1).random(count).astype(np.float32)
    scored = ScoredBlock(
        block=block,
        score=noise,
        rarity_1_in_n=noise,
        verdict=np.arange(count).astype(np.uint8) % 3,
        confidence=noise,
        loss=noise,
        transitions=[],
        set_aside={},
        late=0,
        erased=0,
    )
    [element] = encode_scores("telemetry", "d" * 64, scored, "arrow")
    [message] = decode_outgoing(element)
    return message


def rows_of(messages: list[Outgoing]) -> tuple[list[str], list[tuple[int, ...]]]:
    names, rows = [], []
    for message in messages:
        some_names, some_rows = decode_arrow_scores(message.value)
        names += some_names.to_pylist()
        rows += some_rows.tolist()
    return names, rows


ENTITIES = {
    "one entity": ["press-04/line-2/spindle"] * 60_000,
    "twenty pods": [f"{i % 20:040d}" for i in range(46_000)],
    "long names side by side": ["a"] * 30_000 + ["b" * 256] * 10_000,
    "long names first": ["ü" * 128] * 8_000 + [""] * 1,
}


@pytest.mark.parametrize("bytes_max", [KAFKAS_DEFAULT, 1_000_000, 65_536])
@pytest.mark.parametrize("entities", ENTITIES.values(), ids=ENTITIES)
def test_scores_of_a_block_are_split_to_the_limit_and_stay_exact(entities, bytes_max):
    message = scores_of(entities)
    pieces = fit(message, bytes_max)
    assert max(map(size_of, pieces)) <= bytes_max
    assert len(pieces) <= 3 * size_of(message) / bytes_max + 1
    assert {(piece.key, *piece.headers) for piece in pieces} == {(message.key, *message.headers)}
    assert rows_of(pieces) == rows_of([message])


def test_a_score_alone_is_not_split():
    pieces = fit(scores_of(["a", "b"]), 10)
    assert rows_of(pieces) == rows_of([scores_of(["a", "b"])])
    assert len(pieces) == 2
    assert fit(pieces[0], 10)[0].value == pieces[0].value


def test_a_dead_letter_holds_less_of_its_payload_and_the_same_origin():
    letter = DeadLetter(
        partition=1, offset=2, row=3, reason="malformed", detail="no", payload=b"x" * 9_000
    )
    message = dead_letter_message("telemetry", letter)
    [piece] = fit(message, 2_000)
    assert size_of(piece) <= 2_000
    assert set(piece.value) == set(b"x")
    assert decode_dead_letter(piece.headers) == decode_dead_letter(message.headers)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_fits_stays_as_it_is(kind):
    assert fit(EXAMPLES[kind], size_of(EXAMPLES[kind])) == [EXAMPLES[kind]]


class Broker:
    """Takes batches of at most `bytes_max`; refuses a batch that holds a message with `bad`."""

    def __init__(self, bytes_max: int, bad: dict[bytes, int] | None = None) -> None:
        self.bytes_max, self.bad = bytes_max, bad or {}
        self.taken: list[Outgoing] = []
        self.is_clock_wrong = False
        self.untimely: set[bytes] = set()  # keys of the messages whose times would be refused
        self.refusals = 0

    def new_producer(self, _access, bytes_max, batch_messages_max=10_000):
        return Client(self, bytes_max, batch_messages_max)

    def answer(self, batch: list[Outgoing]) -> KafkaError | None:
        error = self._answer(batch)
        self.refusals += error is not None
        return error

    def _answer(self, batch: list[Outgoing]) -> KafkaError | None:
        if self.untimely.intersection(message.key for message in batch):
            return KafkaError(KafkaError.INVALID_TIMESTAMP)
        for message in batch:
            if message.key in self.bad:
                return KafkaError(self.bad[message.key])
        if sum(map(size_of, batch)) > self.bytes_max:
            return KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
        self.taken += batch
        return None


class Client:
    def __init__(self, broker: Broker, batch_bytes_max: int, batch_messages_max: int) -> None:
        self._broker, self._bytes, self._messages = broker, batch_bytes_max, batch_messages_max
        self._queue = []

    def produce(self, _topic, *, key, value, headers, timestamp, on_delivery):
        if timestamp != -1 and self._broker.is_clock_wrong:
            self._broker.untimely.add(key)
        else:
            self._broker.untimely.discard(key)
        self._queue.append((Outgoing(key, value, list(headers.items())), on_delivery))

    def flush(self, _timeout_s):
        while self._queue:
            batch = [self._queue.pop(0)]
            while (
                self._queue
                and len(batch) < self._messages
                and sum(size_of(m) for m, _ in (*batch, self._queue[0])) <= self._bytes
            ):
                batch.append(self._queue.pop(0))
            error = self._broker.answer([message for message, _ in batch])
            for _, on_delivery in batch:
                on_delivery(error, None)
        return 0


@pytest.fixture
def write(monkeypatch, caplog):
    """Writes messages as one bundle; returns (what is on the topic, how many were set aside)."""

    def write(broker, *messages, limit=None):
        monkeypatch.setattr(sink, "message_bytes_max", lambda *_: limit)
        monkeypatch.setattr(sink, "new_output_producer", broker.new_producer)
        counted = []
        step = Produce(KafkaAccess("unused:1"), "scores")
        monkeypatch.setattr(step, "_outputs_set_aside", Counter(counted))
        step.setup()
        with caplog.at_level(logging.WARNING):
            step.start_bundle()
            step.process(encode_outgoing(*messages))
            step.finish_bundle()
        return broker.taken, len(counted)

    return write


class Counter:
    def __init__(self, counted):
        self._counted = counted

    def inc(self):
        self._counted.append(1)


def text(key: bytes, size: int = 10) -> Outgoing:
    return Outgoing(key, b"x" * size, HEADERS)


@pytest.mark.parametrize("told", [KAFKAS_DEFAULT, None], ids=["told", "not told"])
def test_scores_larger_than_the_topic_takes_all_arrive(write, told):
    message = scores_of(ENTITIES["one entity"])
    broker = Broker(KAFKAS_DEFAULT)
    taken, set_aside = write(broker, message, limit=told)
    assert (rows_of(taken), set_aside) == (rows_of([message]), 0)
    assert broker.refusals == 0


@pytest.mark.parametrize("now", [100_000, 20_000, 3_000])
def test_a_limit_that_is_lowered_while_the_job_runs_loses_nothing(write, now):
    messages = [scores_of([f"e{i}"] * 2_000) for i in range(5)]
    taken, set_aside = write(Broker(now), *messages, limit=1_000_000)
    assert (rows_of(taken), set_aside) == (rows_of(messages), 0)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.INVALID_RECORD,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
    ],
)
def test_a_refused_message_is_set_aside_and_its_neighbours_arrive(write, caplog, code):
    taken, set_aside = write(
        Broker(1_000_000, {b"bad": code}), text(b"a"), text(b"bad"), text(b"c")
    )
    assert ([message.key for message in taken], set_aside) == ([b"a", b"c"], 1)
    assert all(message == text(message.key) for message in taken)
    [record] = caplog.records
    assert "topic scores: 1 messages set aside" in record.getMessage()
    assert "key b'bad'" in record.getMessage()


def test_a_message_that_cannot_be_split_and_is_too_large_is_set_aside(write):
    taken, set_aside = write(Broker(1_000), text(b"a"), text(b"large", 2_000), limit=1_000)
    assert ([message.key for message in taken], set_aside) == ([b"a"], 1)


def test_one_score_that_is_too_large_does_not_take_the_others_along(write):
    limit = size_of(scores_of(["a"])) + 150  # a score of an entity with a long name takes more
    message = scores_of(["a", "b" * 256, "c"])
    taken, set_aside = write(Broker(limit), message, limit=limit)
    assert (rows_of(taken)[0], set_aside) == (["a", "c"], 1)


@pytest.mark.parametrize("bytes_max", [1_000_000, 3_000])
def test_what_a_worker_with_a_wrong_clock_writes_arrives_without_times(write, bytes_max):
    broker = Broker(bytes_max)
    broker.is_clock_wrong = True
    messages = [scores_of([f"e{i}"] * 500) for i in range(3)]
    taken, set_aside = write(broker, *messages, limit=1_000_000)
    assert (rows_of(taken), set_aside) == (rows_of(messages), 0)


def test_a_message_whose_time_is_refused_although_it_has_none_is_set_aside(write):
    bad = {b"bad": KafkaError.INVALID_TIMESTAMP}
    taken, set_aside = write(Broker(1_000_000, bad), text(b"a"), text(b"bad"))
    assert ([message.key for message in taken], set_aside) == ([b"a"], 1)


def test_refusals_are_logged_once_a_minute(write, caplog):
    bad = {b"%d" % i: KafkaError.INVALID_RECORD for i in range(50)}
    _, set_aside = write(Broker(1_000_000, bad), *map(text, bad))
    assert (set_aside, len(caplog.records)) == (50, 1)


@pytest.mark.parametrize("code", [KafkaError._MSG_TIMED_OUT, KafkaError.TOPIC_AUTHORIZATION_FAILED])
def test_every_other_error_fails_the_bundle(write, code):
    with pytest.raises(KafkaException):
        write(Broker(1_000_000, {b"bad": code}), text(b"bad"))


def test_a_client_that_may_send_less_than_the_topic_takes_splits_too(monkeypatch):
    """`kafka.settings: {message.max.bytes: …}` of the operator; librdkafka itself refuses."""
    _owner, address = mock_broker()
    monkeypatch.setattr(sink, "message_bytes_max", lambda *_: None)
    access = KafkaAccess(address, {"message.max.bytes": 50_000})
    message = scores_of(["a"] * 5_000)
    step = Produce(access, "scores")
    step.setup()
    step.start_bundle()
    step.process(encode_outgoing(message))
    step.finish_bundle()
    log = TopicLog(KafkaAccess(address), "group", "scores")
    values = [each.value() for portion in log.read() for each in portion]
    log.close()
    assert len(values) > 4
    assert sorted(rows_of([Outgoing(b"", v, []) for v in values])[1]) == rows_of([message])[1]
