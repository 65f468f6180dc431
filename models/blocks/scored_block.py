"""What scoring a block says: scores, verdicts, transitions of alerts, and what was set aside."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from streamgauge.models.blocks.block import Block

#: Why an alert closed: the entity is calm again, or its new level is taken for normal.
BACK_TO_NORMAL, NEW_NORMAL = "back_to_normal", "new_normal"

#: Why an event was set aside; dead letters carry the reason.
LATE_EVENT, TOO_MANY_ENTITIES = "late_event", "too_many_entities"


class Transition(msgspec.Struct, frozen=True):
    """An alert that opened, was told again or closed at one event, with what explains it."""

    #: "opened", "updated" or "closed".
    status: str
    entity_id: str
    partition: int
    offset: int
    row: int
    event_time_us: int
    score: float
    rarity_1_in_n: float
    #: What the score had to pass for a message, at this event.
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
    #: (name, value, expected, share of the event's score), largest share first. At a new
    #: normal: (name, value, mean up to now, share of the squared distance between them).
    features: list[tuple[str, float | None, float, float]]
    #: Why it closed: `BACK_TO_NORMAL` or `NEW_NORMAL`; None where it did not.
    reason: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ScoredBlock:
    """A sub-block with what became of its events; arrays are (N,) over `block`'s events."""

    #: The events that were scored, in offset order.
    block: Block
    #: float32, smoothed, high is anomalous.
    score: np.ndarray
    #: float32, the score's rarity: once in N events of this entity.
    rarity_1_in_n: np.ndarray
    #: uint8, see `alerting.VERDICTS`.
    verdict: np.ndarray
    #: float32, 0 at an entity's first event, which only the pool says anything about, to 1 where
    #: warming ends and the score no longer shows where the entity started.
    confidence: np.ndarray
    #: float32, negative log-likelihood of each event alone.
    loss: np.ndarray
    #: Of alerts, in offset order.
    transitions: list[Transition]
    #: Events that were not scored, by reason.
    set_aside: dict[str, Block]
    #: Number of events older than their entity's last one, scored or not.
    late: int
    #: Number of entities that were made to forget.
    erased: int
