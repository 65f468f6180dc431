"""From scores to alerts: what is a surprise, what is told of it, and when an alert is over.

Two things are decided of every event, apart from each other. A *surprise* is an event that
is rare for the model, once in 20: the entity's statistics stand still until 10 calm events in
a row have come, so that a failure does not become what is usual. And the budget
(`models.alerts.budget`) decides what is *told*, whatever the scores are; so the one knob changes
messages, never scores. An alert opens at a message, each further one while it is open is a
reminder, and it closes when the entity is calm, the cool-down over, and the score below what
would be told.

    surprise      x xx xxxxxxx x          closes behind the 10th calm event
    learning    ──┐                   ┌──────
    message       o      u                "opened", "updated"; "closed" costs nothing
    alert         ├───────────────────┤

What stays elsewhere and is quiet there is no failure. How much an entity moves from event to
event is its unrest; where that is the usual one, or less, the alert has *settled*: no
reminder is due unless it has become much worse than what was told, and when that has lasted
while learning stood still, the entity starts anew at its new level. A failure that keeps
changing never settles.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamgauge.models.alerts import budget
from streamgauge.models.alerts.budget import BudgetSpec
from streamgauge.models.errors import ConfigError

# From this rarity on an event is a surprise. On the development sets 1 in 20 finds most: AUC-PR
# of server machines and services .530 and .505, against .511 and .492 at 1 in 5, .479 at 1 in 300.
SURPRISE_RARITY = 20.0
CALM_EVENTS = 10  # in a row after which an entity is calm

RECENT_RATE = 0.1  # how fast unrest follows the entity
BASELINE_RATE = 0.01  # how fast the usual one does, once it stands for as many events
# A flat line is settled as well; so is what lies beyond where standard values are clipped, or
# an entity whose unit changes would never be watched again.
STATIONARY_RATIO, STATIONARY_LEAST = 2.0, 0.01
# What one event that is not settled takes back: noise is taken for unrest now and then.
UNSTEADY_EVENT_COST = 10

# A score half as high again is news. What was told is the highest score of the 50 events from the
# message on: by then a smoothed score has come within a tenth of where a step takes it.
WORSE_RATIO, MESSAGE_EVENTS = 1.5, 50

PER_ENTITY_DAY_MAX = 86_400.0
COOLDOWN_S_MAX = 30 * 86_400.0

#: Fields of an entity's row that belong to its alerts. `alert_events` 0 = none is open.
FIELDS = (
    *budget.FIELDS,
    ("step_size_baseline", "<f8", ()),
    ("step_size_recent", "<f8", ()),
    ("alert_offset", "<i8", ()),
    ("alert_time_us", "<i8", ()),
    ("alert_partition", "<i4", ()),
    ("alert_row", "<i4", ()),
    ("alert_events", "<u4", ()),
    ("alert_peak", "<f4", ()),
    ("message_events", "<u4", ()),  # since the last message
    ("message_peak", "<f4", ()),  # highest score that it stands for
    ("calm_events_left", "<u4", ()),  # calm events until the entity learns again
    ("stationary_events", "<u4", ()),  # of those it did not learn from
)

WARMING, NORMAL, ANOMALOUS = 0, 1, 2
VERDICTS = ("warming", "normal", "anomalous")

#: What is told of an event, as bits: an alert opened, was told again, closed; and the entity's
#: new level is its normal one from here on, which closes its alert.
OPENED, UPDATED, CLOSED, BASELINE_ACCEPTED = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """How many messages an entity may send."""

    #: Messages per entity and day, at most, on average and whatever happens.
    per_entity_day: float = 1.0
    #: No two messages of an entity are closer, in event time, seconds.
    cooldown_s: float = 3_600.0
    #: Settled events of a lasting change after which it is the new normal; 0 = never.
    new_normal_after: int = 2_000
    #: From this rarity on an alert is critical, below it a warning.
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
        """The budget's part of it."""
        return BudgetSpec(self.per_entity_day, self.cooldown_s)
