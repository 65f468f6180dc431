"""Follows every event through a simulated run and checks each transition of the state.

The ledger is what the state of the pipeline ought to be: the fate of each event, and for
each entity a node in the reference's tree. It is kept and put back together with
checkpoints. After each bundle the real state is compared with it to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from simulator.book import (
    DEAD,
    FINAL,
    GIVEN_UP,
    LATE_ASIDE,
    NO_ROOM,
    OPEN,
    RETAINED_NOT,
    SCORED,
    Book,
    Outputs,
    Violation,
)
from simulator.plan import Plan
from simulator.story import BITS, POLICIES, Node, Reference, bits_of, blank_origin, renamed
from simulator.topic import Topic

from models import shard as shard_module
from models.block import NOTHING_BEFORE, Block
from models.chain import shard_of
from models.drift import BINS
from models.drift_windows import LOSS_MAX, LOSS_SCALE, WINDOWS_MAX, WindowReport
from models.scorer import LATE, TOO_MANY_ENTITIES, ScoredBlock, Transition
from models.shard import Cells, Outcome
from models.table import EntityTable


class Ledger:
    """Checks a run against the reference."""

    def __init__(self, plan: Plan, topic: Topic, reference: Reference) -> None:
        self._plan = plan
        self._topic = topic
        self._reference = reference
        self._script_of = {script.name: i for i, script in enumerate(reference.scripts)}
        self.book = Book(bytearray(len(topic)), [b""] * len(topic))
        #: Times an entity left for its TTL although its own next event came within it.
        self.left_early = 0

    def follow(
        self, shard: int, outcome: Outcome, table: EntityTable, policy: int, had: set[str]
    ) -> Outputs:
        """Take in what one call of the shard brought about; returns what it emits.

        Args:
            shard: where.
            outcome: what the call returned.
            table: the shard's table after it.
            policy: place in `POLICIES` of the policies in force.
            had: the entities that the table held before it.

        Raises:
            Violation: the shard did anything else than the reference.
        """
        out = Outputs()
        jumps = sum(self._take_piece(shard, piece, policy, had, out) for piece in outcome.scored)
        book = self.book
        self.require(jumps == outcome.desyncs, f"{jumps} gaps jumped, {outcome.desyncs} counted")
        book.desyncs[shard] = book.desyncs.get(shard, 0) + jumps
        self.check_table(shard, table, policy)
        self.take_reports(shard, outcome.drift, out)
        return out

    def take_reports(self, shard: int, reports: Sequence[WindowReport], out: Outputs) -> None:
        """Add drift reports of a shard to the books."""
        book = self.book
        for report in reports:
            counts = report.counts.astype(np.int64)
            self.require((counts.sum(axis=1) == report.events).all(), "drift: counts differ")
            events, loss, before = book.windows.get(report.start_us, (0, 0, 0))
            book.windows[report.start_us] = (
                events + report.events,
                loss + report.loss_sum,
                before + counts,
            )
            book.reported[shard] = book.reported.get(shard, 0) + report.events
            content = (report.events, report.loss_sum, counts.tobytes())
            out.reports[(shard, report.start_us, report.first)] = content

    def check_table(self, shard: int, table: EntityTable, policy: int) -> None:
        """Every row of the table must have the reference's bits."""
        names, stands = table.entity_ids, self.book.stands
        limit = self._plan.entities_per_shard_max
        self.require(not limit or len(names) <= limit, f"shard {shard}: {len(names)} entities")
        rows = table.rows[: len(names)].copy()
        origin = rows[["episode_partition", "episode_offset", "episode_row"]].tolist()
        blank_origin(rows)
        data, size = rows.tobytes(), table.layout.dtype.itemsize
        for i, name in enumerate(names):
            script = self._script_of[name]
            node = stands.get((shard, script))
            self.require(node is not None, f"shard {shard}: row of {name}, which has no events")
            self.require(
                data[i * size : (i + 1) * size] == node.row,
                f"shard {shard}: state of {name} differs from the undisturbed run",
            )
            if node.opened >= 0:
                event = self._topic.named.get(origin[i])
                is_same = event is not None and self._topic.script[event] == script
                self.require(
                    is_same and self._topic.place[event] == node.opened,
                    f"shard {shard}: episode of {name} opened at {origin[i]}",
                )
        held = [key for key in stands if key[0] == shard]
        if len(held) > len(names):
            self._let_go(shard, {self._script_of[name] for name in names}, held, policy)

    def check_bounds(self, shard: int, cells: Cells, live: object) -> None:
        """Cells and memory of a shard are as small as they should be, and agree."""
        epoch, plan = live.epoch, self._plan
        held = len(cells.held.values)
        self.require(epoch.held == held, f"shard {shard}: held {held}, says {epoch.held}")
        self.require(held <= plan.held_blocks_max, f"shard {shard}: {held} blocks held")
        self.require(
            epoch.desyncs == self.book.desyncs.get(shard, 0),
            f"shard {shard}: desyncs {epoch.desyncs}, happened {self.book.desyncs.get(shard, 0)}",
        )
        table_bytes = len(live.table) * live.table.layout.dtype.itemsize
        bound = max(shard_module.LOG_BYTES_MIN, shard_module.LOG_FACTOR * table_bytes)
        blocks = sum(map(len, cells.log.values[1:]))
        self.require(
            epoch.log_bytes == blocks and blocks <= bound,
            f"shard {shard}: {blocks} bytes of blocks in the log, says {epoch.log_bytes}",
        )
        windows = live.drift._open
        counted = sum(window.events for window in windows.values())
        counted += self.book.reported.get(shard, 0)
        scored = self.book.scored.get(shard, 0)
        self.require(counted == scored, f"shard {shard}: drift of {counted} events, of {scored}")
        self.require(len(windows) <= WINDOWS_MAX, f"shard {shard}: {len(windows)} windows open")

    def check_end(self, outputs: Outputs) -> None:
        """After everything was delivered: nothing is missing, and sums are right."""
        book, topic, plan = self.book, self._topic, self._plan
        for event, fate in enumerate(book.fate):
            where = self._where(event)
            if fate == OPEN:
                raise Violation(f"{where} was lost")
            if plan.is_lossless and fate in (RETAINED_NOT, GIVEN_UP):
                raise Violation(f"{where} was given up, and nothing was injected")
            emitted = {
                SCORED: outputs.scored,
                LATE_ASIDE: outputs.aside,
                NO_ROOM: outputs.aside,
                DEAD: outputs.dead,
            }.get(fate)
            self.require(emitted is None or event in emitted, f"{where} has no output")
            self.require((event in topic.bad) <= (fate in (DEAD, RETAINED_NOT)), where)
        missing = book.alerts - set(outputs.alerts)
        self.require(not missing, f"alerts {sorted(missing)[:3]} were not sent")
        if plan.is_pure:
            extra = set(outputs.alerts) - book.alerts
            self.require(not extra, f"alerts {sorted(extra)[:3]} should not be")
        self._check_drift()

    def _take_piece(
        self, shard: int, scored: ScoredBlock, policy: int, had: set[str], out: Outputs
    ) -> int:
        """Follow one scored block; returns 1 if it stands behind a gap that was given up."""
        block, named = scored.block, self._topic.named
        jumped = self._reach(shard, block)
        partition = block.partition
        events = [
            (at, SCORED) for at in zip(block.offset.tolist(), block.row.tolist(), strict=True)
        ]
        for reason, fate in ((LATE, LATE_ASIDE), (TOO_MANY_ENTITIES, NO_ROOM)):
            if (aside := scored.set_aside.get(reason)) is not None:
                places = zip(aside.offset.tolist(), aside.row.tolist(), strict=True)
                events += [(at, fate) for at in places]
        events.sort()
        expected: list[bytes] = []
        told: list[bytes] = []
        late = 0
        for (offset, row), fate in events:
            event = named.get((partition, offset, row))
            self.require(event is not None, f"({partition}, {offset}, {row}) was never sent")
            self._turn(event)
            self.book.fate[event] = fate
            script = self._topic.script[event]
            if fate == NO_ROOM:
                self._refuse(shard, event, script, had)
                out.aside.add(event)
                continue
            node = self._step(shard, event, script, policy, had)
            late += node.is_late
            self.require(bool(node.bits) == (fate == SCORED), f"{self._where(event)}: set aside")
            told += node.transitions
            if fate == SCORED:
                expected.append(node.bits)
                self.book.said[event] = node.bits
                out.scored.add(event)
            else:
                out.aside.add(event)
        self.require(late == scored.late, f"{late} late events, counted {scored.late}")
        self._check_said(scored, partition, expected, told, out)
        self.book.scored[shard] = self.book.scored.get(shard, 0) + len(block)
        return jumped

    def _check_said(
        self,
        scored: ScoredBlock,
        partition: int,
        expected: list[bytes],
        told: list[bytes],
        out: Outputs,
    ) -> None:
        """Scores and transitions of a block must be the reference's."""
        got, block = bits_of(scored), scored.block
        if got != expected:
            i = next(
                i for i, pair in enumerate(zip(got, expected, strict=True)) if len(set(pair)) > 1
            )
            place = (partition, int(block.offset[i]), int(block.row[i]))
            raise Violation(f"{self._where(self._topic.named[place])}: score bits differ")
        self.require(
            block.entity_id.to_pylist() == self._names(partition, block), "entities swapped"
        )
        found = []
        for transition in scored.transitions:
            content, event = self._renamed(transition)
            found.append(content)
            self.book.alerts.add((transition.status, event))
            out.alerts[(transition.status, event)] = content
        self.require(found == told, f"partition {partition}: alerts differ")

    def _names(self, partition: int, block: Block) -> list[str]:
        topic, scripts = self._topic, self._reference.scripts
        places = zip(block.offset.tolist(), block.row.tolist(), strict=True)
        return [scripts[topic.script[topic.named[(partition, *at)]]].name for at in places]

    def _renamed(self, t: Transition) -> tuple[bytes, int]:
        named, place = self._topic.named, self._topic.place
        event = named[(t.partition, t.offset, t.row)]
        opened = named[(t.opened_partition, t.opened_offset, t.opened_row)]
        return renamed(t, place[event], place[opened]), event

    def _reach(self, shard: int, block: Block) -> int:
        """Advance the shard's position; what lies in a gap that was given up is lost."""
        key = (shard, block.partition)
        before = self.book.reached.get(key, NOTHING_BEFORE)
        self.book.reached[key] = block.end_offset
        self.require(block.end_offset > before, f"shard {shard}: position went back")
        if block.previous_end <= before:
            return 0
        self.require(not self._plan.is_lossless, f"shard {shard}: gap jumped at {before}")
        for event in self.events_of(shard):
            is_between = before <= self._topic.offset[event] < block.previous_end
            is_here = self._topic.partition[event] == block.partition
            if is_here and is_between and self.book.fate[event] == OPEN:
                self.book.fate[event] = GIVEN_UP
        return 1

    def events_of(self, shard: int) -> list[int]:
        """The well-formed events that go to `shard`."""
        found = []
        for (script, partition), events in self._topic.order.items():
            if self._plan.routing == "partition":
                goes_to = partition % self._plan.shards
            else:
                goes_to = shard_of(self._reference.scripts[script].name, self._plan.shards)
            found += events if goes_to == shard else []
        return found

    def _turn(self, event: int) -> None:
        """It must be the event's turn: after all before it of the entity, and never twice."""
        book, topic = self.book, self._topic
        key = (topic.script[event], topic.partition[event])
        order, at = topic.order[key], book.pointer.get(key, 0)
        if at < len(order) and order[at] == event:
            book.pointer[key] = at + 1
            return
        if book.fate[event] in FINAL:
            raise Violation(f"{self._where(event)} was scored twice")
        place = order.index(event)
        self.require(place >= at, f"{self._where(event)} came after a later one")
        for skipped in order[at:place]:
            if book.fate[skipped] not in (RETAINED_NOT, GIVEN_UP):
                raise Violation(f"{self._where(skipped)} was skipped")
        book.pointer[key] = place + 1

    def _step(self, shard: int, event: int, script: int, policy: int, had: set[str]) -> Node:
        """The node behind the entity's next event."""
        book, key = self.book, (shard, script)
        name = self._reference.scripts[script].name
        if name not in had:
            limit = self._plan.entities_per_shard_max
            had.add(name)
            self.require(not limit or len(had) <= limit, f"shard {shard}: {name} had no room")
        root = self._reference.roots[script]
        place = self._topic.place[event]
        node = self._reference.after(book.stands.get(key, root), place, policy)
        stood = book.left.pop(key, None)
        if stood is not None and len(self._plan.policies) == 1:
            stayed = self._reference.after(stood, place, policy)
            self.left_early += (stayed.row, stayed.bits) != (node.row, node.bits)
        book.stands[key] = node
        return node

    def _refuse(self, shard: int, event: int, script: int, had: set[str]) -> None:
        """A new entity may be set aside only while the shard is full."""
        name = self._reference.scripts[script].name
        is_full = len(had) == self._plan.entities_per_shard_max
        self.require(name not in had and is_full, f"{self._where(event)} was refused")

    def _let_go(
        self, shard: int, there: set[int], held: list[tuple[int, int]], policy: int
    ) -> None:
        """Rows may be missing only of entities that were idle for twice the TTL."""
        stands = self.book.stands
        ttl_us = POLICIES[policy][0].entity_ttl_s * 1_000_000
        newest = max(stands[key].time_us for key in held)
        for key in held:
            if key[1] in there:
                continue
            node = stands.pop(key)
            is_idle = ttl_us and node.time_us < newest - 2 * ttl_us
            name = self._reference.scripts[key[1]].name
            self.require(bool(is_idle), f"shard {shard}: {name} is gone")
            self.book.left[key] = node

    def _check_drift(self) -> None:
        """The sum of all reports must be the counts over all scored events."""
        book, topic, reference = self.book, self._topic, self._reference
        window_us = self._plan.window_s * 1_000_000
        here = [event for event, fate in enumerate(book.fate) if fate == SCORED]
        played = [(reference.scripts[topic.script[e]], topic.place[e]) for e in here]
        said = np.frombuffer(b"".join(book.said[e] for e in here), BITS)
        number = np.array([one.time_us[k] for one, k in played], np.int64) // window_us
        loss = np.clip(np.nan_to_num(said["loss"]), -LOSS_MAX, LOSS_MAX).astype(np.float64)
        fixed = np.rint(loss * LOSS_SCALE).astype(np.int64)
        starts = np.unique(number)
        self.require(
            (starts * window_us).tolist() == sorted(book.windows),
            f"drift: windows {sorted(book.windows)}, events in {(starts * window_us).tolist()}",
        )
        for window in starts.tolist():
            inside = np.flatnonzero(number == window)
            x = np.stack([played[i][0].features[played[i][1]] for i in inside.tolist()])
            counts = _counts(reference, np.column_stack([x, said["score"][inside]]))
            events, loss_sum, found = book.windows[window * window_us]
            is_same = (events, loss_sum) == (len(inside), int(fixed[inside].sum()))
            self.require(
                is_same and np.array_equal(found, counts),
                f"drift: window {window} sums to {events} events, holds {len(inside)}",
            )

    def _where(self, event: int) -> str:
        topic = self._topic
        script = topic.script[event]
        name = self._reference.scripts[script].name if script >= 0 else "malformed"
        return (
            f"event {topic.place[event]} of {name} at partition {topic.partition[event]}, "
            f"offset {topic.offset[event]}"
        )

    @staticmethod
    def require(holds: object, otherwise: str) -> None:
        if not holds:
            raise Violation(otherwise)


def _counts(reference: Reference, values: np.ndarray) -> np.ndarray:
    """Drift counts of `values` (N, F + 1), by binary search: another way than the core's."""
    counts = np.zeros((values.shape[1], BINS + 1), np.int64)
    for i, edges in enumerate(reference.artifact.drift_reference.edges):
        bins = np.searchsorted(edges[:-1], values[:, i], side="left")
        bins[np.isnan(values[:, i])] = BINS
        counts[i] = np.bincount(bins, minlength=BINS + 1)
    return counts
