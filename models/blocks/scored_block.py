"""The result of scoring a block: scores, verdicts, alert transitions, and events set aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from numpy.typing import NDArray

from streamgauge.models.blocks.block import Block

#: Verdict codes of `ScoredBlock.verdict`, and their names by code.
WARMING, NORMAL, ANOMALOUS = 0, 1, 2
VERDICTS = ("warming", "normal", "anomalous")

#: Why an alert closed: the entity is calm again, or its new level was accepted as the baseline.
BACK_TO_NORMAL, NEW_NORMAL = "back_to_normal", "new_normal"

#: Why an event was set aside; dead letters carry the reason.
LATE_EVENT, TOO_MANY_ENTITIES = "late_event", "too_many_entities"


class Transition(msgspec.Struct, frozen=True):
    """An alert that opened, was updated or closed at one event, with its explanation."""

    #: "opened", "updated" or "closed".
    status: str
    entity_id: str
    partition: int
    offset: int
    row: int
    event_time_us: int
    score: float
    rarity_1_in_n: float
    #: The score above which a message was due, at this event.
    threshold: float
    severity: str
    #: Where the alert opened; the event itself when it opens now.
    opened_partition: int
    opened_offset: int
    opened_row: int
    opened_time_us: int
    #: Events since the alert opened, this one included.
    events: int
    #: Highest score of the alert so far.
    peak: float
    #: (name, value, expected, share of the event's score), largest share first. For a new
    #: baseline: (name, value, mean before the event, share of their squared distance).
    features: list[tuple[str, float | None, float, float]]
    #: Why it closed: `BACK_TO_NORMAL` or `NEW_NORMAL`; None if it did not close.
    reason: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ScoredBlock:
    """A sub-block with the results of its events; arrays are (N,) over the events of `block`."""

    #: The events that were scored, in offset order.
    block: Block
    #: float32, smoothed; high is anomalous.
    score: NDArray[Any]
    #: float32, rarity of the score: 1 in N events of this entity.
    rarity_1_in_n: NDArray[Any]
    #: uint8, index into `VERDICTS`.
    verdict: NDArray[Any]
    #: float32, from 0 at the first event of an entity to 1 at the end of its warm-up, where the
    #: score no longer depends on the state that the entity started from.
    confidence: NDArray[Any]
    #: float32, negative log-likelihood of each event alone.
    loss: NDArray[Any]
    #: Alert transitions, in offset order.
    transitions: list[Transition]
    #: Events that were not scored, by reason.
    set_aside: dict[str, Block]
    #: Number of events older than the latest event of their entity, scored or not.
    late: int
    #: Number of entities whose state was erased.
    erased: int
