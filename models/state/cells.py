"""The state cells of a shard, independent of the runner that stores them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class BagCell(Protocol):
    """An append-only bag of bytes without order."""

    def read(self) -> Iterable[bytes]:
        """Return all values, in any order."""

    def add(self, value: bytes) -> None:
        """Add one value."""

    def clear(self) -> None:
        """Remove all values."""


class ValueCell(Protocol):
    """One value of bytes, None if never written."""

    def read(self) -> bytes | None:
        """Return the value."""

    def write(self, value: bytes) -> None:
        """Replace the value."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The state of one shard in its runner.

    Snapshot and log have several cells each, because a runner may read a cell as a whole:
    on Flink, a cell passes through the heap of the TaskManager twice.
    """

    #: See `models.state.epoch`.
    epoch: ValueCell
    #: Segments of the snapshot. Generations use the two halves alternately, so that one half
    #: can hold an unfinished snapshot.
    snapshot: Sequence[BagCell]
    #: Segments of the blocks since the snapshot; a ring of cells, filled one after the other.
    log: Sequence[BagCell]
    #: Blocks held back after a gap.
    held: BagCell
    #: Open drift windows.
    drift: ValueCell
