"""The comparison on which the system tests rest must see a single bit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from system.harness import outcome


def scores(offsets: list[int], values: list[float]) -> pa.Table:
    """A table of scores, in log order."""
    columns = {
        "partition": pa.array([0] * len(offsets), pa.int32()),
        "offset": pa.array(offsets, pa.int64()),
        "row": pa.array([0] * len(offsets), pa.int32()),
        "score": pa.array(np.array(values, np.float32)),
        "verdict": pa.array(["normal"] * len(offsets)),
    }
    return outcome.plain(pa.table(columns))


def test_one_other_bit_is_a_difference_and_a_nan_is_none() -> None:
    expected = scores([1, 2, 3], [0.5, 0.25, np.nan])
    last_bit = float(np.nextafter(np.float32(0.25), np.float32(1)))

    assert outcome.differing(expected, expected) == 0
    assert outcome.differing(scores([1, 2, 3], [0.5, last_bit, np.nan]), expected) == 1
    assert outcome.differing(scores([1, 2, 2], [0.5, 0.25, last_bit]), expected) == 1


def test_an_event_that_is_not_expected_is_refused() -> None:
    with pytest.raises(AssertionError, match="no other event"):
        outcome.differing(scores([4], [0.5]), scores([1], [0.5]))


def test_repeats_are_removed_by_event() -> None:
    kept = outcome.without_repeats(scores([1, 1, 2, 2, 2], [0.5] * 5))

    assert outcome.events_of(kept) == [(0, 1, 0), (0, 2, 0)]
