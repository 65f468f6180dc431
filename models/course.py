"""One entity's alerts through many events, in plain Python: to the bit what tiles give.

A call of numpy on one row costs a microsecond and a ruling takes four dozen; here an event
costs two microseconds. `tests/test_sequence.py` holds both ways to equal bits.
"""

from __future__ import annotations

import numpy as np

from models.alerting import (
    ANOMALOUS,
    CALM_EVENTS,
    NORMAL,
    NOW_RATE,
    SETTLED_LEAST,
    SETTLED_RATIO,
    TOLD_EVENTS,
    UNSETTLED_PRICE,
    USUAL_RATE,
    WARMING,
    WORSE_RATIO,
)
from models.budget import Account, BudgetSpec, Start


class Course:
    """What `models.alerting` remembers of one entity, on its way through a sequence."""

    def __init__(
        self, row: np.ndarray, seen: int, spec: BudgetSpec, start: Start, new_normal_after: int
    ) -> None:
        """Take over the record `row` (1,) of an entity with `seen` events; `start` is its own."""
        self.account = Account(row, spec, start)
        self._surprised, self._lasting, self._events = (
            int(row[name][0]) for name in ("surprised", "settled_events", "episode_events")
        )
        self._told, self._peak = int(row["told_events"][0]), float(row["told_peak"][0])
        self._usual, self._now = row["unrest"][0].tolist()
        self._seen = seen
        self._new_normal_after = new_normal_after
        self.opened = self.updated = self.closed = self.renewed = False

    def learns(self, is_warming: bool) -> bool:
        """Whether statistics take in the next event."""
        return self._surprised == 0 or is_warming

    def step(
        self,
        exceeds: bool,
        score: float,
        level: float,
        moved: float,
        is_warming: bool,
        time_us: int,
    ) -> int:
        """Advance by an event of that score, its logarithm `level`; returns its verdict."""
        learns, account, was_open = self.learns(is_warming), self.account, self._events > 0
        is_settled = self._move(moved, learns)
        theta = account.theta
        if exceeds and not is_warming:
            self._surprised = CALM_EVENTS
        elif self._surprised:
            self._surprised -= 1
        if learns:
            self._lasting = 0
        else:
            self._lasting += 1 if is_settled else -min(self._lasting, UNSETTLED_PRICE)
        self.renewed = is_settled and self._lasting >= self._new_normal_after
        is_news = not (was_open and is_settled) or score > WORSE_RATIO * self._peak
        _, sent = account.step(level, time_us, not is_warming and is_news and not self.renewed)
        self._count_told(score, sent)
        self.opened, self.updated = sent and not was_open, sent and was_open
        is_over = account.now_us >= account.quiet_until_us
        is_calm = self._surprised == 0 and is_over and not level > theta
        self.closed = was_open and (is_calm or self.renewed)
        is_open = was_open or self.opened
        self._events += is_open
        if is_warming:
            return WARMING
        return ANOMALOUS if level > theta or (exceeds and is_open) else NORMAL

    def ends(self) -> bool:
        """Whether there is something to say or do behind the event."""
        return self.opened or self.updated or self.closed or self.renewed

    def write(self, row: np.ndarray) -> None:
        """Put what is remembered into `row` (1,); its peak and origin are not known here."""
        self.account.write(row)
        row["unrest"] = self._usual, self._now
        row["told_events"], row["told_peak"] = self._told, self._peak
        row["surprised"], row["settled_events"] = self._surprised, self._lasting
        row["episode_events"] = self._events

    def _count_told(self, score: float, sent: bool) -> None:
        self._told = 0 if sent else min(self._told + 1, TOLD_EVENTS)
        if sent:
            self._peak = score
        elif self._told < TOLD_EVENTS:
            self._peak = max(self._peak, score)

    def _move(self, moved: float, learns: bool) -> bool:
        """Take in how far the entity moved; tells whether that is no more than usual."""
        self._seen += 1
        self._now += NOW_RATE * (moved - self._now)
        if learns:
            rate = max(1.0 / max(self._seen - 1, 1), USUAL_RATE)
            self._usual += rate * (moved - self._usual)
        return self._now <= SETTLED_RATIO * self._usual + SETTLED_LEAST
