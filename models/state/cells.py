"""The state cells of a shard, whoever keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class BagCell(Protocol):
    """An append-only bag of bytes without order."""

    def read(self) -> Iterable[bytes]:
        """All values."""

    def add(self, value: bytes) -> None:
        """Add one value."""

    def clear(self) -> None:
        """Remove all values."""


class ValueCell(Protocol):
    """One value of bytes, None if never written."""

    def read(self) -> bytes | None:
        """The value."""

    def write(self, value: bytes) -> None:
        """Replace the value."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The state of one shard as its runner keeps it.

    Snapshot and log have several cells each, because a runner may answer the reading of a
    cell in one piece: Beam's on Flink takes it through the TaskManager's heap twice.
    """

    epoch: ValueCell
    #: The snapshot's segments, in turn; one half for each second generation, while the other
    #: may hold a part of the next one.
    snapshot: Sequence[BagCell]
    #: The segments with the blocks since, one cell filled after the other, in a ring.
    log: Sequence[BagCell]
    held: BagCell
    drift: ValueCell
