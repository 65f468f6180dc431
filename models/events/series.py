"""Telemetry of one entity as arrays, for training, evaluation and the demo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Events of one entity in time order."""

    entity_id: str
    #: (T,) int64, microseconds since 1970-01-01 UTC, ascending.
    event_time_us: NDArray[Any]
    #: (T, F) float32 in raw units, NaN where missing.
    values: NDArray[Any]
    #: (T,) uint8, 1 = anomalous; None without labels. Never read before scoring.
    labels: NDArray[Any] | None = None
