"""Follows every event through a simulated run and checks each transition of the state.

The ledger is what the state of the pipeline ought to be: the fate of each event, and for
each entity a node in the reference's tree. It is kept and put back together with
checkpoints and snapshots. After each block the real state is compared with it to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.drift_sums import check_drift
from simulator.expected_state import (
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
    ShardBook,
    Stand,
    Violation,
)
from simulator.plan import Plan
from simulator.reference import POLICIES, Node, Reference, bits_of, blank_circumstances, renamed
from simulator.topic import Topic
from streamgauge.models.blocks.block import NOTHING_BEFORE, OFFSET_RESET, Block
from streamgauge.models.blocks.chain import shard_of
from streamgauge.models.blocks.scored_block import (
    LATE_EVENT,
    TOO_MANY_ENTITIES,
    ScoredBlock,
    Transition,
)
from streamgauge.models.drift.windows import WINDOWS_MAX, WindowReport
from streamgauge.models.scoring.policy import ShardPolicy
from streamgauge.models.scoring.shard import Outcome
from streamgauge.models.state.cells import Cells
from streamgauge.models.state.entity_table import EntityTable


class Ledger:
    """Checks a run against the reference."""

    def __init__(self, plan: Plan, topic: Topic, reference: Reference) -> None:
        self._plan = plan
        self._topic = topic
        self._reference = reference
        self._script_of = {script.name: i for i, script in enumerate(reference.scripts)}
        #: The well-formed events that go to each shard.
        self.events_of: list[list[int]] = [[] for _ in range(plan.shards)]
        for (script, partition), events in topic.order.items():
            if plan.routing == "partition":
                goes_to = partition % plan.shards
            else:
                goes_to = shard_of(reference.scripts[script].name, plan.shards)
            self.events_of[goes_to] += events
        self.book = Book(len(topic), plan.shards)

    def follow(self, shard: int, outcome: Outcome, table: EntityTable, policy: int) -> Outputs:
        """Take in what one call of the shard brought about; returns what it emits.

        Args:
            shard: where.
            outcome: what the call returned.
            table: the shard's table after it.
            policy: place in `POLICIES` of the policies in force.

        Raises:
            Violation: the shard did anything else than the reference.
        """
        out, offset_resets = Outputs(), 0
        if outcome.scored:
            book = self.book.write(shard)
            had = set(book.stands)
            for piece in outcome.scored:
                offset_resets += self._take_piece(shard, book, piece, policy, had, out)
            book.desyncs += offset_resets
            book.alerts |= set(out.alerts)
        self.require(
            offset_resets == outcome.desyncs,
            f"{offset_resets} gaps, {outcome.desyncs} counted",
        )
        self.check_table(shard, table, policy)
        self.take_reports(shard, outcome.drift, out)
        return out

    def take_reports(self, shard: int, reports: Sequence[WindowReport], out: Outputs) -> None:
        """Add drift reports of a shard to the books."""
        for report in reports:
            book = self.book.write(shard)
            counts = report.counts.astype(np.int64)
            self.require((counts.sum(axis=1) == report.events).all(), "drift: counts differ")
            self.require(report.shard == shard, f"drift: report of {report.shard} in {shard}")
            events, loss, before = book.windows.get(report.start_us, (0, 0, 0))
            book.windows[report.start_us] = (
                events + report.events,
                loss + report.loss_sum,
                before + counts,
            )
            book.reported += report.events
            content = (report.events, report.loss_sum, counts.tobytes())
            out.reports[(shard, report.start_us, report.first)] = content

    def check_table(self, shard: int, table: EntityTable, policy: int) -> None:
        """Every row of the table must have the reference's bits, and no other be there."""
        names, book = table.entity_ids, self.book.read(shard)
        limit = self._plan.entities_per_shard_max
        self.require(not limit or len(names) <= limit, f"shard {shard}: {len(names)} entities")
        there = [self._script_of[name] for name in names]
        self.require(len(set(there)) == len(there), f"shard {shard}: an entity has two rows")
        for script in there:
            if script not in book.stands:
                name = self._reference.scripts[script].name
                raise Violation(f"shard {shard}: row of {name}, which has no events")
        self._check_rows(shard, table, [book.stands[script] for script in there], there)
        # A partition of which only empty blocks came has a clock in memory, and none in state.
        clocks = {p: (c.latest_us, c.now_us) for p, c in table.clocks.items() if c.latest_us}
        self.require(clocks == book.clocks, f"shard {shard}: clocks {clocks}, not {book.clocks}")
        offset_resets = all(c.offset_resets == book.reached[p][1] for p, c in table.clocks.items())
        self.require(offset_resets, f"shard {shard}: jumps {table.clocks}, not {book.reached}")
        if len(book.stands) > len(names):
            self._let_go(shard, set(there), policy)

    def check_bounds(self, shard: int, cells: Cells, live: object, policy: ShardPolicy) -> None:
        """Cells and memory of a shard are as small as they should be, and agree."""
        epoch, book = live.epoch, self.book.read(shard)
        held = len(cells.held.values)
        self.require(epoch.held == held, f"shard {shard}: held {held}, says {epoch.held}")
        self.require(held <= policy.held_blocks_max, f"shard {shard}: {held} blocks held")
        ends = {p: (at.end_offset, at.offset_resets) for p, at in epoch.reached.items()}
        self.require(ends == book.reached, f"shard {shard}: at {ends}, should be {book.reached}")
        counts = epoch.counts
        counted = (
            counts.scored,
            counts.late,
            counts.set_aside,
            counts.offset_resets,
            counts.desyncs,
        )
        happened = (book.scored, book.late, book.set_aside, book.offset_resets, book.desyncs)
        self.require(counted == happened, f"shard {shard}: counts {counted}, happened {happened}")
        log, first = [each for cell in cells.log for each in cell.values], epoch.first_segment
        since = [len(each) for each in log if int.from_bytes(each[5:13], "little") >= first]
        stored = (epoch.log_bytes, epoch.next_segment)
        self.require(stored == (sum(since), first + len(since)), f"shard {shard}: log of {since}")
        windows = live.drift._open
        counted = book.reported + sum(window.events for window in windows.values())
        self.require(
            counted == book.scored, f"shard {shard}: drift of {counted} events, of {book.scored}"
        )
        self.require(len(windows) <= WINDOWS_MAX, f"shard {shard}: {len(windows)} windows open")

    def check_log(self, shard: int, live: object, waits: bool, policy: ShardPolicy) -> None:
        """The log is short, or half as long again if it `waits`, or is about to be replaced."""
        table_bytes = len(live.table) * live.table.rows.itemsize
        bound = max(policy.log_bytes_min, policy.log_factor * table_bytes)
        is_short = live.epoch.log_bytes <= bound * (1.5 if waits else 1)
        self.require(
            is_short or live.snapshot, f"shard {shard}: log of {live.epoch.log_bytes} bytes"
        )

    def check_nobody_overstays(self, shard: int, policy: int) -> None:
        """Behind a snapshot no entity may be left that its next event would restart."""
        book = self.book.read(shard)
        for script, stand in book.stands.items():
            _, clock_us = book.clocks[stand.partition]
            name = self._reference.scripts[script].name
            is_over = _is_forgotten(stand, clock_us, policy)
            self.require(not is_over, f"shard {shard}: {name} was silent, and did not leave")

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
        alerts = {alert for shard in range(plan.shards) for alert in book.read(shard).alerts}
        missing = alerts - set(outputs.alerts)
        self.require(not missing, f"alerts {sorted(missing)[:3]} were not sent")
        if plan.is_pure:
            extra = set(outputs.alerts) - alerts
            self.require(not extra, f"alerts {sorted(extra)[:3]} should not be")
        check_drift(book, plan.shards, topic, self._reference, plan.window_s)

    def _check_rows(
        self, shard: int, table: EntityTable, expected: list[Stand], there: list[int]
    ) -> None:
        rows = table.rows[: len(expected)].copy()
        seen = list(zip(rows["partition"].tolist(), rows["clock_us"].tolist(), strict=True))
        origin = rows[["alert_partition", "alert_offset", "alert_row"]].tolist()
        blank_circumstances(rows)
        data, size = rows.tobytes(), table.layout.dtype.itemsize
        for i, (stand, script) in enumerate(zip(expected, there, strict=True)):
            name = table.entity_ids[i]
            self.require(
                data[i * size : (i + 1) * size] == stand.node.row,
                f"shard {shard}: state of {name} differs from the undisturbed run",
            )
            last = (stand.partition, stand.clock_us)
            self.require(seen[i] == last, f"shard {shard}: {name} last seen {seen[i]}, not {last}")
            if stand.node.opened >= 0:
                event = self._topic.named.get(origin[i])
                is_same = event is not None and self._topic.script[event] == script
                self.require(
                    is_same and self._topic.place[event] == stand.node.opened,
                    f"shard {shard}: alert of {name} opened at {origin[i]}",
                )

    def _take_piece(
        self,
        shard: int,
        book: ShardBook,
        scored: ScoredBlock,
        policy: int,
        had: set[int],
        out: Outputs,
    ) -> int:
        """Follow one scored block; returns 1 if it comes after a gap that was given up."""
        block, named = scored.block, self._topic.named
        jumped = self._reach(shard, book, block)
        partition = block.partition
        expected: list[bytes] = []
        transitions: list[bytes] = []
        late = 0
        for (offset, row), fate in _fates(scored):
            event = named.get((partition, offset, row))
            self.require(event is not None, f"({partition}, {offset}, {row}) was never sent")
            self._turn(book, event)
            self.book.fate[event] = fate
            script, time_us = self._topic.script[event], self._topic.time_us[event]
            self._advance_clock(book, partition, script, time_us)
            if fate != SCORED:
                out.aside.add(event)
                book.set_aside += 1
            if fate == NO_ROOM:
                self._refuse(event, had)
                continue
            node = self._step(book, event, policy, had)
            late += node.is_late
            self.require(bool(node.bits) == (fate == SCORED), f"{self._where(event)}: set aside")
            transitions += node.transitions
            if fate == SCORED:
                expected.append(node.bits)
                self.book.results[event] = node.bits
                out.scored[event] = node.bits
        self.require(late == scored.late, f"{late} late events, counted {scored.late}")
        book.late += late
        book.scored += len(block)
        if expected or len(block):
            self._check_results(scored, partition, expected, transitions, out)
        return jumped

    def _check_results(
        self,
        scored: ScoredBlock,
        partition: int,
        expected: list[bytes],
        transitions: list[bytes],
        out: Outputs,
    ) -> None:
        """Scores and transitions of a block must be the reference's."""
        got, block, topic = bits_of(scored), scored.block, self._topic
        places = zip(block.offset.tolist(), block.row.tolist(), strict=True)
        events = [topic.named[(partition, *place)] for place in places]
        if got != expected:
            pairs = zip(got, expected, strict=True)
            i = next(i for i, (one, other) in enumerate(pairs) if one != other)
            raise Violation(f"{self._where(events[i])}: score bits differ")
        names = [self._reference.scripts[topic.script[event]].name for event in events]
        self.require(block.entity_id.to_pylist() == names, "entities swapped")
        found = []
        for transition in scored.transitions:
            content, event = self._renamed(transition)
            found.append(content)
            out.alerts[(transition.status, event)] = content
        self.require(found == transitions, f"partition {partition}: alerts differ")

    def _renamed(self, t: Transition) -> tuple[bytes, int]:
        named, place = self._topic.named, self._topic.place
        event = named[(t.partition, t.offset, t.row)]
        opened = named[(t.opened_partition, t.opened_offset, t.opened_row)]
        return renamed(t, place[event], place[opened]), event

    def _reach(self, shard: int, book: ShardBook, block: Block) -> int:
        """Advance the shard's position; what lies in a gap that was given up is lost."""
        before, offset_resets = book.reached.get(block.partition, (NOTHING_BEFORE, 0))
        if block.offset_resets > offset_resets:
            self.require(not self._plan.is_lossless, f"shard {shard}: reader jumped at {before}")
            book.offset_resets += block.offset_resets - offset_resets
            self._warm_up_again(book, block.partition)
        is_ahead = block.end_offset > before or block.offset_resets > offset_resets
        self.require(is_ahead, f"shard {shard}: position went back")
        end = max(before, block.end_offset)
        book.reached[block.partition] = (end, max(offset_resets, block.offset_resets))
        linked_to = (
            block.previous_end if block.previous_end > OFFSET_RESET else -2 - block.previous_end
        )
        if linked_to <= before:
            return 0
        self.require(not self._plan.is_lossless, f"shard {shard}: gap jumped at {before}")
        for event in self.events_of[shard]:
            is_between = before <= self._topic.offset[event] < linked_to
            is_here = self._topic.partition[event] == block.partition
            if is_here and is_between and self.book.fate[event] == OPEN:
                self.book.fate[event] = GIVEN_UP
        return 1

    def _warm_up_again(self, book: ShardBook, partition: int) -> None:
        """Offsets of a partition were lost before they were read: its entities warm up again."""
        for script, stand in book.stands.items():
            if stand.partition == partition:
                book.stands[script] = stand._replace(node=self._reference.warming(stand.node))

    @staticmethod
    def _advance_clock(book: ShardBook, partition: int, script: int, time_us: int) -> None:
        """Advance the clock of a partition by an event."""
        if time_us > book.latest_us.get((partition, script), 0):
            book.latest_us[(partition, script)] = time_us
            here = [time_us for (p, _), time_us in book.latest_us.items() if p == partition]
            latest, *others = sorted(here, reverse=True)
            book.clocks[partition] = (latest, others[0] if others else 0)

    def _turn(self, book: ShardBook, event: int) -> None:
        """It must be the event's turn: after all before it of the entity, and never twice."""
        fate, topic = self.book.fate, self._topic
        key = (topic.script[event], topic.partition[event])
        order, at = topic.order[key], book.pointer.get(key, 0)
        if at < len(order) and order[at] == event:
            book.pointer[key] = at + 1
            return
        if fate[event] in FINAL:
            raise Violation(f"{self._where(event)} was scored twice")
        place = order.index(event)
        self.require(place >= at, f"{self._where(event)} came after a later one")
        for skipped in order[at:place]:
            if fate[skipped] not in (RETAINED_NOT, GIVEN_UP):
                raise Violation(f"{self._where(skipped)} was skipped")
        book.pointer[key] = place + 1

    def _step(self, book: ShardBook, event: int, policy: int, had: set[int]) -> Node:
        """The node after the entity's next event; the first one again if it was forgotten."""
        topic = self._topic
        script, partition, place = topic.script[event], topic.partition[event], topic.place[event]
        if script not in had:
            limit = self._plan.entities_per_shard_max
            had.add(script)
            self.require(not limit or len(had) <= limit, f"{self._where(event)} had no room")
        stand = book.stands.get(script)
        if stand is None or _is_forgotten(stand, book.clocks[stand.partition][1], policy):
            stand = Stand(self._reference.roots[script], partition, 0)
        node = self._reference.after(stand.node, place, policy)
        if node.bits:
            book.stands[script] = Stand(node, partition, book.clocks[partition][1])
        else:
            book.stands[script] = stand._replace(node=node)
        return node

    def _refuse(self, event: int, had: set[int]) -> None:
        """A new entity may be set aside only while the shard is full."""
        is_full = len(had) == self._plan.entities_per_shard_max
        is_new = self._topic.script[event] not in had
        self.require(is_new and is_full, f"{self._where(event)} was refused")

    def _let_go(self, shard: int, there: set[int], policy: int) -> None:
        """Rows may be missing only of entities that their next event would restart."""
        book = self.book.write(shard)
        for script in [script for script in book.stands if script not in there]:
            stand = book.stands.pop(script)
            is_over = _is_forgotten(stand, book.clocks[stand.partition][1], policy)
            self.require(is_over, f"shard {shard}: {self._reference.scripts[script].name} is gone")

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


def _is_forgotten(stand: Stand, clock_us: int, policy: int) -> bool:
    """Whether an entity was silent for twice the TTL by the clock of its last partition."""
    ttl_us = POLICIES[policy][0].entity_ttl_s * 1_000_000
    return 0 < 2 * ttl_us < clock_us - stand.clock_us and stand.clock_us > 0


def _fates(scored: ScoredBlock) -> list[tuple[tuple[int, int], int]]:
    """(offset, row) of all events of a block in order, and what became of each."""
    block = scored.block
    events = [(at, SCORED) for at in zip(block.offset.tolist(), block.row.tolist(), strict=True)]
    for reason, fate in ((LATE_EVENT, LATE_ASIDE), (TOO_MANY_ENTITIES, NO_ROOM)):
        if (aside := scored.set_aside.get(reason)) is not None:
            places = zip(aside.offset.tolist(), aside.row.tolist(), strict=True)
            events += [(at, fate) for at in places]
    return sorted(events) if scored.set_aside else events
