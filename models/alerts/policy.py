"""The alert settings of an operator.

Configuration imports this module, so it imports no compiler.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamgauge.models.errors import ConfigError

PER_ENTITY_DAY_MAX = 86_400.0
COOLDOWN_S_MAX = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class BudgetSpec:
    """The message budget of an entity; see `models.alerts.budget`."""

    #: Messages per entity and day.
    per_day: float = 1.0
    #: Shortest event time between two messages of an entity, seconds.
    cooldown_s: float = 3_600.0

    def __post_init__(self) -> None:
        if not self.per_day > 0:
            raise ConfigError(f"budget: per_day must be above 0; got {self.per_day}")
        if not self.cooldown_s >= 0:
            raise ConfigError(f"budget: cooldown_s must be >= 0; got {self.cooldown_s}")


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """When alerts are raised, repeated and closed; see `models.alerts.decision`."""

    #: Alert messages per entity and day, on average; a new entity has credit for two days.
    per_entity_day: float = 1.0
    #: Shortest event time between two messages of an entity, seconds.
    cooldown_s: float = 3_600.0
    #: Stationary events after which a lasting change becomes the new normal; 0 = never.
    new_normal_after: int = 2_000
    #: An alert is critical if its highest score is at least this rare (1 in N events).
    critical_rarity_1_in_n: float = 1_000.0

    def __post_init__(self) -> None:
        if not 0 < self.per_entity_day <= PER_ENTITY_DAY_MAX:
            raise ConfigError(
                f"alerts: per_entity_day must be above 0 and at most {PER_ENTITY_DAY_MAX:g}; "
                f"got {self.per_entity_day:g}"
            )
        if not 0 <= self.cooldown_s <= COOLDOWN_S_MAX:
            raise ConfigError(
                f"alerts: cooldown_s must be 0 to {COOLDOWN_S_MAX:.0f} (30 days); "
                f"got {self.cooldown_s:g}"
            )
        if self.new_normal_after < 0:
            raise ConfigError(f"alerts: new_normal_after must be >= 0; got {self.new_normal_after}")

    @property
    def budget(self) -> BudgetSpec:
        """The message budget of this policy."""
        return BudgetSpec(self.per_entity_day, self.cooldown_s)
