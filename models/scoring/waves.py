"""The loop over the events of a block: compiled, it runs waves through kernel and alert decision.

It runs until Python has something to do: before a group with an entity whose state expired,
and after a group with an alert action.

    group        0    1    2    3    4 …
    step_waves   ────────► action    ────────►
    Python                 transition, close
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamgauge.models.alerts.decision import AlertRules, EventAddress, decide, may_learn
from streamgauge.models.blocks.block import ERASURE
from streamgauge.models.blocks.scored_block import WARMING
from streamgauge.models.kernel.buffers import EventGroup, PackedNetwork, Scratch
from streamgauge.models.kernel.step import step_group
from streamgauge.models.simd.compile_cache import cached_njit
from streamgauge.models.simd.matmul import LANES
from streamgauge.models.state.entity_row import Record

#: Codes of `EventResults.lateness`.
ON_TIME, LATE_SCORED, LATE_SET_ASIDE = 0, 1, 2


class BlockEvents(NamedTuple):
    """The N events of a block, their clocks and their entities."""

    partition: int
    #: (N * F,) float32, and (N,) int64, int64, int32: as in the block.
    features: NDArray[Any]
    event_time_us: NDArray[Any]
    offset: NDArray[Any]
    row: NDArray[Any]
    #: (N,) int64, the clock of the block's partition at each event.
    clock_us: NDArray[Any]
    #: (N,) int64, row of each event's entity in the table; -1 if it has none.
    table_row: NDArray[Any]


class Clocks(NamedTuple):
    """The clock of each partition: (P,) int64 both."""

    partition: NDArray[Any]
    now_us: NDArray[Any]


class WavePolicy(NamedTuple):
    """The scoring policy for compiled code."""

    warmup_events: int
    #: 0 = entities never expire.
    ttl_us: int
    sets_late_aside: bool


class Decisions(NamedTuple):
    """What was decided of a group; arrays (LANES,)."""

    #: int64, `AlertAction`.
    action: NDArray[Any]
    #: float64, threshold that the log score had to exceed for a message.
    threshold: NDArray[Any]

    @classmethod
    def new(cls) -> Decisions:
        """Allocate the decisions of one group."""
        return cls(action=np.zeros(LANES, np.int64), threshold=np.zeros(LANES))


class EventResults(NamedTuple):
    """The results of N events: float32, float32, uint8, float32, uint8."""

    score: NDArray[Any]
    loss: NDArray[Any]
    verdict: NDArray[Any]
    confidence: NDArray[Any]
    #: `ON_TIME`, `LATE_SCORED` or `LATE_SET_ASIDE`.
    lateness: NDArray[Any]

    @classmethod
    def of(cls, count: int) -> EventResults:
        """Return the results of `count` events before any of them is scored."""
        return cls(
            score=np.full(count, np.nan, np.float32),
            loss=np.full(count, np.nan, np.float32),
            verdict=np.full(count, WARMING, np.uint8),
            confidence=np.zeros(count, np.float32),
            lateness=np.zeros(count, np.uint8),
        )


@cached_njit()
def arrange(
    code: NDArray[Any], table_row: NDArray[Any], entities: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Put events into waves, each in offset order, and waves into groups of `LANES`.

    Args:
        code: (N,) int, index of each event's entity among the entities of the block.
        table_row: (N,) int64, below 0 for events to leave out.
        entities: number of entities of the block.

    Returns:
        The events in order (M,), and where each group begins in it, (G + 1,).
    """
    turn = np.zeros(entities, np.int64)
    sizes = np.zeros(len(code) + 1, np.int64)  # by wave
    wave = np.empty(len(code), np.int64)
    for event in range(len(code)):
        if table_row[event] >= 0:
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
        if table_row[event] >= 0:
            order[begins[wave[event]]] = event
            begins[wave[event]] += 1
    return order, starts


@njit
def _clock_of(partition: int, clocks: Clocks) -> int:
    for i in range(len(clocks.partition)):
        if clocks.partition[i] == partition:
            return int(clocks.now_us[i])
    return 0


@njit
def _is_silent(head: Record, now_us: int, ttl_us: int) -> bool:
    """Return whether an entity is silent for twice the TTL by the clock of its last partition."""
    return bool(head.clock_us > 0 and now_us - head.clock_us > 2 * ttl_us)


@cached_njit()
def are_silent(heads: NDArray[Any], clocks: Clocks, ttl_us: int) -> NDArray[Any]:
    """Return which entities (N,) their next event would restart, whatever its event time."""
    silent = np.zeros(len(heads), np.bool_)
    for i in range(len(heads)):
        now_us = _clock_of(heads[i].partition, clocks)
        silent[i] = _is_silent(heads[i], now_us, ttl_us)
    return silent


@cached_njit()
def is_expired(head: Record, event: int, events: BlockEvents, clocks: Clocks, ttl_us: int) -> bool:
    """Return whether the state of an event's entity has expired at the event.

    It expires one TTL after the latest event of the entity, by event time. It also expires if
    the entity is silent for twice the TTL by the clock of the partition of its last event:
    `Scorer.evict` may have dropped such an entity.
    """
    if not ttl_us or head.event_time_us <= 0:
        return False
    is_same_partition = head.partition == events.partition
    now_us = events.clock_us[event] if is_same_partition else _clock_of(head.partition, clocks)
    is_after_ttl = events.event_time_us[event] - head.event_time_us > ttl_us
    return bool(is_after_ttl or _is_silent(head, now_us, ttl_us))


@njit(error_model="numpy", inline="always")
def _admit(
    heads: NDArray[Any],
    indices: NDArray[Any],
    events: BlockEvents,
    policy: WavePolicy,
    group: EventGroup,
    results: EventResults,
) -> int:
    """Put the events at `indices` into the lanes of `group`; returns the number of lanes used."""
    count = 0
    for event in indices:
        row = events.table_row[event]
        if row < 0:
            continue
        head = heads[row]
        if events.event_time_us[event] < head.event_time_us:
            results.lateness[event] = LATE_SET_ASIDE if policy.sets_late_aside else LATE_SCORED
            if policy.sets_late_aside:
                continue
        is_warming = head.event_count < policy.warmup_events
        group.rows[count], group.events[count] = row, event
        group.learn[count] = may_learn(head, is_warming)
        share = np.float32(head.event_count) / np.float32(max(policy.warmup_events, 1))
        confidence = min(share, np.float32(1.0)) if is_warming else np.float32(1.0)
        results.confidence[event] = confidence
        count += 1
    return count


@njit(inline="always")
def _look_ahead(
    order: NDArray[Any], first: int, table_row: NDArray[Any], next_rows: NDArray[Any]
) -> None:
    """Write the rows of the group whose events begin at `first`."""
    for lane in range(LANES):
        next_rows[lane] = table_row[order[min(first + lane, len(order) - 1)]]


@njit(error_model="numpy", inline="always")
def _decide_lane(
    heads: NDArray[Any],
    lane: int,
    events: BlockEvents,
    policy: WavePolicy,
    rules: AlertRules,
    scratch: Scratch,
    group: EventGroup,
    decisions: Decisions,
    results: EventResults,
) -> bool:
    """Decide on a scored event and write its results; returns whether it has an alert action."""
    head, event = heads[group.rows[lane]], group.events[lane]
    score, change = scratch.score[lane], scratch.change[lane]
    time_us, is_warming = events.event_time_us[event], head.event_count <= policy.warmup_events
    address = EventAddress(events.partition, events.offset[event], events.row[event], time_us)
    verdict, action, threshold = decide(head, score, change, is_warming, address, rules)
    head.event_time_us = max(head.event_time_us, time_us)
    head.clock_us, head.partition = events.clock_us[event], events.partition
    decisions.action[lane], decisions.threshold[lane] = action, threshold
    results.score[event], results.loss[event] = score, scratch.loss[lane]
    results.verdict[event] = verdict
    return bool(action != 0)


@cached_njit(error_model="numpy")
def step_waves(
    first: int,
    starts: NDArray[Any],
    order: NDArray[Any],
    heads: NDArray[Any],
    floats: NDArray[Any],
    events: BlockEvents,
    clocks: Clocks,
    policy: WavePolicy,
    rules: AlertRules,
    network: PackedNetwork,
    scratch: Scratch,
    group: EventGroup,
    decisions: Decisions,
    results: EventResults,
) -> tuple[int, int]:
    """Score the groups from `first` on, until Python has something to do.

    Returns:
        The next group, and the number of lanes of the group before it if that group holds an
        alert action. 0 lanes: an entity of the next group must be erased or restarted first, or
        there is no next group.
    """
    width = len(floats) // len(heads)
    x, times = events.features, events.event_time_us
    for number in range(first, len(starts) - 1):
        indices = order[starts[number] : starts[number + 1]]
        for event in indices:
            row = events.table_row[event]
            if row >= 0 and (
                events.row[event] == ERASURE
                or is_expired(heads[row], event, events, clocks, policy.ttl_us)
            ):
                return number, 0
        _look_ahead(order, starts[number + 1], events.table_row, group.next_rows)
        count = _admit(heads, indices, events, policy, group, results)
        step_group(heads, floats, x, times, group, count, width, network, scratch)
        has_action = False
        for lane in range(count):
            if _decide_lane(heads, lane, events, policy, rules, scratch, group, decisions, results):
                has_action = True
        if has_action:
            return number + 1, count
    return len(starts) - 1, 0
