"""The shape of the model and the settings of its score."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from streamgauge.models.errors import ConfigError
from streamgauge.models.forecast.normaliser import NormaliserSpec

# How the weight of levels falls with the number of features; see `level_weight_of`.
LEVEL_EXPONENT = 0.8


@dataclass(frozen=True, slots=True)
class ForecasterSpec:
    """The shape of the model and the settings of its score."""

    #: Units of the GRU.
    hidden: int = 64
    #: Events that the linear part looks back.
    lags: int = 5
    #: Upper bound of a feature's squared residual divided by its mean square.
    cap: float = 100.0
    #: Weight of the level of a single feature relative to its residuals; see `level_weight_of`.
    level_weight: float = 3.0
    #: Parts of a day (UTC), each with a seasonal baseline for weekdays and one for weekends.
    season_parts: int = 4
    #: Most events that a seasonal baseline stands for.
    season_events: int = 360
    #: Smoothing factors of the score over the events of an entity, fast and slow; 1 = none.
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
        """Return the weight of a feature's squared level in a score over this many features.

        Residuals of many features average out; levels do not, because they change together. On
        the development sets the best weight is 3 for 1 feature, .3 for 19 and .16 for 38.
        """
        return np.float32(self.level_weight / features**LEVEL_EXPONENT)
