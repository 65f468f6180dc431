"""The reckoning of the fault matrix must see what is missing, different or said again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from streamgauge.models.events.decoder import DeadLetter
from system.harness import outcome
from system.harness.results import Row, Table
from system.harness.trial import reckon, settle


def scores(offsets: list[int], values: list[float]) -> pa.Table:
    columns = {
        "partition": pa.array([0] * len(offsets), pa.int32()),
        "offset": pa.array(offsets, pa.int64()),
        "row": pa.array([0] * len(offsets), pa.int32()),
        "score": pa.array(np.array(values, np.float32)),
        "verdict": pa.array(["normal"] * len(offsets)),
    }
    return outcome.plain(pa.table(columns))


def actual(table: pa.Table, letters: dict[str, str]) -> outcome.Outputs:
    dead_letters = [(name, {"reason": reason}, b"x") for name, reason in letters.items()]
    return outcome.Outputs(table, dead_letters, {})


EXPECTED = outcome.Expected(
    scores([1, 2, 3], [0.5, 0.25, 0.125]),
    {"t/0/4/0": DeadLetter(0, 4, 0, "unreadable", "", b"x")},
    [],
)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.chdir(tmp_path)
    return Table()


@pytest.mark.parametrize(
    ("written", "letters", "counts"),
    [
        (scores([1, 2, 3], [0.5, 0.25, 0.125]), {"t/0/4/0": "unreadable"}, (0, 0, 0)),
        (scores([1, 2, 2, 3], [0.5, 0.25, 0.25, 0.125]), {"t/0/4/0": "unreadable"}, (1, 0, 0)),
        (scores([1, 3], [0.5, 0.125]), {"t/0/4/0": "unreadable"}, (0, 1, 0)),
        (scores([1, 2, 2, 3], [0.5, 0.25, 0.3, 0.125]), {"t/0/4/0": "unreadable"}, (1, 0, 1)),
        (scores([1, 2, 3], [0.5, 0.25, 0.125]), {}, (0, 1, 0)),
        (scores([1, 2, 3], [0.5, 0.25, 0.125]), {"t/0/4/0": "bad_entity_id"}, (0, 0, 1)),
    ],
)
def test_repeats_missing_and_differing_are_counted(
    written: pa.Table, letters: dict[str, str], counts: tuple[int, int, int]
) -> None:
    row = Row("none")

    reckon(row, actual(written, letters), EXPECTED)

    assert (row.repeats, row.missing, row.differing) == counts


@pytest.mark.parametrize(
    "row",
    [
        Row("loss", missing=1),
        Row("other bits", differing=1),
        Row("other alerts", alerts_equal=False),
        Row("slow", recovery_s=[31.0], limit_s=30.0),
    ],
)
def test_a_bad_row_fails_and_stays_in_the_table(row: Row, table: Table, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        settle(row, table)

    assert row.verdict != "ok"
    assert row.fault in (tmp_path / "build/faults/table.md").read_text()


def test_a_good_row_is_ok(table: Table) -> None:
    settle(Row("none", recovery_s=[1.0, 3.0], limit_s=30.0, repeats=7), table)

    assert [row.verdict for row in table.rows] == ["ok"]
    assert "| 2.0" in table.lines()[-1]
