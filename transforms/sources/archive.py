"""A file of encoded blocks as a source: replays a data set without a broker."""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.typehints import with_output_types

from streamgauge.models.blocks.block import NOTHING_BEFORE, Block, encode_block
from streamgauge.models.blocks.chain import cut, new_ends
from streamgauge.models.events.series import Series
from streamgauge.transforms.runner.keys import shard_keys
from streamgauge.transforms.sources.source import DEAD_LETTERS

SERIES_BLOCK_EVENTS = 4_096
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
        for block in series_blocks(series):
            for shard, piece in cut(block, ends, "entity"):
                data = encode_block(piece)
                archive.write(_SIZES.pack(len(keys[shard]), len(data)) + keys[shard] + data)


def series_blocks(series: Sequence[Series]) -> Iterator[Block]:
    """All events of `series`, sorted by time, as blocks of partition 0."""
    time_us = np.concatenate([entity.event_time_us for entity in series])
    values = np.concatenate([entity.values for entity in series]).astype(np.float32, copy=False)
    owner = np.repeat(np.arange(len(series)), [len(entity.event_time_us) for entity in series])
    names = pa.array([entity.entity_id for entity in series], pa.string())
    order = np.argsort(time_us, kind="stable")
    for first in range(0, len(order), SERIES_BLOCK_EVENTS):
        events = order[first : first + SERIES_BLOCK_EVENTS]
        end = first + len(events)
        yield Block(
            partition=0,
            first_offset=first,
            end_offset=end,
            previous_end=NOTHING_BEFORE,
            offset=np.arange(first, end, dtype=np.int64),
            row=np.zeros(len(events), np.int32),
            event_time_us=time_us[events],
            entity_id=names.take(pa.array(owner[events])),
            features=values[events],
        )
