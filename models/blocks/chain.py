"""Cutting a partition's blocks into shards, and the chain that keeps them in order.

Each shard gets its events of a partition as a chain of sub-blocks: every link names
the end of the link before. A shard accepts a sub-block only if it continues the chain,
so order and exactly-once advance of entity state rest on the offsets alone and on no
promise of a runner. A shard without events is sent an empty sub-block now and then, so
that its position says how far it has seen the partition.

    partition 3   [100..180)        [180..260)        [260..300)
    shard 0       -1 ► [100..180)   180 ► [180..260)
    shard 1       -1 ► [100..180)                     180 ► [260..300)   (180: skipped one)
    shard 2       -1 ► (empty)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from enum import Enum

import numpy as np

from streamgauge.models.blocks.block import NOTHING_BEFORE, Block

# A shard is sent an empty sub-block when it has heard nothing of a partition for so many
# offsets; a job that starts from exported state reads at most about that many again.
SILENT_OFFSETS_MAX = 1 << 16


class Link(Enum):
    """How a sub-block stands to the position its shard holds."""

    NEXT = "next"
    DUPLICATE = "duplicate"
    GAP = "gap"


def shard_of(entity_id: str, shards: int) -> int:
    """The shard of an entity: `crc32(entity) % shards`, the same in every process and release.

    >>> shard_of("machine-1-2", 8)
    0
    """
    return zlib.crc32(entity_id.encode()) % shards


def shards_of(block: Block, shards: int) -> np.ndarray:
    """`shard_of` of the entity of each event, (N,) of the smallest unsigned type."""
    names, codes = block.entities()
    # Sixteen bits are sorted by radix, in a fifth of the time.
    of_name = np.array([shard_of(name, shards) for name in names], np.min_scalar_type(shards))
    return of_name[codes]


def new_ends(shards: int) -> np.ndarray:
    """Chain ends (shards,) int64 of a partition of which nothing was sent yet."""
    return np.full(shards, NOTHING_BEFORE, np.int64)


def cut(
    block: Block, ends: np.ndarray, routing: str, silent_offsets_max: int = SILENT_OFFSETS_MAX
) -> Iterator[tuple[int, Block]]:
    """Yield `(shard, sub-block)` for every shard that must hear of it; advances `ends` in place.

    That is a shard that has events, or was sent nothing of the partition yet, or nothing
    since its reader jumped, or nothing for more than `silent_offsets_max` offsets.

    Args:
        block: the block of a whole partition.
        ends: (shards,) int64, end offset of the last sub-block sent to each shard.
        routing: "entity" spreads entities by hash; "partition" sends all to `partition % shards`.
        silent_offsets_max: see above.
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
    """How `block` continues a chain that has reached `position`.

    A block that overlaps the position continues it: a source may cut its blocks anew
    after a restore. The caller drops the events before the position (`Block.after`).
    """
    if block.end_offset <= position:
        return Link.DUPLICATE
    if block.previous_end > position:
        return Link.GAP
    return Link.NEXT
