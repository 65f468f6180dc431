"""The one loop over events: compiled, it takes a block's waves through kernel and judge.

It goes on by itself until Python has something to do: before a group with an entity that
must forget first, and behind one with something to tell.

    group        0    1    2    3    4 …
    step_waves   ────────► told      ────────►
    Python                 alert, close
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from streamgauge.models.alerts.decision import AlertRules, judge, may_learn
from streamgauge.models.alerts.policy import WARMING
from streamgauge.models.blocks.block import ERASURE
from streamgauge.models.kernel.buffers import PackedNetwork, Scratch
from streamgauge.models.kernel.step import step_group
from streamgauge.models.simd.compile_cache import cached_njit
from streamgauge.models.simd.matmul import LANES
from streamgauge.models.state.entity_row import Record

SCORED, LATE, LATE_ASIDE = 0, 1, 2


class Events(NamedTuple):
    """A block of N events and what is known of them beforehand."""

    partition: int
    #: (N * F,) float32, and (N,) int64, int64, int32, int64: as in the block.
    features: np.ndarray
    event_time_us: np.ndarray
    offset: np.ndarray
    row: np.ndarray
    #: (N,) int64, the clock of the block's partition at each event.
    clock_us: np.ndarray
    #: (N,) int64, rows of the events' entities in the table; -1 if there is none.
    place: np.ndarray


class Clocks(NamedTuple):
    """How far each partition has come: (P,) int64 both."""

    partition: np.ndarray
    now_us: np.ndarray


class WavePolicy(NamedTuple):
    """The scoring policy; 0 for what is off."""

    warmup_events: int
    ttl_us: int
    sets_late_aside: bool


class Lanes(NamedTuple):
    """The group in hand, (LANES,) each."""

    rows: np.ndarray
    events: np.ndarray
    learn: np.ndarray
    #: Rows of the next group.
    following: np.ndarray
    #: What is told of each, see `models.alerts.policy`, and what its log score had to pass.
    told: np.ndarray
    log_threshold: np.ndarray

    @classmethod
    def new(cls) -> Lanes:
        """For one group at a time."""
        return cls(
            rows=np.zeros(LANES, np.int64),
            events=np.zeros(LANES, np.int64),
            learn=np.zeros(LANES, np.bool_),
            following=np.zeros(LANES, np.int64),
            told=np.zeros(LANES, np.int64),
            log_threshold=np.zeros(LANES),
        )


class Results(NamedTuple):
    """What becomes of N events: float32, float32, uint8, float32; and uint8, `SCORED` and so on."""

    score: np.ndarray
    loss: np.ndarray
    verdict: np.ndarray
    confidence: np.ndarray
    lateness: np.ndarray

    @classmethod
    def of(cls, count: int) -> Results:
        """Before any of `count` events is scored."""
        return cls(
            score=np.full(count, np.nan, np.float32),
            loss=np.full(count, np.nan, np.float32),
            verdict=np.full(count, WARMING, np.uint8),
            confidence=np.zeros(count, np.float32),
            lateness=np.zeros(count, np.uint8),
        )


@cached_njit()
def arrange(code: np.ndarray, place: np.ndarray, entities: int) -> tuple[np.ndarray, np.ndarray]:
    """Put events into waves, each in offset order, and waves into groups of `LANES`.

    Args:
        code: (N,) int, which of the block's entities sent each event.
        place: (N,) int64, below 0 for events to leave out.
        entities: how many there are.

    Returns:
        The events in order (M,), and where groups begin in it, (G + 1,).
    """
    turn = np.zeros(entities, np.int64)
    sizes = np.zeros(len(code) + 1, np.int64)  # by wave
    wave = np.empty(len(code), np.int64)
    for event in range(len(code)):
        if place[event] >= 0:
            wave[event] = turn[code[event]]
            turn[code[event]] += 1
            sizes[wave[event]] += 1
    waves = 0
    while sizes[waves]:
        waves += 1
    begins = np.zeros(waves + 1, np.int64)
    groups = 0
    for w in range(waves):
        begins[w + 1] = begins[w] + sizes[w]
        groups += -(-sizes[w] // LANES)
    starts = np.empty(groups + 1, np.int64)
    group = 0
    for w in range(waves):
        for start in range(begins[w], begins[w + 1], LANES):
            starts[group] = start
            group += 1
    starts[groups] = begins[waves]
    order = np.empty(begins[waves], np.int64)
    for event in range(len(code)):
        if place[event] >= 0:
            order[begins[wave[event]]] = event
            begins[wave[event]] += 1
    return order, starts


@njit
def _clock_of(partition: int, clocks: Clocks) -> int:
    for i in range(len(clocks.partition)):
        if clocks.partition[i] == partition:
            return clocks.now_us[i]
    return 0


@njit
def _is_silent(head: Record, now_us: int, ttl_us: int) -> bool:
    """Whether an entity is silent for twice the TTL by the clock of where it was last seen."""
    return head.clock_us > 0 and now_us - head.clock_us > 2 * ttl_us


@cached_njit()
def are_silent(heads: np.ndarray, clocks: Clocks, ttl_us: int) -> np.ndarray:
    """Which entities (N,) their next event would restart, whenever it comes."""
    silent = np.zeros(len(heads), np.bool_)
    for i in range(len(heads)):
        now_us = _clock_of(heads[i].partition, clocks)
        silent[i] = _is_silent(heads[i], now_us, ttl_us)
    return silent


@cached_njit()
def must_forget(head: Record, event: int, events: Events, clocks: Clocks, ttl_us: int) -> bool:
    """Whether an event comes so late after its entity's last that it starts anew.

    That is one TTL by the entity's own clock; or, as `Scorer.evict` may have dropped it by
    then, twice the TTL by the clock of the partition it was last seen in.
    """
    if not ttl_us or head.event_time_us <= 0:
        return False
    is_here = head.partition == events.partition
    now_us = events.clock_us[event] if is_here else _clock_of(head.partition, clocks)
    is_late = events.event_time_us[event] - head.event_time_us > ttl_us
    return is_late or _is_silent(head, now_us, ttl_us)


@njit(error_model="numpy", inline="always")
def _admit(
    heads: np.ndarray,
    group: np.ndarray,
    events: Events,
    policy: WavePolicy,
    lanes: Lanes,
    results: Results,
) -> int:
    """Put the events of a group into lanes; returns how many there are."""
    count = 0
    for event in group:
        row = events.place[event]
        if row < 0:
            continue
        head = heads[row]
        if events.event_time_us[event] < head.event_time_us:
            results.lateness[event] = LATE_ASIDE if policy.sets_late_aside else LATE
            if policy.sets_late_aside:
                continue
        warming = head.event_count < policy.warmup_events
        lanes.rows[count], lanes.events[count] = row, event
        lanes.learn[count] = may_learn(head, warming)
        own = np.float32(head.event_count) / np.float32(max(policy.warmup_events, 1))
        results.confidence[event] = min(own, np.float32(1.0)) if warming else np.float32(1.0)
        count += 1
    return count


@njit(inline="always")
def _look_ahead(order: np.ndarray, first: int, place: np.ndarray, following: np.ndarray) -> None:
    """Note the rows of the group whose events begin at `first`."""
    for lane in range(LANES):
        following[lane] = place[order[min(first + lane, len(order) - 1)]]


@njit(error_model="numpy", inline="always")
def _judge_lane(
    head: Record,
    lane: int,
    events: Events,
    policy: WavePolicy,
    rules: AlertRules,
    scratch: Scratch,
    lanes: Lanes,
    results: Results,
) -> bool:
    """Judge a scored event and write both down; returns whether something is told of it."""
    event, score, change = lanes.events[lane], scratch.score[lane], scratch.change[lane]
    time_us, warming = events.event_time_us[event], head.event_count <= policy.warmup_events
    verdict, told, log_threshold = judge(head, score, change, warming, time_us, rules)
    if told & 1:
        head.alert_partition, head.alert_offset = events.partition, events.offset[event]
        head.alert_row, head.alert_time_us = events.row[event], time_us
    head.event_time_us = max(head.event_time_us, time_us)
    head.clock_us, head.partition = events.clock_us[event], events.partition
    lanes.told[lane], lanes.log_threshold[lane] = told, log_threshold
    results.score[event], results.loss[event] = score, scratch.loss[lane]
    results.verdict[event] = verdict
    return told != 0


@cached_njit(error_model="numpy")
def step_waves(
    first: int,
    starts: np.ndarray,
    order: np.ndarray,
    heads: np.ndarray,
    floats: np.ndarray,
    events: Events,
    clocks: Clocks,
    policy: WavePolicy,
    rules: AlertRules,
    network: PackedNetwork,
    scratch: Scratch,
    lanes: Lanes,
    results: Results,
) -> tuple[int, int]:
    """Score the groups from `first` on, until Python has something to do.

    Returns:
        The group to resume with, and how many lanes of the group before it hold an alert action.
        0 lanes: the entities of that group that have expired must be forgotten first, or all
        groups are done.
    """
    width = len(floats) // len(heads)
    for number in range(first, len(starts) - 1):
        group = order[starts[number] : starts[number + 1]]
        for event in group:
            row = events.place[event]
            if row >= 0 and (
                events.row[event] == ERASURE
                or must_forget(heads[row], event, events, clocks, policy.ttl_us)
            ):
                return number, 0
        _look_ahead(order, starts[number + 1], events.place, lanes.following)
        count = _admit(heads, group, events, policy, lanes, results)
        x, times = events.features, events.event_time_us
        step_group(
            heads, floats, x, times, lanes.rows, lanes.events, lanes.learn,
            lanes.following, count, width, network, scratch,
        )  # fmt: skip
        is_told = False
        for lane in range(count):
            head = heads[lanes.rows[lane]]
            if _judge_lane(head, lane, events, policy, rules, scratch, lanes, results):
                is_told = True
        if is_told:
            return number + 1, count
    return len(starts) - 1, 0


@cached_njit(error_model="numpy")
def score_rows(
    heads: np.ndarray,
    floats: np.ndarray,
    x: np.ndarray,
    event_time_us: np.ndarray,
    learn: np.ndarray,
    network: PackedNetwork,
    scratch: Scratch,
    lanes: Lanes,
    results: Results,
    change: np.ndarray,
    parts: np.ndarray,
    expected: np.ndarray,
    residuals: np.ndarray,
) -> None:
    """Score one event of each of N rows; the results of event i belong to row i."""
    width, size = len(floats) // len(heads), len(x) // len(heads)
    for start in range(0, len(heads), LANES):
        count = min(LANES, len(heads) - start)
        for lane in range(count):
            lanes.rows[lane] = lanes.events[lane] = start + lane
            lanes.learn[lane] = learn[start + lane]
            lanes.following[lane] = min(start + lane + LANES, len(heads) - 1)
        step_group(
            heads, floats, x, event_time_us, lanes.rows, lanes.events, lanes.learn,
            lanes.following, count, width, network, scratch,
        )  # fmt: skip
        here = slice(start, start + count)
        results.score[here] = scratch.score[:count]
        results.loss[here] = scratch.loss[:count]
        change[here] = scratch.change[:count]
        place, end = start * size, (start + count) * size
        parts[place:end] = scratch.part[: count * size]
        expected[place:end] = scratch.expected[: count * size]
        residuals[2 * place : 2 * end] = scratch.residuals[: 2 * count * size]
