"""The feature contract between telemetry, artifact and state.

A schema fixes names, order, units and bounds of the features. The artifact and every state
segment hold its fingerprint, so that a permuted or renamed feature is refused and never scored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.errors import ConfigError

FEATURES_MAX = 4096  # a wider event is a mistake of the schema
MISSING_POLICIES = ("allow", "refuse")


@dataclass(frozen=True, slots=True)
class Feature:
    """One measured quantity of an event."""

    #: Name as it appears in events, unique in the schema.
    name: str
    #: Physical unit, free text ("ratio", "bytes/s"); part of the fingerprint.
    unit: str = "1"
    #: Values below are clipped to it before scoring; None for no bound.
    lower: float | None = None
    #: Values above are clipped to it before scoring; None for no bound.
    upper: float | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("schema: a feature name must not be empty")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ConfigError(
                f"schema: feature {self.name!r} needs lower < upper; "
                f"got [{self.lower}, {self.upper}]"
            )


@dataclass(frozen=True, slots=True)
class Schema:
    """Features in a fixed order, and the policy for missing values."""

    features: tuple[Feature, ...]
    #: "allow": a missing value is masked; "refuse": the event is a dead letter.
    missing: str = "allow"

    def __post_init__(self) -> None:
        if not 1 <= len(self.features) <= FEATURES_MAX:
            raise ConfigError(
                f"schema: needs 1 to {FEATURES_MAX} features; got {len(self.features)}"
            )
        repeated = [n for n in set(self.names) if self.names.count(n) > 1]
        if repeated:
            raise ConfigError(f"schema: feature names must be unique; repeated {sorted(repeated)}")
        if self.missing not in MISSING_POLICIES:
            raise ConfigError(
                f"schema: missing must be one of {MISSING_POLICIES}; got {self.missing!r}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def size(self) -> int:
        """Number of features, F."""
        return len(self.features)

    def bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the lower and upper clip bounds, each (F,) float32, infinite if unbounded."""
        lower = [-np.inf if f.lower is None else f.lower for f in self.features]
        upper = [np.inf if f.upper is None else f.upper for f in self.features]
        return np.array(lower, np.float32), np.array(upper, np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return the schema as plain JSON types, for `from_json`."""
        return {"features": [asdict(f) for f in self.features], "missing": self.missing}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schema:
        """Read what `to_json` wrote."""
        return cls(tuple(Feature(**f) for f in data["features"]), data["missing"])

    def fingerprint(self) -> str:
        """Return a hash of names, order, units, bounds and missing policy: 16 hex digits.

        >>> cpu, memory = Feature("cpu"), Feature("memory")
        >>> Schema((cpu, memory)).fingerprint() == Schema((memory, cpu)).fingerprint()
        False
        """
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]
