"""Part files: length-prefixed messages, visible only when their bundle has ended."""

import pytest

from fixtures import object_store
from streamgauge.transforms.sinks.files import WritePart, read_parts


@pytest.fixture
def objects():
    object_store.OBJECTS.clear()
    return object_store.OBJECTS


def write(step, *messages):
    step.start_bundle()
    for message in messages:
        step.process(message)
    step.finish_bundle()


def test_messages_of_all_bundles_are_read_back(tmp_path):
    step = WritePart(str(tmp_path), "alerts")
    write(step, b"one", b"", b"three" * 1000)
    write(step)
    write(step, b"four")
    assert sorted(read_parts(tmp_path, "alerts")) == sorted([b"one", b"", b"three" * 1000, b"four"])
    assert len(list((tmp_path / "alerts").iterdir())) == 2  # an empty bundle writes nothing


def test_a_part_of_an_attempt_that_failed_is_not_read(tmp_path):
    step = WritePart(str(tmp_path), "alerts")
    step.start_bundle()
    step.process(b"never committed")
    write(WritePart(str(tmp_path), "alerts"), b"committed")
    assert read_parts(tmp_path, "alerts") == [b"committed"]
    step._file.close()


def test_a_kind_without_output_reads_as_empty(tmp_path):
    assert read_parts(tmp_path / "nowhere", "alerts") == []


def test_an_object_store_will_do(objects):
    step = WritePart("memory://bucket/out", "alerts")
    write(step, b"one", b"two")
    [name] = objects
    assert name.startswith("memory://bucket/out/alerts/")
    assert read_parts("memory://bucket/out", "alerts") == [b"one", b"two"]
