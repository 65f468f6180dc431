"""A file of encoded blocks as a source: replays a data set without a broker."""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.typehints import with_output_types

from streamgauge.models.blocks.block import Block, encode_block
from streamgauge.models.blocks.chain import cut, new_ends
from streamgauge.models.events.series import Series, series_blocks
from streamgauge.transforms.runner.keys import shard_keys
from streamgauge.transforms.sources.source import DEAD_LETTERS

# Sizes of the shard key and the block that follow.
_SIZES = struct.Struct("<II")


class ReplayArchive(beam.PTransform[Any, Any]):
    """Blocks of a file that `write_archive` wrote, keyed by shard; there are no dead letters."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, root: Any) -> Any:
        outputs = (
            root
            | "Archive" >> beam.Create([self._path.encode()]).with_output_types(bytes)
            | "ReadArchive"
            >> beam.ParDo(ReadArchive()).with_outputs(  # type: ignore[no-untyped-call]
                DEAD_LETTERS, main="blocks"
            )
        )
        outputs[DEAD_LETTERS].element_type = bytes
        return outputs


@with_output_types(tuple[bytes, bytes])
class ReadArchive(beam.DoFn):
    """Reads (shard key, block) pairs in the order in which they were written."""

    def process(self, element: bytes) -> Iterator[tuple[bytes, bytes]]:
        with open(element.decode(), "rb") as archive:
            while head := archive.read(_SIZES.size):
                key_size, block_size = _SIZES.unpack(head)
                yield archive.read(key_size), archive.read(block_size)


def write_archive(path: Path, series: Sequence[Series], shards: int, max_parallelism: int) -> None:
    """Write the series of a data set as the blocks of one partition.

    Events are sorted by time, as they would be on a topic. So a block holds events of many
    entities, and the offset of an event is its index in that order.
    """
    ends, keys = new_ends(shards), shard_keys(shards, max_parallelism)
    with path.open("wb") as archive:
        for block in blocks_in_time_order(series):
            for shard, piece in cut(block, ends, "entity"):
                data = encode_block(piece)
                archive.write(_SIZES.pack(len(keys[shard]), len(data)) + keys[shard] + data)


def blocks_in_time_order(series: Sequence[Series]) -> Iterator[Block]:
    """All events of `series`, sorted by time, as blocks of partition 0, one event per message."""
    order = np.argsort(np.concatenate([entity.event_time_us for entity in series]), kind="stable")
    return series_blocks(series, order, np.zeros(len(order), np.int32))
