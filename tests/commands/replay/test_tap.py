from __future__ import annotations

import threading
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from streamgauge.pipeline.replay.tap import Tap, listening
from streamgauge.transforms.messages.outgoing import Outgoing, encode_outgoing
from streamgauge.transforms.sinks import files

KINDS = (files.ALERTS, files.SCORES)


def _run(copy: Path, values: dict[str, list[bytes]]) -> None:
    """A pipeline that writes `values` of each kind through a tap."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        for kind, elements in values.items():
            messages = [encode_outgoing(Outgoing(b"", value, [])) for value in elements]
            created = pipeline | kind >> beam.Create(messages).with_output_types(bytes)
            created | f"Tap {kind}" >> Tap(beam.Map(lambda element: element), kind, copy)


def test_the_listener_gets_every_message_with_its_kind(tmp_path: Path) -> None:
    received: list[tuple[str, bytes]] = []
    values = {kind: [f"{kind} {i}".encode() * 5_000 for i in range(20)] for kind in KINDS}
    with listening(tmp_path / "copy", lambda kind, message: received.append((kind, message.value))):
        _run(tmp_path / "copy", values)
    assert sorted(received) == sorted((kind, value) for kind in KINDS for value in values[kind])


def test_messages_arrive_while_the_context_is_open(tmp_path: Path) -> None:
    arrived = threading.Event()
    with listening(tmp_path / "copy", lambda kind, message: arrived.set()):
        _run(tmp_path / "copy", {files.ALERTS: [b"x"]})
        assert arrived.wait(30)


def test_an_error_of_the_listener_is_raised(tmp_path: Path) -> None:
    def fail(kind: str, message: Outgoing) -> None:
        raise ValueError("not shown")

    with pytest.raises(ValueError, match="not shown"), listening(tmp_path / "copy", fail):
        _run(tmp_path / "copy", {files.ALERTS: [b"x"]})


def test_two_replays_at_once_do_not_mix(tmp_path: Path) -> None:
    received: dict[str, list[bytes]] = {"a": [], "b": []}
    with (
        listening(tmp_path / "a", lambda _, message: received["a"].append(message.value)),
        listening(tmp_path / "b", lambda _, message: received["b"].append(message.value)),
    ):
        _run(tmp_path / "a", {files.ALERTS: [b"of a"]})
        _run(tmp_path / "b", {files.ALERTS: [b"of b"]})
    assert received == {"a": [b"of a"], "b": [b"of b"]}
