"""Consumers against librdkafka's mock broker: one partition from an offset, a topic to its end."""

import pytest

from fixtures.broker import mock_broker
from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.kafka.admin import partition_count
from streamgauge.transforms.kafka.client import MissingOffsetError, PartitionReader
from streamgauge.transforms.kafka.topic_log import TopicLog, headers_of

TOPIC, WAIT_S = "events", 30.0


@pytest.fixture
def broker():
    return mock_broker()


def send(broker, *values, partition=0, headers=None):
    producer, address = broker
    for value in values:
        producer.produce(TOPIC, value, b"key", partition, headers=headers)
    assert producer.flush(WAIT_S) == 0
    return KafkaAccess(address)


def test_a_partition_is_read_from_an_offset_in_order(broker):
    access = send(broker, b"a", b"b", b"c")
    reader = PartitionReader(access, "group", TOPIC, 0)
    assert (reader.offset_at("earliest"), reader.offset_at("latest")) == (0, 3)
    messages, end = reader.read(1, 1_000, WAIT_S, count_max=2)
    assert [(message.offset, message.payload) for message in messages] == [(1, b"b"), (2, b"c")]
    assert end == 3
    assert reader.read(3, 1_000, 0.0) == ([], 3)
    reader.close()


def test_a_message_without_a_value_carries_the_key_that_it_erases(broker):
    access = send(broker, b"a", None)
    reader = PartitionReader(access, "group", TOPIC, 0)
    messages, _ = reader.read(0, 1_000, WAIT_S, count_max=2)
    assert [(message.payload, message.erased_key) for message in messages] == [
        (b"a", None),
        (b"", b"key"),
    ]
    reader.close()


def test_an_offset_that_the_log_does_not_have_is_named(broker):
    access = send(broker, b"a")
    reader = PartitionReader(access, "group", TOPIC, 0)

    def read():
        for _ in range(100):  # the broker's refusal comes with one of the first answers
            reader.read(99, 1_000, 0.3, count_max=1)

    with pytest.raises(MissingOffsetError, match="partition 0: offset 99 must be in the log"):
        read()
    reader.close()


def test_partitions_are_counted(broker):
    assert partition_count(send(broker, b"a"), TOPIC) == 4


def test_a_topic_is_read_to_its_end_and_later_on_from_there(broker):
    send(broker, b"a", b"b", headers=[("name", b"value")])
    log = TopicLog(send(broker, b"c", partition=2), "group", TOPIC)
    assert log.exists
    assert log.is_whole
    assert log.messages_left() == 3
    messages = [message for portion in log.read() for message in portion]
    assert sorted(message.value() for message in messages) == [b"a", b"b", b"c"]
    assert {tuple(headers_of(message)) for message in messages} == {(("name", b"value"),), ()}
    assert log.messages_left() == 0
    send(broker, b"d")
    assert [message.value() for portion in log.read() for message in portion] == [b"d"]
    log.close()
