"""The result of scoring a block: scores, verdicts, alert transitions, and events set aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from numpy.typing import NDArray

from streamgauge.models.blocks.block import Block

#: Why an alert closed: the entity is back at its baseline, or has a new one.
BACK_TO_NORMAL, NEW_NORMAL = "back_to_normal", "new_normal"

# Reasons for setting an event aside. They are part of dead letters, and never change.
LATE_EVENT = "late_event"
TOO_MANY_ENTITIES = "too_many_entities"


class Transition(msgspec.Struct, frozen=True):
    """A change of an alert at one event, with its explanation."""

    #: "opened", "updated" or "closed".
    status: str
    entity_id: str
    partition: int
    offset: int
    row: int
    event_time_us: int
    score: float
    rarity_1_in_n: float
    #: The score that an event had to exceed at this time to raise an alert.
    threshold: float
    severity: str
    #: The event at which the alert opened; this event if it opens now.
    opened_partition: int
    opened_offset: int
    opened_row: int
    opened_time_us: int
    #: Events since the alert opened, this one included.
    events: int
    #: Highest score of the alert so far.
    peak: float
    #: (name, value, expected, share of the event's score), largest share first. If the reason
    #: is `NEW_NORMAL`: (name, value, mean so far, share of the squared distance between them).
    features: list[tuple[str, float | None, float, float]]
    #: Why it closed: `BACK_TO_NORMAL` or `NEW_NORMAL`; None for other transitions.
    reason: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ScoredBlock:
    """A sub-block with the results of its events; arrays are (N,) over the events of `block`."""

    #: The events that were scored, in offset order.
    block: Block
    #: float32, smoothed; high is anomalous.
    score: NDArray[Any]
    #: float32, rarity of the score: an entity has one as high in this many events.
    rarity_1_in_n: NDArray[Any]
    #: uint8, see `alerting.VERDICTS`.
    verdict: NDArray[Any]
    #: float32 in [0, 1]: 0 at the first event of an entity, whose score rests on the training
    #: data alone; 1 after warm-up, when the score no longer depends on the initial state.
    confidence: NDArray[Any]
    #: float32, negative log-likelihood of each event, not smoothed.
    loss: NDArray[Any]
    #: Transitions of alerts, in offset order.
    transitions: list[Transition]
    #: Events that were not scored, by reason (`LATE_EVENT`, `TOO_MANY_ENTITIES`).
    set_aside: dict[str, Block]
    #: Number of events older than the last event of their entity, scored or not.
    late: int
    #: Number of entities whose state was erased.
    erased: int
