"""Blocks and state cells for tests, made from plain Python values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from models.block import NOTHING_BEFORE, Block
from models.cells import Cells

START_US = 1_700_000_000_000_000
STEP_US = 60_000_000


def make_block(
    entities: Sequence[str],
    first: int = 0,
    previous_end: int = NOTHING_BEFORE,
    partition: int = 0,
    features: np.ndarray | None = None,
    size: int = 3,
    seed: int = 0,
) -> Block:
    """A block of one event per name in `entities`, one minute and one offset apart."""
    count = len(entities)
    offset = np.arange(first, first + count, dtype=np.int64)
    if features is None:
        rng = np.random.default_rng(seed + first)
        features = rng.normal(size=(count, size)).astype(np.float32)
    return Block(
        partition,
        first,
        first + count,
        previous_end,
        offset,
        np.zeros(count, np.int32),
        START_US + offset * STEP_US,
        pa.array(list(entities), pa.string()),
        features,
    )


def chain(blocks: Iterable[Block]) -> list[Block]:
    """The same blocks, linked one after the other as one shard's chain per partition."""
    ends: dict[int, int] = {}
    linked = []
    for block in blocks:
        previous = ends.get(block.partition, NOTHING_BEFORE)
        linked.append(block.take(np.arange(len(block)), previous))
        ends[block.partition] = block.end_offset
    return linked


class Bag:
    """A bag cell in memory; reads come back in reverse, because bags keep no order."""

    def __init__(self, values: Iterable[bytes] = ()) -> None:
        self.values = list(values)

    def read(self) -> list[bytes]:
        return self.values[::-1]

    def add(self, value: bytes) -> None:
        self.values.append(value)

    def clear(self) -> None:
        self.values.clear()


class Value:
    """A value cell in memory."""

    def __init__(self, value: bytes | None = None) -> None:
        self.value = value

    def read(self) -> bytes | None:
        return self.value

    def write(self, value: bytes) -> None:
        self.value = value


def new_cells(snapshot: int = 2, log: int = 3) -> Cells:
    """The cells of a shard that was never written, so many for its snapshot and its log."""
    bags = [tuple(Bag() for _ in range(count)) for count in (snapshot, log)]
    return Cells(Value(), *bags, Bag(), Value())


def copy_cells(cells: Cells) -> Cells:
    """What a checkpoint keeps of `cells`."""
    return Cells(
        Value(cells.epoch.value),
        tuple(Bag(cell.values) for cell in cells.snapshot),
        tuple(Bag(cell.values) for cell in cells.log),
        Bag(cells.held.values),
        Value(cells.drift.value),
    )


def logged(cells: Cells) -> list[bytes]:
    """All segments of snapshot and log."""
    return [segment for cell in (*cells.snapshot, *cells.log) for segment in cell.values]
