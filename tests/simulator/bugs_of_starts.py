"""Bugs to plant in how a new job starts from the snapshots of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import simulator.readers as readers_module
import simulator.world as world_module
from simulator.mutation import bug
from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.chain import cut
from streamgauge.models.scoring.shard import ShardScorer
from streamgauge.models.state.snapshot_file import ShardSnapshot, SnapshotHeader, start_offsets


@bug
def empty_blocks_not_sent() -> tuple[Any, str, Any]:
    def careless(block: Block, ends: np.ndarray, *args: Any) -> Iterator[tuple[int, Block]]:
        for shard, piece in cut(block, ends.copy(), *args):
            if len(piece):
                ends[shard] = block.end_offset
                yield shard, piece

    return readers_module, "cut", careless


@bug
def beginning_of_a_partition_forgotten() -> tuple[Any, str, Any]:
    """A shard without progress in a partition is taken to need nothing of it."""

    def careless(headers: Sequence[SnapshotHeader]) -> dict[int, int]:
        ends: dict[int, list[int]] = {}
        for header in headers:
            for partition, (_, end, _) in header.reached.items():
                ends.setdefault(partition, []).append(end)
        return {partition: min(found) for partition, found in ends.items()}

    return world_module, "start_offsets", careless


@bug
def started_where_the_first_shard_is() -> tuple[Any, str, Any]:
    def careless(headers: Sequence[SnapshotHeader]) -> dict[int, int]:
        ends = [(p, end) for header in headers for p, (_, end, _) in header.reached.items()]
        return {partition: end for partition, end in sorted(ends)}

    return world_module, "start_offsets", careless


@bug
def shard_without_snapshot_forgotten() -> tuple[Any, str, Any]:
    """A shard without a snapshot is ignored, although the others may be far ahead of it."""

    def careless(headers: Sequence[SnapshotHeader]) -> dict[int, int]:
        offsets = start_offsets(headers)
        for partition in offsets:
            there = [h.reached[partition] for h in headers if partition in h.reached]
            if len(there) == len(headers):
                offsets[partition] = min(end for _, end, _ in there)
        return offsets

    return world_module, "start_offsets", careless


@bug
def shard_without_entities_left_out() -> tuple[Any, str, Any]:
    """A snapshot without rows looks as if it held nothing; it holds a position."""

    def careless(headers: Sequence[SnapshotHeader]) -> dict[int, int]:
        full = [header for header in headers if header.entities]
        offsets = start_offsets(headers)
        for partition in offsets:
            if there := [h.reached[partition] for h in full if partition in h.reached]:
                offsets[partition] = min(end for _, end, _ in there)
        return offsets

    return world_module, "start_offsets", careless


def _started_without(forget: Callable[[ShardSnapshot], None]) -> tuple[Any, str, Any]:
    before = ShardScorer.start_from

    def start_from(self: ShardScorer, snapshot: ShardSnapshot, *args: Any) -> None:
        forget(snapshot)
        before(self, snapshot, *args)

    return ShardScorer, "start_from", start_from


@bug
def drift_of_a_snapshot_forgotten() -> tuple[Any, str, Any]:
    def forget(snapshot: ShardSnapshot) -> None:
        snapshot.drift = b""

    return _started_without(forget)


@bug
def clocks_of_a_snapshot_forgotten() -> tuple[Any, str, Any]:
    return _started_without(lambda snapshot: snapshot.table.clocks.clear())


@bug
def position_of_a_snapshot_forgotten() -> tuple[Any, str, Any]:
    return _started_without(lambda snapshot: snapshot.epoch.reached.clear())
