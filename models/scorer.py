"""Scores blocks against entity tables: waves over repeated entities, tiles of one shape.

An entity's events must advance its state one after the other, so a block is stepped in
waves: first events of all its entities, then second events, and so on. Every wave is
fed to the kernel in tiles of a few fixed sizes; short tiles are padded with rows that are
never written back. So an entity's bits do not depend on who shares its block.

    block     a b a c a b
    wave 0    a b . c        ──► tiles of 16, 64 or 256 rows
    wave 1        a   b
    wave 2            a
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import msgspec
import numpy as np

from models import alerting
from models.alerting import EVENT, WARMING, AlertPolicy, Ruling
from models.artifact import Artifact
from models.block import ERASURE, Block
from models.clock import PartitionClock
from models.errors import ConfigError
from models.judge import Judge
from models.kernel import TILES
from models.scored import ScoredBlock, Transition
from models.sequence import SequenceKernel
from models.table import EntityTable, Layout, raw
from models.tiles import SEQUENCE_EVENTS_MIN, sequences, tile_size, tiles, waves
from models.transitions import Teller

LATE_POLICIES = ("score", "set_aside")

# Reasons for setting an event aside, constant because dead letters carry them.
LATE = "late_event"
TOO_MANY_ENTITIES = "too_many_entities"

# Events of one entity in one call. What lies behind a surprise was scored in vain, so calls
# are short at first, and twice as long after each that was not. An entity that is surprised
# every 130 events takes 28,000 events/s, one that never is 41,000; with 256 at most, 24,000
# and 43,000.
SEQUENCE_EVENTS_FIRST, SEQUENCE_EVENTS_MAX = 16, 64


@dataclass(frozen=True, slots=True)
class ScoringPolicy:
    """What the scorer does where the model has no opinion."""

    #: An event older than its entity's last one: "score" it in offset order, or "set_aside".
    late: str = "score"
    #: Most entities a shard keeps; 0 for no limit. Past it new entities are set aside.
    entities_per_shard_max: int = 100_000
    #: Entities without an event for this long, in event time, start anew; 0 = never.
    entity_ttl_s: int = 0
    #: Events before an entity's verdicts count; None takes the artifact's washout length.
    warmup_events: int | None = None

    def __post_init__(self) -> None:
        if self.late not in LATE_POLICIES:
            raise ConfigError(f"scoring: late must be one of {LATE_POLICIES}; got {self.late!r}")
        for name in ("entities_per_shard_max", "entity_ttl_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"scoring: {name} must be >= 0; got {getattr(self, name)}")


class Scorer:
    """Steps entity tables through blocks with one artifact and one policy."""

    def __init__(self, artifact: Artifact, policy: ScoringPolicy, alerts: AlertPolicy) -> None:
        self._artifact = artifact
        self._forecaster = artifact.forecaster
        self._policy = policy
        #: The policies in force, as bytes; equal bytes, equal policies.
        self.policies = _policy_bytes(policy, alerts)
        self._judge = Judge(alerts, artifact.calibration, artifact.thresholds)
        self._teller = Teller(artifact, self._judge)
        self._warmup = (
            artifact.washout_events if policy.warmup_events is None else policy.warmup_events
        )
        fields = (*artifact.forecaster.fields, *alerting.FIELDS)
        self.layout = Layout.of(fields, artifact.schema.fingerprint(), artifact.digest)
        self._tile = np.zeros(TILES[-1], self.layout.dtype)
        self._x = np.zeros((TILES[-1], artifact.schema.size), np.float32)
        self._event = np.zeros(TILES[-1], EVENT)

    def under(self, policies: bytes) -> Scorer:
        """This scorer under the policies that `policies` of another one held."""
        if policies == self.policies:
            return self
        scoring, alerts = msgspec.json.decode(policies, type=tuple[ScoringPolicy, AlertPolicy])
        return Scorer(self._artifact, scoring, alerts)

    def step(self, table: EntityTable, block: Block) -> ScoredBlock:
        """Score `block` and advance `table` in place."""
        if block.jumps:
            self._follow_jump(table, block)
        if not len(block):
            return self._finish(_Run(block, np.empty(0, np.int64), np.empty(0, np.int64)))
        names, codes = block.entities()
        clock = table.clocks.setdefault(block.partition, PartitionClock())
        clock_us = clock.advance(block.event_time_us, names, codes)
        run = _Run(block, self._places(table, names)[codes], clock_us)
        place = run.place
        run.set_aside(TOO_MANY_ENTITIES, np.flatnonzero((place < 0) & (block.row != ERASURE)))
        shallow = np.flatnonzero(place >= 0)
        deep: list[np.ndarray] = []
        if self._forecaster.sequence is not None:
            shallow, deep = sequences(place, shallow)
        for events in waves(place, shallow):
            for tile in tiles(events):
                self._step_tile(table, run, tile)
        for events in deep:
            self._step_sequence(table, run, events)
        return self._finish(run)

    @staticmethod
    def _follow_jump(table: EntityTable, block: Block) -> None:
        """Let a partition's entities warm up again if events were lost since its last block."""
        clock = table.clocks.setdefault(block.partition, PartitionClock())
        if block.jumps > clock.jumps:
            clock.jumps = block.jumps
            rows = table.rows[: len(table)]
            from_here = rows["partition"] == block.partition
            rows["seen"][from_here] = np.minimum(rows["seen"][from_here], 1)

    def evict(self, table: EntityTable) -> None:
        """Drop entities that were erased or that their next event would restart.

        A snapshot must follow. When a row leaves the table makes no difference to any score.
        """
        rows = table.rows[: len(table)]
        is_gone = rows["event_time_us"] == 0
        if self._policy.entity_ttl_s:
            is_gone |= self._is_forgotten(rows, table.clocks_of(rows))
        if is_gone.any():
            table.retain(np.flatnonzero(~is_gone))

    def _is_forgotten(self, rows: np.ndarray, clock_us: np.ndarray) -> np.ndarray:
        """Which of `rows` (B,) were silent for twice the TTL by the clock of their partition."""
        silent_us = clock_us - rows["clock_us"]
        return (silent_us > 2 * self._policy.entity_ttl_s * 1_000_000) & (rows["clock_us"] > 0)

    def _places(self, table: EntityTable, names: list[str]) -> np.ndarray:
        """Rows of `names`, admitting new entities while the shard has room."""
        places = table.find(names)
        new = np.flatnonzero(places < 0)
        limit = self._policy.entities_per_shard_max
        if limit:
            new = new[: max(0, limit - len(table))]
        if len(new):
            admitted = [names[i] for i in new.tolist()]
            places[new] = table.add(admitted)
            self._fill_new(table.rows[places[new[0]] : len(table)], admitted)
        return places

    def _fill_new(self, rows: np.ndarray, names: list[str]) -> None:
        """Write the state of the entities `names` before their first event into zeroed rows."""
        self._forecaster.fill_new(rows, names)
        self._judge.fill_new(rows)

    def _step_tile(self, table: EntityTable, run: _Run, events: np.ndarray) -> None:
        """One kernel call for events (b,) of different entities, at most the largest tile."""
        block = run.block
        if run.erasures.size:
            events = self._erase(table, run, events)
            if not len(events):
                return
        at = run.place[events]
        expired = self._expired(table, run, events)
        late = (block.event_time_us[events] < table.rows["event_time_us"][at]) & ~expired
        if late.any():
            run.late += int(late.sum())
            if self._policy.late == "set_aside":
                run.set_aside(LATE, events[late])
                events, at, expired = events[~late], at[~late], expired[~late]
                if not len(events):
                    return
        b = len(events)
        size = tile_size(b)
        rows, x, event = self._tile[:size], self._x[:size], self._event[:size]
        raw(rows)[:b] = raw(table.rows)[at]
        x[:b] = block.features[events]
        event["partition"] = block.partition
        event["offset"][:b] = block.offset[events]
        event["row"][:b] = block.row[events]
        event["event_time_us"][:b] = block.event_time_us[events]
        if expired.any():
            self._restart(rows[:b], expired, [table.entity_ids[i] for i in at.tolist()])
        warming = rows["seen"] < self._warmup
        confidence = self._confidence(rows["seen"][:b])
        learn = self._judge.may_learn(rows, warming)
        result = self._forecaster.step(x, rows, event["event_time_us"], learn)
        rows, event, score = rows[:b], event[:b], result.score[:b]  # without the padding
        ruling = self._judge.judge(rows, score, result.change[:b], warming[:b], event)
        rows["event_time_us"] = np.maximum(rows["event_time_us"], event["event_time_us"])
        rows["clock_us"] = run.clock_us[events]
        rows["partition"] = block.partition
        for i in np.flatnonzero(ruling.told).tolist():
            told = self._teller.tell(block, int(events[i]), rows[i], result, ruling, i)
            run.transitions.append(told)
        self._settle(rows, ruling)
        raw(table.rows)[at] = raw(rows)
        run.score[events], run.loss[events] = score, result.loss[:b]
        run.verdict[events] = ruling.verdict
        run.confidence[events] = confidence

    def _settle(self, rows: np.ndarray, ruling: Ruling) -> None:
        """Clear alerts that closed; where a level is the new normal, start anew there."""
        alerting.close(rows, ruling.closed)
        if (renewed := ruling.renewed).any():
            alerting.renew(rows, renewed)
            self._forecaster.start_anew(rows, renewed)

    def _step_sequence(self, table: EntityTable, run: _Run, events: np.ndarray) -> None:
        """Step one entity through its `events` (m,), most of them in long calls."""
        stride = SEQUENCE_EVENTS_FIRST
        while len(events):
            part = events[:stride]
            row = table.rows[run.place[part[0]]][None].copy()
            plain = self._plain(row, run, part)
            if plain < SEQUENCE_EVENTS_MIN:  # one by one up to the next stretch
                self._step_tile(table, run, events[:1])
                events = events[1:]
                continue
            count = self._step_plain(table, run, part[:plain], row)
            events = events[count:]
            is_through = count == len(part)
            stride = min(2 * stride, SEQUENCE_EVENTS_MAX) if is_through else SEQUENCE_EVENTS_FIRST

    def _plain(self, row: np.ndarray, run: _Run, events: np.ndarray) -> int:
        """How many of `events` (m,) of the entity of `row` in succession hold no surprise.

        No missing value, no erasure, no event to set aside, and none that lets it start anew.
        """
        block = run.block
        if not SequenceKernel.takes(row) or row["partition"][0] != block.partition:
            return 0
        time_us, clock_us = block.event_time_us[events], run.clock_us[events]
        before = np.maximum.accumulate(np.concatenate([row["event_time_us"], time_us]))[:-1]
        odd = np.isnan(block.features[events]).any(axis=1) | (block.row[events] == ERASURE)
        if self._policy.late == "set_aside":
            odd |= time_us < before
        if ttl_us := self._policy.entity_ttl_s * 1_000_000:
            heard = np.concatenate([row["clock_us"], clock_us])[:-1]
            odd |= time_us - before > ttl_us
            odd |= (clock_us - heard > 2 * ttl_us) & (heard > 0)
        return int(np.argmax(odd)) if odd.any() else len(events)

    def _step_plain(
        self, table: EntityTable, run: _Run, events: np.ndarray, row: np.ndarray
    ) -> int:
        """Step plain `events` up to where there is something to say, or learning stops or begins.

        Returns:
            How many were stepped.
        """
        block, saved, kernel = run.block, row.copy(), self._forecaster.sequence
        assert kernel is not None
        x, time_us = block.features[events], block.event_time_us[events]
        seen = row["seen"][0] + np.arange(len(events))
        warming = seen < self._warmup
        learn = bool(self._judge.may_learn(row, warming[:1])[0])
        result = kernel.step(x, row, time_us, learn)
        ruling = self._judge.judge_sequence(row, result.score, result.change, warming, time_us)
        count = len(ruling.verdict)
        if count < len(events):
            judged, row = row, saved
            events, time_us = events[:count], time_us[:count]
            result = kernel.step(x[:count], row, time_us, learn)
            for name, *_ in alerting.FIELDS:
                row[name] = judged[name]
        last = int(events[-1])
        before = np.maximum.accumulate(np.concatenate([row["event_time_us"], time_us]))
        run.late += int((time_us < before[:-1]).sum())
        row["event_time_us"], row["clock_us"] = before[-1], run.clock_us[last]
        if ruling.opened[-1]:
            row["episode_partition"], row["episode_offset"] = block.partition, block.offset[last]
            row["episode_row"], row["episode_time_us"] = block.row[last], time_us[-1]
        if ruling.told[-1]:
            told = self._teller.tell(block, last, row[0], result, ruling, count - 1)
            run.transitions.append(told)
        self._settle(row, ruling.last)
        table.rows[run.place[last]] = row[0]
        run.score[events], run.loss[events] = result.score, result.loss
        run.verdict[events] = ruling.verdict
        run.confidence[events] = self._confidence(seen[:count])
        return count

    def _confidence(self, seen: np.ndarray) -> np.ndarray:
        """How much a score is the entity's own, given the events (B,) seen before it."""
        share = seen.astype(np.float32) / np.float32(max(self._warmup, 1))
        return np.minimum(share, np.float32(1.0)) if self._warmup else np.ones_like(share)

    def _erase(self, table: EntityTable, run: _Run, events: np.ndarray) -> np.ndarray:
        """Let the entities of erasures among `events` (b,) forget; returns the other events."""
        marks = run.block.row[events] == ERASURE
        at = run.place[events[marks]]
        if len(at):
            fresh, names = np.zeros(len(at), self.layout.dtype), [table.entity_ids[i] for i in at]
            self._fill_new(fresh, names)
            table.rows[at] = fresh
            table.unname(names)
        return events[~marks]

    def _expired(self, table: EntityTable, run: _Run, events: np.ndarray) -> np.ndarray:
        """Which of `events` (b,) come so late after their entity's last that it starts anew.

        That is one TTL by the entity's own clock; or, as `evict` may have dropped it by
        then, twice the TTL by the clock of its partition.
        """
        if not self._policy.entity_ttl_s:
            return np.zeros(len(events), bool)
        block, rows = run.block, table.rows[run.place[events]]
        idle_us = block.event_time_us[events] - rows["event_time_us"]
        is_here = rows["partition"] == block.partition
        clock_us = np.where(is_here, run.clock_us[events], table.clocks_of(rows))
        expired = idle_us > self._policy.entity_ttl_s * 1_000_000
        return (expired | self._is_forgotten(rows, clock_us)) & (rows["event_time_us"] > 0)

    def _restart(self, rows: np.ndarray, expired: np.ndarray, names: list[str]) -> None:
        """Let those of `rows` (b,) of the entities `names` forget where `expired` (b,) says so."""
        fresh = np.zeros(int(expired.sum()), self.layout.dtype)
        again = [name for name, is_over in zip(names, expired.tolist(), strict=True) if is_over]
        self._fill_new(fresh, again)
        rows[expired] = fresh

    def _finish(self, run: _Run) -> ScoredBlock:
        block = run.block
        aside = {
            reason: block.take(np.sort(np.concatenate(events)), block.previous_end)
            for reason, events in run.aside.items()
        }
        score, verdict, loss, confidence = run.score, run.verdict, run.loss, run.confidence
        if aside or run.erasures.size:
            parts = [events for parts in run.aside.values() for events in parts]
            left_out = np.concatenate([run.erasures, *parts])
            kept = np.setdiff1d(np.arange(len(block)), left_out)
            block = block.take(kept, block.previous_end)
            score, verdict, loss = score[kept], verdict[kept], loss[kept]
            confidence = confidence[kept]
        run.transitions.sort(key=lambda t: (t.offset, t.row))
        once_in = self._artifact.calibration.once_in(score)
        erased = len(run.erasures)
        told = (score, once_in, verdict, confidence, loss)
        return ScoredBlock(block, *told, run.transitions, aside, run.late, erased)


class _Run:
    """What one block's step gathers on its way through the tiles."""

    def __init__(self, block: Block, place: np.ndarray, clock_us: np.ndarray) -> None:
        self.block = block
        #: (N,) int64, the clock of the block's partition at each event.
        self.clock_us = clock_us
        #: Places of what is no event but an erasure.
        self.erasures = np.flatnonzero(block.row == ERASURE)
        #: (N,) row of each event's entity in the table; -1 if it has none.
        self.place = place
        self.score = np.full(len(block), np.nan, np.float32)
        self.loss = np.full(len(block), np.nan, np.float32)
        self.verdict = np.full(len(block), WARMING, np.uint8)
        self.confidence = np.zeros(len(block), np.float32)
        self.transitions: list[Transition] = []
        self.aside: dict[str, list[np.ndarray]] = {}
        self.late = 0

    def set_aside(self, reason: str, events: np.ndarray) -> None:
        if len(events):
            self.aside.setdefault(reason, []).append(events)


def _policy_bytes(scoring: ScoringPolicy, alerts: AlertPolicy) -> bytes:
    """Both policies as JSON, without what a configuration may have added to them."""
    pair = [
        {f.name: getattr(policy, f.name) for f in fields(base)}
        for policy, base in ((scoring, ScoringPolicy), (alerts, AlertPolicy))
    ]
    return msgspec.json.encode(pair, order="sorted")
