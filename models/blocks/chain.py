"""Divides the blocks of a partition among shards, as chains that keep their order.

Each shard receives its events of a partition as a chain of sub-blocks. Every sub-block holds
the end offset of the one before it. A shard accepts a sub-block only if it continues the chain.
So the order of events, and that state advances exactly once per event, follow from the offsets
alone; no guarantee of a runner is needed. A shard without events receives an empty sub-block
from time to time, so that its position in the partition advances.

    partition 3   [100..180)        [180..260)        [260..300)
    shard 0       -1 ► [100..180)   180 ► [180..260)
    shard 1       -1 ► [100..180)                     180 ► [260..300)   (none of [180..260))
    shard 2       -1 ► (empty)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.blocks.block import NOTHING_BEFORE, Block

# A shard receives an empty sub-block after this many offsets of a partition without events. A job
# that starts from exported state reads at most about this many offsets again.
SILENT_OFFSETS_MAX = 1 << 16


class Link(Enum):
    """How a sub-block relates to the position of its shard."""

    NEXT = "next"
    DUPLICATE = "duplicate"
    GAP = "gap"


def shard_of(entity_id: str, shards: int) -> int:
    """Return the shard of an entity: `crc32(entity) % shards`, equal in all processes and releases.

    >>> shard_of("machine-1-2", 8)
    0
    """
    return zlib.crc32(entity_id.encode()) % shards


def shards_of(block: Block, shards: int) -> NDArray[Any]:
    """Return the shard of each event, (N,) of the smallest unsigned type that holds `shards`."""
    names, codes = block.entities()
    # NumPy sorts sixteen bits by radix, in a fifth of the time.
    of_entity = np.array([shard_of(name, shards) for name in names], np.min_scalar_type(shards))
    of_event: NDArray[Any] = of_entity[codes]
    return of_event


def new_ends(shards: int) -> NDArray[Any]:
    """Return chain ends (shards,) int64 of a partition from which nothing was sent yet."""
    return np.full(shards, NOTHING_BEFORE, np.int64)


def cut(
    block: Block, ends: NDArray[Any], routing: str, silent_offsets_max: int = SILENT_OFFSETS_MAX
) -> Iterator[tuple[int, Block]]:
    """Yield `(shard, sub-block)` for every shard that needs one; advances `ends` in place.

    A shard needs a sub-block if it has events in the block, or if it received nothing of the
    partition so far, since an offset reset, or for more than `silent_offsets_max` offsets.

    Args:
        block: the block of a whole partition.
        ends: (shards,) int64, end offset of the last sub-block sent to each shard.
        routing: "entity" spreads entities by hash; "partition" sends all to `partition % shards`.
        silent_offsets_max: after how many offsets a shard without events receives a sub-block.
    """
    shards = len(ends)
    is_due = (ends < 0) | (block.end_offset - ends > silent_offsets_max)
    if routing == "partition":
        shard = block.partition % shards
        if len(block) or is_due[shard]:
            yield shard, block.take(np.arange(len(block)), int(ends[shard]))
            ends[shard] = block.end_offset
        return
    shard_of_event = shards_of(block, shards)
    order = np.argsort(shard_of_event, kind="stable")  # keeps offset order inside a shard
    cuts = np.searchsorted(shard_of_event[order], np.arange(shards + 1))
    for shard in np.flatnonzero((np.diff(cuts) > 0) | is_due).tolist():
        events = order[cuts[shard] : cuts[shard + 1]]
        yield shard, block.take(events, int(ends[shard]))
        ends[shard] = block.end_offset


def link_of(block: Block, position: int) -> Link:
    """Decide whether `block` continues a chain that has reached the offset `position`.

    A block that overlaps the position continues it, because a source may divide the log into
    other blocks after a restore. The caller drops the events before the position (`Block.after`).
    """
    if block.end_offset <= position:
        return Link.DUPLICATE
    if block.previous_end > position:
        return Link.GAP
    return Link.NEXT
