"""A backtest says which event times it read."""

import pyarrow as pa

from streamgauge.pipeline.replay.backtest import event_time_range

FIRST_US = 1_704_067_200_000_000  # 2024-01-01T00:00:00Z


def test_the_first_and_last_event_time_are_named_in_any_order() -> None:
    scores = pa.table({"event_time_us": [FIRST_US + 90_000_000, FIRST_US, FIRST_US + 1]})
    line = event_time_range(scores)
    assert line == "event times from 2024-01-01T00:00:00Z to 2024-01-01T00:01:30Z"


def test_a_range_without_a_scored_event_is_named() -> None:
    scores = pa.table({"event_time_us": pa.array([], pa.int64())})
    assert event_time_range(scores) == "no event was scored"
