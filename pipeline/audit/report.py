"""The report of an audit: compares scores bit by bit, and writes the result as text or JSON.

All functions are pure. The scores of the job and those computed from the log are arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.blocks.scored_block import VERDICTS
from streamgauge.pipeline.console.formatting import plain
from streamgauge.transforms.messages.scores import EVENT_KEY

NAME_CHARACTERS_MAX = 40
COLUMNS = ("events", "compared", "missing", "differing", "repeats")

# Reasons why an entity of the sample cannot be audited.
OLDER = "older than the log"
SCATTERED = "in several partitions"

_ORDER = np.dtype([("offset", "<i8"), ("row", "<i4")])


@dataclass(frozen=True, slots=True)
class EntityAudit:
    """The comparison of one entity: its scores, and those computed again from its events."""

    entity_id: str
    #: Its events in the log that must have a score.
    events: int = 0
    #: Events whose score was compared.
    compared: int = 0
    #: Events without a score, although later events of their chain have one.
    missing: int = 0
    #: Events with another score, and scores of events that the log does not have.
    differing: int = 0
    #: Scores that were written more than once; a restart may cause this.
    repeats: int = 0
    #: Events that the job has not processed yet.
    waiting: int = 0
    #: Events that a full shard refused; they are on the dead-letter topic.
    refused: int = 0
    #: The first difference or missing score; None if there is none.
    first_fault: str | None = None
    #: The reason why it was left out; None if it was audited.
    left_out: str | None = None

    @property
    def is_exact(self) -> bool:
        """Whether no score differs and none is missing."""
        return not self.differing and not self.missing


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of an audit."""

    topic: str
    scores_topic: str
    model: str
    entities: list[EntityAudit]
    #: Scores of other topics or models on the scores topic.
    foreign: int
    seconds: float
    #: Partitions whose log no longer begins at offset 0.
    truncated_partitions: list[int] = field(default_factory=list)

    @property
    def audited(self) -> list[EntityAudit]:
        """The entities that were not left out."""
        return [entity for entity in self.entities if entity.left_out is None]

    @property
    def is_exact(self) -> bool:
        """Whether all scores of the audited entities exist and are equal bit for bit."""
        return all(entity.is_exact for entity in self.audited)

    def total(self, column: str) -> int:
        """The sum of a column over the audited entities."""
        return sum(getattr(entity, column) for entity in self.audited)

    def to_json(self) -> dict[str, Any]:
        """The report as plain types."""
        totals = {name: self.total(name) for name in (*COLUMNS, "waiting", "refused")}
        return {"is_exact": self.is_exact, "total": totals, **dataclasses.asdict(self)}

    def lines(self) -> Iterator[str]:
        """The report as text: a row per entity, the total, and one sentence."""
        yield _row("entity", *COLUMNS)
        for entity in self.entities:
            name = plain(entity.entity_id, NAME_CHARACTERS_MAX)
            if entity.left_out is None:
                yield _row(name, *(f"{getattr(entity, column):,}" for column in COLUMNS))
            else:
                yield f"{name:<{NAME_CHARACTERS_MAX + 1}} not audited: {entity.left_out}"
        yield _row("total", *(f"{self.total(column):,}" for column in COLUMNS))
        yield self.sentence()

    def sentence(self) -> str:
        """The result in one sentence."""
        differing, missing = self.total("differing"), self.total("missing")
        waiting = self.total("waiting")
        later = f"; {waiting:,} events are not scored yet" if waiting else ""
        if self.is_exact:
            return (
                f"Exact: {self.total('compared'):,} scores of {len(self.audited):,} entities "
                f"equal, bit for bit, those computed again from the log{later}."
            )
        fault = next(entity.first_fault for entity in self.audited if entity.first_fault)
        return f"NOT exact: {differing:,} scores differ, {missing:,} are missing{later}. {fault}."


def compare(
    entity_id: str,
    expected: NDArray[Any],
    written: NDArray[Any],
    *,
    reached: int,
    from_offset: int = 0,
) -> EntityAudit:
    """Compare the scores of an entity in one partition.

    Args:
        entity_id: the entity.
        expected: (N,) `SCORE_BITS`, one per event, in log order.
        written: (M,) `SCORE_BITS` in the order of the scores topic, repeats included.
        reached: highest scored offset of the entity's chain; later events may lack a score.
        from_offset: earlier events need no score, because the scores topic no longer has it.
    """
    keys, order = order_of(written), order_of(expected)
    distinct = np.unique(keys)
    index = np.searchsorted(order, keys)
    index[index == len(order)] = 0
    known = (order[index] == keys) if len(order) else np.zeros(len(keys), bool)
    same = known.copy()
    if len(order):
        same &= expected[index] == written
    differs = np.unique(keys[~same])
    absent = ~np.isin(order, distinct)
    waiting = absent & (expected["offset"] > reached)
    missing = absent & ~waiting & (expected["offset"] >= from_offset)
    fault = None
    if len(differs):
        fault = _first_difference(entity_id, differs[0], expected=expected, written=written)
    elif missing.any():
        fault = f"First: {plain(entity_id)}, {_event_name(expected[missing][0])}, has no score"
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


def order_of(scores: NDArray[Any]) -> NDArray[Any]:
    """The position (N,) of each score's event in its partition, as one sortable key."""
    order = np.empty(len(scores), _ORDER)
    order["offset"], order["row"] = scores["offset"], scores["row"]
    return order


def _first_difference(
    entity_id: str, key: np.void, *, expected: NDArray[Any], written: NDArray[Any]
) -> str:
    """The difference at the event with the position `key`, as text."""
    theirs = written[order_of(written) == key]
    ours = expected[order_of(expected) == key]
    where = f"First: {plain(entity_id)}, {_event_name(theirs[0])}"
    if not len(ours):
        return f"{where}, has a score but is not an event of the log"
    wrong = theirs[theirs != ours[0]][0]
    parts = []
    for name in ("event_time_us", "score", "rarity_1_in_n", "verdict"):
        if wrong[name] != ours[0][name]:
            parts.append(f"{name} must be {_value(name, ours[0])}; got {_value(name, wrong)}")
    return f"{where}: {', '.join(parts)}"


def _value(name: str, score: np.void) -> str:
    value = score[name]
    if name == "verdict":
        return VERDICTS[value] if value < len(VERDICTS) else "unknown"
    if name == "event_time_us":
        return str(value)
    return f"{value.view(np.float32)!s} ({int(value):08x})"


def _event_name(score: np.void) -> str:
    return "/".join(str(score[name]) for name in EVENT_KEY)


def _row(name: str, *cells: str) -> str:
    return f"{name:<{NAME_CHARACTERS_MAX + 1}}" + "".join(f"{cell:>12}" for cell in cells)
