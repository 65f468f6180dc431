"""State cells of a simulated runner: they can be copied, put back, and made to fail."""

from __future__ import annotations

from fixtures.blocks import Bag, Value
from streamgauge.models.state.cells import Cells


class WorkerLost(Exception):
    """The worker died in the middle of a bundle."""


class Fuse:
    """Burns through at the n-th write: the worker dies between two writes of one call."""

    def __init__(self) -> None:
        self.writes_left = -1  # never

    def write(self) -> None:
        """Count a write."""
        if self.writes_left == 0:
            self.writes_left = -1
            raise WorkerLost
        self.writes_left -= self.writes_left > 0


class FusedBag(Bag):
    """A bag whose writes may fail."""

    def __init__(self, fuse: Fuse, values: tuple[bytes, ...] = ()) -> None:
        super().__init__(values)
        self._fuse = fuse

    def add(self, value: bytes) -> None:
        self._fuse.write()
        super().add(value)

    def clear(self) -> None:
        self._fuse.write()
        super().clear()


class FusedValue(Value):
    """A value whose writes may fail."""

    def __init__(self, fuse: Fuse, value: bytes | None = None) -> None:
        super().__init__(value)
        self._fuse = fuse

    def write(self, value: bytes) -> None:
        self._fuse.write()
        super().write(value)


#: Epoch, snapshot, log, held, drift.
Bags = tuple[tuple[bytes, ...], ...]
KeptCells = tuple[bytes | None, Bags, Bags, tuple[bytes, ...], bytes | None]
SNAPSHOT_CELLS, LOG_CELLS = 2 * 2, 4
NEVER_WRITTEN: KeptCells = (None, ((),) * SNAPSHOT_CELLS, ((),) * LOG_CELLS, (), None)


def keep(cells: Cells) -> KeptCells:
    """What a checkpoint holds of `cells`."""
    return (
        cells.epoch.value,
        tuple(tuple(cell.values) for cell in cells.snapshot),
        tuple(tuple(cell.values) for cell in cells.log),
        tuple(cells.held.values),
        cells.drift.value,
    )


def put_back(fuse: Fuse, kept: KeptCells) -> Cells:
    """Cells with the content that a checkpoint held."""
    epoch, snapshot, log, held, drift = kept
    return Cells(
        FusedValue(fuse, epoch),
        tuple(FusedBag(fuse, values) for values in snapshot),
        tuple(FusedBag(fuse, values) for values in log),
        FusedBag(fuse, held),
        FusedValue(fuse, drift),
    )
