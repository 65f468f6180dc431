"""Reads a bounded range of telemetry: the same blocks as live, without timers.

A range comes from Kafka offsets, one element per partition, read from start to end in
one go, so the chain ends can live in a local variable; or from an archive of blocks.
"""

import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import msgspec
import numpy as np
from apache_beam.typehints import with_output_types

from streamgauge.models.blocks.block import Block, encode_block
from streamgauge.models.blocks.chain import cut, new_ends
from streamgauge.models.blocks.position import Position
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.series import Series
from streamgauge.models.events.series_blocks import series_blocks
from streamgauge.models.events.validation import Message
from streamgauge.transforms.kafka.client import PartitionReader
from streamgauge.transforms.runner.keys import shard_keys
from streamgauge.transforms.sources.live import DEAD_LETTERS, Source

# A replay waits this long for the next message of a range the broker says it has.
STALLED_S_MAX = 60.0
READ_WAIT_S = 0.5
BLOCK_BYTES = 1 << 21
_PAIR = struct.Struct("<II")


class Range(msgspec.Struct, frozen=True, array_like=True):
    """Offsets `[start, end)` of one partition."""

    partition: int
    start: int
    end: int


class ReplayTopic(beam.PTransform):
    """Blocks of given ranges of a Kafka topic, keyed by shard; dead letters under a tag."""

    def __init__(self, source: Source, ranges: Sequence[Range]) -> None:
        super().__init__()
        self._source = source
        self._ranges = [msgspec.msgpack.encode(r) for r in ranges]

    def expand(self, root: Any) -> Any:
        outputs = (
            root
            | "Ranges" >> beam.Create(self._ranges, reshuffle=False).with_output_types(bytes)
            | "ReadRanges"
            >> beam.ParDo(ReadRanges(self._source)).with_outputs(DEAD_LETTERS, main="blocks")
        )
        outputs[DEAD_LETTERS].element_type = bytes
        return outputs


@with_output_types(tuple[bytes, bytes])
class ReadRanges(beam.DoFn):
    """Reads each range to its end."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def setup(self) -> None:
        self._decoder = Decoder(self._source.schema, self._source.limits)

    def process(self, element: bytes) -> Iterator[Any]:
        given, source = msgspec.msgpack.decode(element, type=Range), self._source
        position = Position(given.start, new_ends(source.shards))
        for messages, end in read_messages(source, given):
            yield from source.decode_and_cut(
                self._decoder, given.partition, (messages, end), position
            )


def read_messages(source: Source, given: Range) -> Iterator[tuple[list[Message], int]]:
    """Messages of a range in portions, each with the offset after it.

    Raises:
        TimeoutError: the broker has the range by its own word but does not send it.
    """
    reader = PartitionReader(source.access, source.group, source.topic, given.partition)
    following = given.start
    deadline = time.monotonic() + STALLED_S_MAX
    try:
        while following < given.end:
            left = given.end - following
            messages, end = reader.read(following, BLOCK_BYTES, READ_WAIT_S, left)
            inside = [message for message in messages if message.offset < given.end]
            if inside:
                following = min(end, given.end)
                deadline = time.monotonic() + STALLED_S_MAX
                yield inside, following
            elif messages:
                return  # only holes were left of the range
            elif reader.position() >= given.end:
                return  # likewise, at the end of the log
            elif time.monotonic() > deadline:
                raise TimeoutError(
                    f"topic {source.topic}, partition {given.partition}: offset {following} of "
                    f"a range up to {given.end} did not come within {STALLED_S_MAX:.0f} s"
                )
    finally:
        reader.close()


def read_range(source: Source, given: Range) -> Iterator[Block]:
    """Blocks of the well-formed events of a range, uncut."""
    decoder = Decoder(source.schema, source.limits)
    for messages, end in read_messages(source, given):
        yield decoder.decode(given.partition, messages, messages[0].offset, end)[0]


class ReplayArchive(beam.PTransform):
    """Blocks that `write_archive` laid down, keyed by shard; no broker needed."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, root: Any) -> Any:
        outputs = (
            root
            | "Archive" >> beam.Create([self._path.encode()]).with_output_types(bytes)
            | "ReadArchive" >> beam.ParDo(ReadArchive()).with_outputs(DEAD_LETTERS, main="blocks")
        )
        outputs[DEAD_LETTERS].element_type = bytes
        return outputs


@with_output_types(tuple[bytes, bytes])
class ReadArchive(beam.DoFn):
    """Reads (shard key, block) pairs in the order in which they were written."""

    def process(self, element: bytes) -> Iterator[tuple[bytes, bytes]]:
        with open(element.decode(), "rb") as archive:
            while head := archive.read(_PAIR.size):
                key_size, block_size = _PAIR.unpack(head)
                yield archive.read(key_size), archive.read(block_size)


def write_archive(path: Path, series: Sequence[Series], shards: int, max_parallelism: int) -> None:
    """Write series of a data set as the blocks of one partition.

    Their events are put in time order, as they would lie on a topic: so entities share
    groups, and an event's offset is its place in that order.
    """
    ends, keys = new_ends(shards), shard_keys(shards, max_parallelism)
    with path.open("wb") as archive:
        for block in blocks_in_time_order(series):
            for shard, piece in cut(block, ends, "entity"):
                data = encode_block(piece)
                archive.write(_PAIR.pack(len(keys[shard]), len(data)) + keys[shard] + data)


def blocks_in_time_order(series: Sequence[Series]) -> Iterator[Block]:
    """All events of `series` in time order as blocks of partition 0, one event per message."""
    order = np.argsort(np.concatenate([one.event_time_us for one in series]), kind="stable")
    return series_blocks(series, order, np.zeros(len(order), np.int32))
