"""What scoring a block says: scores, verdicts, transitions of episodes, and what was set aside."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from models.block import Block


class Transition(msgspec.Struct, frozen=True):
    """An episode that opened or closed at one event, with what explains it."""

    status: str
    entity_id: str
    partition: int
    offset: int
    row: int
    event_time_us: int
    score: float
    once_in: float
    threshold: float
    severity: str
    #: Where the episode opened; the event itself when it opens now.
    opened_partition: int
    opened_offset: int
    opened_row: int
    opened_time_us: int
    #: Events since the episode opened, this one included.
    events: int
    #: Highest score of the episode so far.
    peak: float
    #: (name, value, expected, share of the event's score), largest share first.
    features: list[tuple[str, float | None, float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredBlock:
    """A sub-block with what became of its events; arrays are (N,) over `block`'s events."""

    #: The events that were scored, in offset order.
    block: Block
    #: float32, smoothed, high is anomalous.
    score: np.ndarray
    #: float32, the score's rarity: once in N events of this entity.
    once_in: np.ndarray
    #: uint8, see `alerting.VERDICTS`.
    verdict: np.ndarray
    #: float32, negative log-likelihood of each event alone.
    loss: np.ndarray
    #: Episodes that opened or closed, in offset order.
    transitions: list[Transition]
    #: Events that were not scored, by reason.
    set_aside: dict[str, Block]
    #: Number of events older than their entity's last one, scored or not.
    late: int
    #: Number of entities that were made to forget.
    erased: int
