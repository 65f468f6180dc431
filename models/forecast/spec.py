"""The model's shape and the settings of its score."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streamgauge.models.errors import ConfigError
from streamgauge.models.forecast.normaliser import NormaliserSpec

LEVEL_EXPONENT = 0.8


@dataclass(frozen=True, slots=True)
class ForecasterSpec:
    """The model's shape and the settings of its score."""

    hidden: int = 64
    lags: int = 5
    #: A feature's squared residual over its mean square counts for at most this much.
    cap: float = 100.0
    #: What the level of a single feature counts beside its residuals; see `level_weight_of`.
    level_weight: float = 3.0
    #: Parts of a day (UTC), each with a usual level on weekdays and one at weekends.
    season_parts: int = 4
    #: Events in one of them that its usual level stands for at most.
    season_events: int = 360
    #: Smoothing of the score over an entity's events, fast and slow; 1 = none.
    alphas: tuple[float, float] = (0.1, 0.02)
    normaliser: NormaliserSpec = field(default_factory=NormaliserSpec)

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.lags < 1:
            raise ConfigError(
                f"forecaster: hidden and lags must be >= 1; got {self.hidden} and {self.lags}"
            )
        if self.season_parts < 1 or self.season_events < 1:
            raise ConfigError(
                "forecaster: season_parts and season_events must be >= 1; "
                f"got {self.season_parts} and {self.season_events}"
            )
        if len(self.alphas) != 2 or not all(0 < alpha <= 1 for alpha in self.alphas):
            raise ConfigError(f"forecaster: alphas must be two in (0, 1]; got {self.alphas}")
        if not self.cap > 0 or not self.level_weight >= 0:
            raise ConfigError(
                "forecaster: cap must be > 0 and level_weight >= 0; "
                f"got {self.cap} and {self.level_weight}"
            )

    def level_weight_of(self, features: int) -> np.float32:
        """What a feature's squared level counts in a score over as many features.

        Residuals of many features average out, levels do not: they wander together. On the
        development sets the best weight is 3 for one feature, .3 for 19 and .16 for 38.
        """
        return np.float32(self.level_weight / features**LEVEL_EXPONENT)
