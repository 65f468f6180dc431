"""Measures Arrow IPC streams before anything in them is unpacked.

A message of a few kilobytes can hold columns that unfold to gigabytes. The framing says how long
each buffer is when unpacked, and where a stream ends, so both are read here first, without Arrow:

    stream     {0xffffffff, int32 size, metadata (size bytes), body} ..., 0xffffffff, 0
    metadata   flatbuffer `Message`: what follows (schema, dictionary, rows), length of the body
    buffer     if compressed: int64 unpacked length (-1: as it is), then the packed bytes

Source: Arrow columnar format 1.5, "IPC Streaming Format"; `Message.fbs` and `Schema.fbs`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

STREAM_MAGIC = b"\xff\xff\xff\xff"  # continuation marker, Arrow columnar format 1.0

# Fields of the flatbuffer tables, by their number in `Message.fbs`.
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3  # of Message
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # values of the header type
_DATA = 1  # of DictionaryBatch
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3  # of RecordBatch

_INT32 = struct.Struct("<i")
_INT64 = struct.Struct("<q")
_FRAME = struct.Struct("<4si")
_BUFFER = struct.Struct("<qq")  # offset in the body, length


@dataclass(slots=True)
class Frame:
    """One Arrow stream of a message, and what it says about itself."""

    #: The stream is `payload[start:end]`.
    start: int
    end: int
    #: Number of rows of all its batches.
    rows: int = 0
    #: Length of all buffers when unpacked, bytes.
    unpacked_bytes: int = 0
    is_compressed: bool = False


def frames(payload: bytes) -> list[Frame]:
    """Find the streams of a message, which must fill it to its last byte.

    Raises:
        ValueError: bytes of the message belong to no stream, or a length is impossible.
        struct.error: the message is cut off.
    """
    streams: list[Frame] = []
    end = 0
    while end < len(payload):
        if not payload.startswith(STREAM_MAGIC, end):
            raise ValueError(f"{len(payload) - end} bytes follow the end of the stream")
        frame = _frame(payload, end)
        end = frame.end
        streams.append(frame)
    return streams


def _frame(payload: bytes, start: int) -> Frame:
    """Measure the stream that begins at `start`."""
    frame = Frame(start, start)
    at, size = start, len(payload)
    while at < size:  # a stream may also end with its message, without a marker
        marker, metadata_size = _FRAME.unpack_from(payload, at)
        at += _FRAME.size
        if marker != STREAM_MAGIC or metadata_size < 0:
            raise ValueError(f"byte {at - _FRAME.size} must begin a part of the stream")
        if metadata_size == 0:
            break
        at += metadata_size + _measure(payload, at, at + metadata_size, frame)
    if at > size:
        raise ValueError(f"the stream must end within the message; {at - size} bytes are missing")
    frame.end = at
    return frame


def _measure(payload: bytes, at: int, body: int, frame: Frame) -> int:
    """Add one part of a stream to `frame`; returns the length of its body.

    Args:
        payload: the message.
        at: where the metadata of the part begin.
        body: where its body begins.
        frame: the stream.
    """
    message = at + _INT32.unpack_from(payload, at)[0]
    position = _field(payload, message, _BODY_LENGTH)
    body_size: int = _INT64.unpack_from(payload, position)[0] if position else 0
    if body_size < 0:
        raise ValueError(f"a body must have a length; got {body_size}")
    position = _field(payload, message, _HEADER_TYPE)
    kind = payload[position] if position else 0
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return body_size
    batch = _table(payload, message, _HEADER)
    if kind == _DICTIONARY_BATCH:
        batch = _table(payload, batch, _DATA)
    else:
        position = _field(payload, batch, _LENGTH)
        rows = _INT64.unpack_from(payload, position)[0] if position else 0
        if rows < 0:
            raise ValueError(f"a batch must have a number of rows; got {rows}")
        frame.rows += rows
    if _field(payload, batch, _COMPRESSION):
        frame.is_compressed = True
        frame.unpacked_bytes += _unpacked(payload, batch, body)
    else:
        frame.unpacked_bytes += body_size
    return body_size


def _unpacked(payload: bytes, batch: int, body: int) -> int:
    """The length of all buffers of a compressed batch when unpacked, bytes."""
    vector = _table(payload, batch, _BUFFERS)
    count = _INT32.unpack_from(payload, vector)[0]
    total, at = 0, vector + _INT32.size
    for _ in range(count):
        offset, packed = _BUFFER.unpack_from(payload, at)
        at += _BUFFER.size
        if packed == 0:
            continue
        length = _INT64.unpack_from(payload, body + offset)[0]
        if length < -1 or packed < 0 or offset < 0:
            raise ValueError(f"a compressed buffer must have a length; got {length}")
        total += packed if length == -1 else length
    return total


def _field(payload: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer table is; 0 if the table does not have it."""
    layout = table - _INT32.unpack_from(payload, table)[0]
    size = int.from_bytes(payload[layout : layout + 2], "little")
    entry = 4 + 2 * number
    if layout < 0 or entry >= size:
        return 0
    offset = int.from_bytes(payload[layout + entry : layout + entry + 2], "little")
    return table + offset if offset else 0


def _table(payload: bytes, table: int, number: int) -> int:
    """Where the table or vector is that a field refers to."""
    position = _field(payload, table, number)
    if not position:
        raise ValueError("a part of the stream has no content")
    target: int = position + _INT32.unpack_from(payload, position)[0]
    return target
