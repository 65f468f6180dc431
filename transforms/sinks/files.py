"""Writes a replay's outputs to files; the command that started it puts them together.

Each worker writes parts of its own. A part is renamed to its final name only when its
bundle ends, so an attempt that failed leaves nothing behind that would be read.
"""

import os
import uuid
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.typehints import with_output_types

SCORES, ALERTS, DEAD_LETTERS, DRIFT = "scores", "alerts", "dead_letters", "drift"
HEALTH = "health"


class WriteParts(beam.PTransform):
    """Messages -> part files of length-prefixed messages under `directory/kind`."""

    def __init__(self, directory: str, kind: str) -> None:
        super().__init__()
        self._directory = directory
        self._kind = kind

    def expand(self, messages: Any) -> Any:
        return messages | "WritePart" >> beam.ParDo(WritePart(self._directory, self._kind))


@with_output_types(bytes)  # it has no output; without a type it would get a pickling coder
class WritePart(beam.DoFn):
    """Appends messages to a part; closes and names it when the bundle ends."""

    def __init__(self, directory: str, kind: str) -> None:
        self._directory = Path(directory) / kind

    def start_bundle(self) -> None:
        self._file: Any = None

    def process(self, element: bytes) -> None:
        if self._file is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._open = self._directory / f"{uuid.uuid4().hex}.open"
            self._file = self._open.open("wb")
        self._file.write(len(element).to_bytes(4, "little") + element)

    def finish_bundle(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._open.rename(self._open.with_suffix(".part"))
            self._file = None


def read_parts(directory: Path, kind: str) -> list[bytes]:
    """All messages of `kind` that bundles have finished, in no particular order."""
    messages = []
    for part in sorted((directory / kind).glob("*.part")):
        data = part.read_bytes()
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            messages.append(data[at + 4 : at + 4 + size])
            at += 4 + size
    return messages
