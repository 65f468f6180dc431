"""The clock of a partition: independent of blocks, and no single entity can move it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgauge.models.blocks.event_clock import PartitionClock

EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 30)), min_size=1, max_size=30)


def advance(clock, events):
    names = sorted({name for name, _ in events})
    codes = np.array([names.index(name) for name, _ in events])
    times = np.array([time for _, time in events], np.int64)
    return clock.advance(times, names, codes).tolist()


def one_by_one(events):
    """The second highest of the entities' latest times, by definition."""
    latest, clocks = {}, []
    for name, time in events:
        latest[name] = max(time, latest.get(name, 0))
        clocks.append(sorted(latest.values())[-2] if len(latest) > 1 else 0)
    return clocks


@given(EVENTS, st.integers(0, 30))
@settings(max_examples=500, deadline=None)
def test_it_is_the_second_highest_time_however_the_log_is_cut(events, cut):
    clock = PartitionClock()
    parts = [part for part in (events[:cut], events[cut:]) if part]
    assert [now for part in parts for now in advance(clock, part)] == one_by_one(events)


def test_one_entity_alone_cannot_move_it():
    clock = PartitionClock()
    advance(clock, [("a", 10), ("b", 11)])
    assert advance(clock, [("liar", 10**15), ("a", 12), ("liar", 10**16), ("b", 13)])[-1] == 13
