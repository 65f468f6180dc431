"""The order in which a shard accepts blocks: gaps, duplicates and offset resets.

A block is ready if it continues the chain of its partition (`models.blocks.chain`). A block
after a gap is held back until the missing blocks arrive, or until too many blocks are held.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streamgauge.models.blocks.block import (
    NOTHING_BEFORE,
    OFFSET_RESET,
    Block,
    decode_block,
    encode_block,
)
from streamgauge.models.blocks.chain import Link, link_of
from streamgauge.models.state.cells import Cells
from streamgauge.models.state.epoch import Epoch, PartitionProgress

#: A block that continues its chain: its bytes, and the same decoded.
ReadyBlock = tuple[bytes, Block]

#: Progress in a partition of which no block was accepted.
_NO_PROGRESS = PartitionProgress(NOTHING_BEFORE, NOTHING_BEFORE)


@dataclass(slots=True)
class Arrival:
    """What follows from the arrival of one block."""

    #: Blocks that now continue their chains, in order.
    ready: list[ReadyBlock] = field(default_factory=list)
    #: Blocks dropped because their offsets were accepted before.
    duplicates: int = 0
    #: Blocks held back after a gap.
    held: int = 0
    #: Gaps given up: the events between chain and accepted block are lost.
    desyncs: int = 0


def accept(epoch: Epoch, cells: Cells, data: bytes, held_blocks_max: int) -> Arrival:
    """Put an arriving block in order.

    Args:
        epoch: of the shard; its progress advances past the blocks that are ready.
        cells: state of the shard; holds the blocks that are held back.
        data: a block, as `encode_block` wrote it.
        held_blocks_max: if more blocks are held back, a gap is given up.
    """
    arrival = _arrive(epoch, cells, data, held_blocks_max)
    epoch.counts.duplicates += arrival.duplicates
    epoch.counts.held_back += arrival.held
    epoch.counts.desyncs += arrival.desyncs
    return arrival


def _arrive(epoch: Epoch, cells: Cells, data: bytes, held_blocks_max: int) -> Arrival:
    block = decode_block(data)
    link = _link(epoch, block)
    if link is Link.DUPLICATE:
        return Arrival(duplicates=1)
    arrival = Arrival()
    if link is Link.GAP:
        cells.held.add(data)
        epoch.held += 1
        arrival.held = 1
        if epoch.held <= held_blocks_max:
            return arrival
    else:
        arrival.ready.append(_advance(epoch, block, data))
    if epoch.held:
        _release(epoch, cells, held_blocks_max, arrival)
    return arrival


def _release(epoch: Epoch, cells: Cells, held_blocks_max: int, arrival: Arrival) -> None:
    """Add the held blocks that now continue their chains to `arrival`.

    If too many blocks are held, one gap is given up. A block that was delivered twice counts
    once. The gap is the one with the most blocks after it, because others may be about to
    close.
    """
    held, duplicates = _read_held(cells)
    gap_given_up = None
    if len(held) > held_blocks_max:
        partitions = [block.partition for block, _ in held]
        gap_given_up = max(partitions, key=partitions.count)
        arrival.desyncs += 1
    waiting = []
    for block, data in held:
        link = _link(epoch, block)
        if link is Link.GAP and block.partition == gap_given_up:
            gap_given_up, link = None, Link.NEXT
        if link is Link.NEXT:
            arrival.ready.append(_advance(epoch, block, data))
        elif link is Link.GAP:
            waiting.append(data)
        else:
            duplicates += 1
    arrival.duplicates += duplicates
    cells.held.clear()
    for data in waiting:
        cells.held.add(data)
    epoch.held = len(waiting)


def _read_held(cells: Cells) -> tuple[list[tuple[Block, bytes]], int]:
    """Return the distinct held blocks in the order of their chains, and the number of repeats."""
    arrived = [bytes(data) for data in cells.held.read()]
    held = {}
    for data in arrived:
        block = decode_block(data)
        offsets = (block.previous_end, block.first_offset, block.end_offset)
        held[block.partition, block.offset_resets, *offsets] = (block, data)
    return [held[key] for key in sorted(held)], len(arrived) - len(held)


def _link(epoch: Epoch, block: Block) -> Link:
    """Return how `block` continues its chain; after an offset reset it must be the first block."""
    progress = epoch.reached.get(block.partition, _NO_PROGRESS)
    if block.offset_resets <= progress.offset_resets:
        return link_of(block, progress.end_offset)
    if block.previous_end > NOTHING_BEFORE:
        return Link.GAP
    return Link.NEXT if OFFSET_RESET - block.previous_end <= progress.end_offset else Link.GAP


def _advance(epoch: Epoch, block: Block, data: bytes) -> ReadyBlock:
    """Advance the progress of a partition past `block`; returns the new part of the block."""
    progress = epoch.reached.get(block.partition)
    if progress is None:
        epoch.counts.offset_resets += block.offset_resets
        epoch.reached[block.partition] = PartitionProgress(
            block.first_offset, block.end_offset, block.offset_resets
        )
        return data, block
    before = progress.end_offset
    if block.offset_resets > progress.offset_resets:
        epoch.counts.offset_resets += block.offset_resets - progress.offset_resets
        progress.offset_resets = block.offset_resets
        if _is_recreated(block):
            progress.first_offset, progress.end_offset = block.first_offset, block.end_offset
            return data, block
    progress.end_offset = max(before, block.end_offset)
    if block.first_offset >= before:
        return data, block
    new = block.after(before)
    return encode_block(new), new


def _is_recreated(block: Block) -> bool:
    """Return whether offsets restart at an offset reset, because the topic was created again.

    A reader that skips offsets which retention deleted goes forward. So does a reader without
    history, which may have skipped to where its shard was before.
    """
    is_forward = 0 <= OFFSET_RESET - block.previous_end <= block.first_offset
    return block.previous_end != NOTHING_BEFORE and not is_forward
