"""Writes the outputs of a replay to files; the command that started it reads them back.

The directory is any that Beam's file systems know: a local path, `s3://…`, `gs://…`, `hdfs://…`.
Each bundle writes a part of its own and renames it when it ends, so a reader never sees the part
of an attempt that failed.
"""

import uuid
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.typehints import with_output_types

#: Kinds of output, each a folder.
SCORES, ALERTS, DEAD_LETTERS, DRIFT = "scores", "alerts", "dead_letters", "drift"
HEALTH = "health"

_MIME_TYPE = "application/octet-stream"
_SIZE_BYTES = 4  # length prefix of a message, little-endian


class WriteParts(beam.PTransform[Any, Any]):
    """Messages -> part files of length-prefixed messages in `directory/kind`."""

    def __init__(self, directory: str, kind: str) -> None:
        super().__init__()
        self._directory = directory
        self._kind = kind

    def expand(self, messages: Any) -> Any:
        return messages | "WritePart" >> beam.ParDo(WritePart(self._directory, self._kind))


@with_output_types(bytes)  # there is no output, but an undeclared type would get a pickling coder
class WritePart(beam.DoFn):
    """Appends messages to a part file; closes and renames it when the bundle ends."""

    def __init__(self, directory: str, kind: str) -> None:
        self._folder = FileSystems.join(directory, kind)

    def start_bundle(self) -> None:
        self._file: Any = None

    def process(self, element: bytes) -> None:
        if self._file is None:
            self._path = FileSystems.join(self._folder, uuid.uuid4().hex)
            # Creates the folder too.
            self._file = FileSystems.create(
                f"{self._path}.open", _MIME_TYPE, CompressionTypes.UNCOMPRESSED
            )
        self._file.write(len(element).to_bytes(_SIZE_BYTES, "little") + element)

    def finish_bundle(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            FileSystems.rename([f"{self._path}.open"], [f"{self._path}.part"])


def read_parts(directory: str | Path, kind: str) -> list[bytes]:
    """All messages of `kind` from bundles that ended, in the order of the parts' names."""
    pattern = FileSystems.join(str(directory), kind, "*.part")
    [matched] = FileSystems.match([pattern])
    messages: list[bytes] = []
    for path in sorted(metadata.path for metadata in matched.metadata_list):
        with FileSystems.open(path, _MIME_TYPE, CompressionTypes.UNCOMPRESSED) as part:
            messages += _split(part.read())
    return messages


def _split(data: bytes) -> list[bytes]:
    """The messages of a part."""
    messages, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + _SIZE_BYTES], "little")
        position += _SIZE_BYTES
        messages.append(data[position : position + size])
        position += size
    return messages
