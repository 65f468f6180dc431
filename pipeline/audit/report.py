"""What an audit found: the comparison of scores bit by bit, and how it is told.

Pure: what the job wrote and what the log gives come in as arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamgauge.models.blocks.scored_block import VERDICTS
from streamgauge.pipeline.console.formatting import plain
from streamgauge.transforms.messages.scores import EVENT_KEY

NAME_CHARACTERS_MAX = 40
COLUMNS = ("events", "compared", "missing", "differing", "repeats")

# Why an entity of the sample cannot be derived from the log.
OLDER = "older than the log"
SCATTERED = "in several partitions"

_ORDER = np.dtype([("offset", "<i8"), ("row", "<i4")])


@dataclass(frozen=True, slots=True)
class EntityAudit:
    """One entity's scores, beside what its events in the log give."""

    entity_id: str
    #: Its events in the log that must have a score by the rules.
    events: int = 0
    #: Events with a score that was compared.
    compared: int = 0
    #: Events without a score although later ones of their chain have one.
    missing: int = 0
    #: Events whose score says something else, or that the log does not have.
    differing: int = 0
    #: Scores written more than once, which a restart may do.
    repeats: int = 0
    #: Events the job had not come to yet.
    waiting: int = 0
    #: Events that a full shard refused; they lie on the dead-letter topic.
    refused: int = 0
    #: What differs or is missing first; None if all is well.
    first_fault: str | None = None
    #: Why it was left out; None if it was audited.
    left_out: str | None = None

    @property
    def is_exact(self) -> bool:
        """Nothing differs and nothing is missing."""
        return not self.differing and not self.missing


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found."""

    topic: str
    scores_topic: str
    model: str
    entities: list[EntityAudit]
    #: Scores of other topics or models on the scores topic.
    foreign: int
    seconds: float
    #: Partitions whose log does not begin at offset 0 any more.
    cut_partitions: list[int] = field(default_factory=list)

    @property
    def audited(self) -> list[EntityAudit]:
        """The entities that could be derived from the log."""
        return [one for one in self.entities if one.left_out is None]

    @property
    def is_exact(self) -> bool:
        """Every audited entity's scores are there and equal to the bit."""
        return all(one.is_exact for one in self.audited)

    def total(self, column: str) -> int:
        """Sum of a column over the audited entities."""
        return sum(getattr(one, column) for one in self.audited)

    def to_json(self) -> dict[str, Any]:
        """The report as plain types."""
        totals = {name: self.total(name) for name in (*COLUMNS, "waiting", "refused")}
        return {"is_exact": self.is_exact, "total": totals, **dataclasses.asdict(self)}

    def lines(self) -> Iterator[str]:
        """The report for people: a row per entity, the total, and one plain sentence."""
        yield _row("entity", *COLUMNS)
        for one in self.entities:
            name = plain(one.entity_id, NAME_CHARACTERS_MAX)
            if one.left_out is None:
                yield _row(name, *(f"{getattr(one, column):,}" for column in COLUMNS))
            else:
                yield f"{name:<{NAME_CHARACTERS_MAX + 1}} not audited: {one.left_out}"
        yield _row("total", *(f"{self.total(column):,}" for column in COLUMNS))
        yield self.sentence()

    def sentence(self) -> str:
        """What it comes to."""
        differing, missing = self.total("differing"), self.total("missing")
        waiting = self.total("waiting")
        later = f"; {waiting:,} events are not scored yet" if waiting else ""
        if self.is_exact:
            return (
                f"Exact: {self.total('compared'):,} scores of {len(self.audited):,} entities "
                f"equal, to the bit, what the log gives{later}."
            )
        fault = next(one.first_fault for one in self.audited if one.first_fault)
        return f"NOT exact: {differing:,} scores differ, {missing:,} are missing{later}. {fault}."


def compare(
    entity_id: str, expected: np.ndarray, found: np.ndarray, reached: int, from_offset: int = 0
) -> EntityAudit:
    """Compare an entity's scores in one partition.

    Args:
        entity_id: whose scores they are.
        expected: (N,) `SCORE_BITS`, one per event, in log order.
        found: (M,) `SCORE_BITS` as they lie on the scores topic, repeats included.
        reached: highest scored offset of the entity's chain; what lies above may be missing.
        from_offset: events below it need no score: the scores topic has lost its beginning.
    """
    keys, order = order_of(found), order_of(expected)
    distinct = np.unique(keys)
    place = np.searchsorted(order, keys)
    place[place == len(order)] = 0
    known = (order[place] == keys) if len(order) else np.zeros(len(keys), bool)
    same = known.copy()
    if len(order):
        same &= expected[place] == found
    differs = np.unique(keys[~same])
    absent = ~np.isin(order, distinct)
    waiting = absent & (expected["offset"] > reached)
    missing = absent & ~waiting & (expected["offset"] >= from_offset)
    fault = None
    if len(differs):
        fault = _first_difference(entity_id, differs[0], expected, found)
    elif missing.any():
        at = expected[missing][0]
        fault = f"First: {plain(entity_id)}, {_place(at)}, has no score"
    return EntityAudit(
        entity_id,
        events=len(expected),
        compared=len(np.unique(keys[known])),
        missing=int(missing.sum()),
        differing=len(differs),
        repeats=len(keys) - len(distinct),
        waiting=int(waiting.sum()),
        first_fault=fault,
    )


def order_of(scores: np.ndarray) -> np.ndarray:
    """Where each score's event stands in its partition, as one sortable key."""
    order = np.empty(len(scores), _ORDER)
    order["offset"], order["row"] = scores["offset"], scores["row"]
    return order


def _first_difference(entity_id: str, at: np.void, expected: np.ndarray, found: np.ndarray) -> str:
    """What the first differing event of an entity is, in words."""
    theirs = found[order_of(found) == at]
    ours = expected[order_of(expected) == at]
    where = f"First: {plain(entity_id)}, {_place(theirs[0])}"
    if not len(ours):
        return f"{where}, has a score but is not an event of the log"
    wrong = theirs[theirs != ours[0]][0]
    parts = []
    for name in ("event_time_us", "score", "rarity_1_in_n", "verdict"):
        if wrong[name] != ours[0][name]:
            parts.append(f"{name} must be {_said(name, ours[0])}; got {_said(name, wrong)}")
    return f"{where}: {', '.join(parts)}"


def _said(name: str, score: np.void) -> str:
    value = score[name]
    if name == "verdict":
        return VERDICTS[value] if value < len(VERDICTS) else "unknown"
    if name == "event_time_us":
        return str(value)
    return f"{value.view(np.float32)!s} ({int(value):08x})"


def _place(score: np.void) -> str:
    return "/".join(str(score[name]) for name in EVENT_KEY)


def _row(name: str, *cells: str) -> str:
    return f"{name:<{NAME_CHARACTERS_MAX + 1}}" + "".join(f"{cell:>12}" for cell in cells)
