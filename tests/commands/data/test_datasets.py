from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.data.datasets import START_US, load

MINUTE_US = 60_000_000


def _write(folder: Path, name: str, **columns: list[float | None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / name)


def _machine(folder: Path) -> Path:
    _write(folder, "b.train.parquet", cpu=[0.1, 0.2], mem=[1.0, None])
    _write(folder, "b.test.parquet", cpu=[0.5, 0.6, 0.7], mem=[1.0, 2.0, 3.0], label=[0, 1, 0])
    _write(folder, "a.train.parquet", cpu=[0.3], mem=[4.0])
    _write(folder, "a.test.parquet", cpu=[0.9], mem=[5.0], label=[1])
    return folder


def _nab(folder: Path, rows: int = 40) -> Path:
    category = folder / "data" / "real"
    category.mkdir(parents=True)
    lines = [f"2014-02-14 00:{minute:02d}:00,{minute}" for minute in range(rows)]
    (category / "cpu.csv").write_text("timestamp,value\n" + "\n".join(lines) + "\n")
    (folder / "labels").mkdir()
    windows = {"real/cpu.csv": [["2014-02-14 00:02:00.000000", "2014-02-14 00:04:00.000000"]]}
    (folder / "labels" / "combined_windows.json").write_text(json.dumps(windows))
    return folder


def test_parquet_parts_have_their_columns_labels_and_entities_in_order(tmp_path: Path) -> None:
    dataset = load(_machine(tmp_path / "set"), "test")
    assert [s.entity_id for s in dataset.series] == ["a", "b"]
    assert dataset.schema.names == ("cpu", "mem")
    assert dataset.name == "set"
    assert dataset.events == 4
    b = dataset.series[1]
    np.testing.assert_array_equal(b.values, np.array([[0.5, 1], [0.6, 2], [0.7, 3]], np.float32))
    assert b.labels is not None
    assert b.labels.tolist() == [0, 1, 0]


def test_the_train_part_is_unlabelled_and_keeps_missing_values(tmp_path: Path) -> None:
    b = load(_machine(tmp_path), "train").series[1]
    assert b.labels is None
    assert np.isnan(b.values[1, 1])


def test_invented_times_of_the_test_part_follow_on_the_train_part(tmp_path: Path) -> None:
    _machine(tmp_path)
    assert load(tmp_path, "train").series[1].event_time_us.tolist() == [
        START_US,
        START_US + MINUTE_US,
    ]
    assert load(tmp_path, "test").series[1].event_time_us.tolist() == [
        START_US + row * MINUTE_US for row in (2, 3, 4)
    ]


def test_service_files_are_five_minutes_apart_by_default(tmp_path: Path) -> None:
    _write(tmp_path, "d2-service00.test.parquet", f00=[1.0, 2.0], label=[0, 0])
    assert load(tmp_path, "test").cadence_us == 5 * MINUTE_US
    assert load(tmp_path, "test", cadence_s=1.5).cadence_us == 1_500_000


def test_nab_test_part_is_the_whole_file_with_inclusive_windows(tmp_path: Path) -> None:
    dataset = load(_nab(tmp_path), "test")
    series = dataset.series[0]
    assert series.entity_id == "real/cpu"
    assert series.event_time_us[:2].tolist() == [1392336000000000, 1392336060000000]
    assert dataset.cadence_us == MINUTE_US
    assert series.labels is not None
    assert np.flatnonzero(series.labels).tolist() == [2, 3, 4]
    assert series.values[:3, 0].tolist() == [0, 1, 2]


def test_nab_train_part_is_the_probation(tmp_path: Path) -> None:
    series = load(_nab(tmp_path, rows=40), "train").series[0]
    assert len(series.event_time_us) == 6  # 15 % of 40
    assert series.labels is None


def test_nab_times_are_sorted_and_may_repeat(tmp_path: Path) -> None:
    _nab(tmp_path)
    (tmp_path / "data" / "real" / "cpu.csv").write_text(
        "timestamp,value\n2014-02-14 00:05:00,1\n2014-02-14 00:00:00,2\n2014-02-14 00:05:00,3\n"
    )
    series = load(tmp_path, "test").series[0]
    assert series.values[:, 0].tolist() == [2, 1, 3]
    assert np.diff(series.event_time_us).tolist() == [5 * MINUTE_US, 0]


def test_the_hash_depends_on_values_only(tmp_path: Path) -> None:
    first = load(_machine(tmp_path / "one"), "test").content_hash
    again = load(_machine(tmp_path / "two"), "test").content_hash
    _write(tmp_path / "two", "a.test.parquet", cpu=[0.9], mem=[5.0001], label=[1])
    assert first == again
    assert first != load(tmp_path / "two", "test").content_hash


def test_an_unknown_folder_is_refused_naming_what_was_expected_and_found(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match=r"<entity>\.test\.parquet .* found notes\.txt"):
        load(tmp_path, "test")
    with pytest.raises(ConfigError, match="it does not exist"):
        load(tmp_path / "absent", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="found an empty folder"):
        load(tmp_path / "empty", "train")


def test_entities_with_other_columns_are_refused(tmp_path: Path) -> None:
    _machine(tmp_path)
    _write(tmp_path, "c.test.parquet", cpu=[0.9], disk=[5.0], label=[1])
    with pytest.raises(
        ConfigError, match=r"c\.test\.parquet.*expected 'mem' at position 1.*'disk'"
    ):
        load(tmp_path, "test")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"cpu": [1e39]}, "row 0 of 'cpu' is infinite"),
        ({"cpu": ["high"]}, "column 'cpu' must hold numbers; it is string"),
        ({"cpu": [1.0], "label": [2]}, "label must be 0 or 1"),
        ({"cpu": []}, "must hold"),
    ],
)
def test_unusable_columns_are_refused_by_name(
    tmp_path: Path, columns: dict[str, list[float | None]], message: str
) -> None:
    _write(tmp_path, "x.test.parquet", **columns)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "test")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.test.parquet").write_bytes(b"hello")
    with pytest.raises(ConfigError, match="must be a Parquet file"):
        load(tmp_path, "test")
