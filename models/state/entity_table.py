"""The entity table: the state of all entities of one shard, one record per entity."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.blocks.event_clock import PartitionClock
from streamgauge.models.state.entity_row import as_bytes

# Least number of rows. numba gives an array of a single record another type and would compile
# all functions for it again.
ROWS_MIN = 64


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The fields of a row, and the schema and artifact that they belong to."""

    #: numpy record of one entity.
    dtype: np.dtype[Any]
    #: Schema fingerprint, 16 hex digits.
    schema_fingerprint: str
    #: Artifact digest, 64 hex digits.
    digest: str
    #: 8 bytes that change with any field's name, type, shape or order.
    layout_hash: bytes

    @classmethod
    def of(cls, dtype: np.dtype[Any], schema_fingerprint: str, digest: str) -> Layout:
        """Return the layout of records of `dtype`, see `models.state.entity_row`."""
        return cls(
            dtype,
            schema_fingerprint,
            digest,
            hashlib.sha256(repr(dtype.descr).encode()).digest()[:8],
        )


class EntityTable:
    """The entities of one shard: `rows[i]` belongs to `entity_ids[i]`."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.rows = np.zeros(ROWS_MIN, layout.dtype)
        self.entity_ids: list[str] = []
        #: By partition.
        self.clocks: dict[int, PartitionClock] = {}
        self._index: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.entity_ids)

    def find(self, names: Iterable[str]) -> NDArray[Any]:
        """Return the rows (U,) int64 of `names`, -1 for those not in the table."""
        row_of = self._index.get
        return np.array([row_of(name, -1) for name in names], np.int64)

    def add(self, names: Sequence[str]) -> NDArray[Any]:
        """Add a zeroed row for each of `names`, which must be new; returns the rows (U,)."""
        first = len(self.entity_ids)
        self._grow(first + len(names))
        self._index.update(zip(names, range(first, first + len(names)), strict=True))
        self.entity_ids.extend(names)
        return np.arange(first, first + len(names))

    def take(self, rows: NDArray[Any]) -> None:
        """Use `rows` as the memory of an empty table."""
        self.rows = rows
        self._grow(ROWS_MIN)

    def fill(self, names: Sequence[str], rows: NDArray[Any]) -> None:
        """Replace the whole content by `rows` (R,) of the entities `names`."""
        self.entity_ids, self._index = [], {}
        # New zeroed memory: a later entity must not get the state of one that was dropped.
        self.rows = np.zeros(max(ROWS_MIN, len(names)), self.layout.dtype)
        self.add(names)
        as_bytes(self.rows)[: len(names)] = as_bytes(rows)

    def retain(self, retained: NDArray[Any]) -> None:
        """Drop all rows except those at the indices `retained` (ascending); indices change."""
        rows = as_bytes(self.rows)[retained].view(self.layout.dtype)
        names = [self.entity_ids[i] for i in retained.tolist()]
        self.fill(names, rows)

    def copy_rows(self) -> EntityTable:
        """Return a copy for a snapshot; `find` does not work on it."""
        copy = EntityTable(self.layout)
        copy.take(as_bytes(self.rows[: len(self)]).copy().view(self.layout.dtype))
        copy.entity_ids = list(self.entity_ids)  # copying the index takes a seventh of the time
        copy.clocks = {partition: replace(clock) for partition, clock in self.clocks.items()}
        return copy

    def forget_names(self, names: Collection[str]) -> None:
        """Remove the entities `names` from the clocks."""
        for clock in self.clocks.values():
            clock.latest = "" if clock.latest in names else clock.latest

    def digest_of_rows(self) -> str:
        """Return a BLAKE2b digest of clocks and rows; equal tables have equal digests."""
        order = sorted(range(len(self)), key=self.entity_ids.__getitem__)
        clocks = [(p, astuple(clock)) for p, clock in sorted(self.clocks.items())]
        hashed = hashlib.blake2b(repr(clocks).encode(), digest_size=16)
        for i in order:
            hashed.update(self.entity_ids[i].encode() + b"\0" + self.rows[i].tobytes())
        return hashed.hexdigest()

    def _grow(self, size: int) -> None:
        if size > len(self.rows):
            rows = np.zeros(max(size, 2 * len(self.rows)), self.layout.dtype)
            as_bytes(rows)[: len(self.rows)] = as_bytes(self.rows)
            self.rows = rows
