"""Shows the messages of an in-process replay while it runs.

Beam sends each step to its worker as bytes, so a step cannot hold a function or a queue of
the caller. It can hold the path of a file: the tap appends every message to that file, and a
thread of the caller reads the file and calls the listener.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.typehints import with_output_types

from streamgauge.transforms.messages.outgoing import Outgoing, decode_outgoing

#: Called with a kind of `transforms.sinks.files` and a message of that kind.
Listener = Callable[[str, Outgoing], None]

POLL_INTERVAL_S = 0.1  # a reader does not notice the delay, and the scorer keeps its core
_HEAD = struct.Struct("<HI")  # bytes of the kind, bytes of the element


class Tap(beam.PTransform[Any, Any]):
    """A sink that also copies its messages to a file.

    Args:
        sink: receives the messages unchanged.
        kind: a kind of `transforms.sinks.files`.
        copy: the file; `listening` reads it.
    """

    def __init__(self, sink: beam.PTransform[Any, Any], kind: str, copy: Path) -> None:
        super().__init__()
        self._sink = sink
        self._kind = kind
        self._copy = copy

    def expand(self, messages: Any) -> Any:
        """Copy each element, then write it with the sink."""
        copied = messages | "Tap" >> beam.ParDo(_Copy(str(self._copy), self._kind))
        return copied | "Write" >> self._sink


@with_output_types(bytes)
class _Copy(beam.DoFn):
    """Appends each element to the file and passes it on."""

    def __init__(self, path: str, kind: str) -> None:
        self._path = path
        self._kind = kind.encode()

    def process(self, element: bytes) -> Iterator[bytes]:
        """Append the element in one write, so that no other step writes in between."""
        with open(self._path, "ab", buffering=0) as copy:
            copy.write(_HEAD.pack(len(self._kind), len(element)) + self._kind + element)
        yield element


@contextmanager
def listening(copy: Path, listener: Listener) -> Iterator[None]:
    """Call `listener` with every message that taps append to `copy` in this context.

    The listener runs in one other thread, in the order of the file. All calls are over when
    the context ends. An error of the listener is raised at that point.
    """
    copy.touch()
    ended = threading.Event()

    def follow() -> None:
        position = 0
        while not ended.wait(POLL_INTERVAL_S):
            position = _read_from(copy, position, listener)
        _read_from(copy, position, listener)

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow)
        try:
            yield
        finally:
            ended.set()
        following.result()


def _read_from(copy: Path, position: int, listener: Listener) -> int:
    """Pass the complete messages after `position` to the listener; returns the next position."""
    with copy.open("rb") as file:
        file.seek(position)
        data = file.read()
    start = 0
    while start + _HEAD.size <= len(data):
        kind_bytes, element_bytes = _HEAD.unpack_from(data, start)
        element_start = start + _HEAD.size + kind_bytes
        end = element_start + element_bytes
        if end > len(data):
            break
        kind = data[start + _HEAD.size : element_start].decode()
        for message in decode_outgoing(data[element_start:end]):
            listener(kind, message)
        start = end
    return position + start
