"""Reads a bounded range of a telemetry topic: the same blocks as live, without timers.

There is one element per partition. It is read from start to end in one call, so the chain ends
are a local variable.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.typehints import with_output_types

from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.chain import new_ends
from streamgauge.models.blocks.position import Position
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.validation import Message
from streamgauge.transforms.sources.source import DEAD_LETTERS, Source

# The longest wait for the next message of a range that the broker announces, seconds.
STALLED_S_MAX = 60.0
READ_WAIT_S = 0.5
BLOCK_BYTES = 1 << 21


class Range(msgspec.Struct, frozen=True, array_like=True):
    """Offsets `[start, end)` of one partition."""

    partition: int
    start: int
    end: int


class ReplayTopic(beam.PTransform[Any, Any]):
    """Blocks of ranges of a Kafka topic, keyed by shard; dead letters under `DEAD_LETTERS`."""

    def __init__(self, source: Source, ranges: Sequence[Range]) -> None:
        super().__init__()
        self._source = source
        self._ranges = [msgspec.msgpack.encode(offsets) for offsets in ranges]

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
        offsets, source = msgspec.msgpack.decode(element, type=Range), self._source
        position = Position(offsets.start, new_ends(source.shards))
        for read in read_messages(source, offsets):
            yield from source.decode_and_cut(self._decoder, offsets.partition, read, position)


def read_messages(source: Source, offsets: Range) -> Iterator[tuple[list[Message], int]]:
    """Messages of a range in portions, each with the offset after it.

    Raises:
        TimeoutError: the broker announces the range but does not send it.
    """
    reader = source.reader(offsets.partition)
    following = offsets.start
    deadline = time.monotonic() + STALLED_S_MAX
    try:
        while following < offsets.end:
            left = offsets.end - following
            messages, end = reader.read(following, BLOCK_BYTES, READ_WAIT_S, left)
            inside = [message for message in messages if message.offset < offsets.end]
            if inside:
                following = min(end, offsets.end)
                deadline = time.monotonic() + STALLED_S_MAX
                yield inside, following
            elif messages or reader.position() >= offsets.end:
                return  # the rest of the range has no messages
            elif time.monotonic() > deadline:
                raise TimeoutError(
                    f"topic {source.topic}, partition {offsets.partition}: offset {following} of "
                    f"a range up to {offsets.end} did not come within {STALLED_S_MAX:.0f} s"
                )
    finally:
        reader.close()


def read_range(source: Source, offsets: Range) -> Iterator[Block]:
    """Blocks of the well-formed events of a range, not cut into shards."""
    decoder = Decoder(source.schema, source.limits)
    for messages, end in read_messages(source, offsets):
        yield decoder.decode(offsets.partition, messages, messages[0].offset, end)[0]
