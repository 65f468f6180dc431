"""What lasts in a simulated pipeline: blocks on their way, checkpoints, snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.cells import KeptCells
from simulator.expected_state import Book


@dataclass(frozen=True, slots=True)
class Delivery:
    """A block on its way to a shard."""

    shard: int
    data: bytes
    #: Tick from which it can arrive.
    ready: int


@dataclass(frozen=True, slots=True, eq=False)
class KeptSnapshot:
    """A shard's snapshot as a file, and the ledger's books at that moment."""

    #: The shard's epoch then.
    epoch: bytes
    data: bytes
    book: Book


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Everything that the runner keeps, at one moment."""

    positions: dict[int, bytes]
    in_flight: tuple[Delivery, ...]
    cells: tuple[KeptCells, ...]
    book: Book
