"""Training data as people and their tools write it: taken for what it is, or refused by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.data.datasets import START_US, load

CASES = Path(__file__).parents[2] / "cases"
JAN_1 = 1_704_067_200  # 2024-01-01T00:00:00Z
US = 1_000_000


def write(folder: Path, table: pa.Table, name: str = "web-1.train.parquet") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name)
    return folder


def from_pandas(columns: dict[str, object], index: list[object]) -> pa.Table:
    """A table with the metadata that pandas writes."""
    metadata = {b"pandas": json.dumps({"index_columns": index}).encode()}
    return pa.table(columns).replace_schema_metadata(metadata)


# --- case 11: the index of a data frame


def test_the_index_of_a_data_frame_is_no_feature() -> None:
    dataset = load(CASES / "11-pandas-index-becomes-a-feature", "train")
    assert dataset.schema.names == ("cpu", "mem")


@pytest.mark.parametrize(
    "table",
    [
        from_pandas({"row": [3, 5], "cpu": [0.1, 0.2]}, ["row"]),
        from_pandas({"cpu": [0.1, 0.2], "site": ["a", "b"], "n": [1, 2]}, ["site", "n"]),
        from_pandas({"cpu": [0.1, 0.2]}, [{"kind": "range", "start": 0, "stop": 2, "step": 1}]),
        pa.table({"cpu": [0.1, 0.2], "__index_level_0__": [0, 1], "__index_level_1__": ["a", "b"]}),
    ],
)
def test_an_index_of_any_kind_is_no_feature(tmp_path: Path, table: pa.Table) -> None:
    dataset = load(write(tmp_path, table), "train")
    assert dataset.schema.names == ("cpu",)
    assert dataset.series[0].event_time_us[0] == START_US


def test_metadata_that_nobody_can_read_do_no_harm(tmp_path: Path) -> None:
    for text in (b"{", b"[]", b'{"index_columns": 7}', b"\xff"):
        table = pa.table({"cpu": [0.1]}).replace_schema_metadata({b"pandas": text})
        assert load(write(tmp_path, table), "train").schema.names == ("cpu",)


# --- a time column is a time, whatever its type

TIMES = {
    "stamps": pa.array([JAN_1 * US, (JAN_1 + 30) * US], pa.timestamp("us", "UTC")),
    "stamps of a zone": pa.array([JAN_1, JAN_1 + 30], pa.timestamp("s", "Europe/Berlin")),
    "stamps without a zone": pa.array([JAN_1 * 1000, (JAN_1 + 30) * 1000], pa.timestamp("ms")),
    "nanoseconds": pa.array([JAN_1 * 10**9, (JAN_1 + 30) * 10**9], pa.timestamp("ns")),
    "seconds": pa.array([JAN_1, JAN_1 + 30]),
    "float seconds": pa.array([float(JAN_1), JAN_1 + 30.0]),
    "milliseconds": pa.array([JAN_1 * 1000, (JAN_1 + 30) * 1000], pa.uint64()),
    "microseconds": pa.array([JAN_1 * US, (JAN_1 + 30) * US]),
    "nanoseconds as a number": pa.array([JAN_1 * 10**9, (JAN_1 + 30) * 10**9]),
    "texts": pa.array(["2024-01-01T00:00:00Z", "2024-01-01 00:00:30"]),
    "texts with an offset": pa.array(["2024-01-01T01:00:00+01:00", "2023-12-31T19:00:30-05:00"]),
    "categories": pa.array(["2024-01-01", "2024-01-01T00:00:30"]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("name", ["event_time_us", "timestamp", "time", "datetime"])
def test_a_time_column_is_the_time_whatever_its_type(tmp_path: Path, kind: str, name: str) -> None:
    later_first = pa.table({name: TIMES[kind].take([1, 0]), "cpu": [0.2, 0.1], "label": [1, 0]})
    dataset = load(write(tmp_path, later_first, "web-1.test.parquet"), "test")
    [series] = dataset.series
    assert dataset.schema.names == ("cpu",)
    assert dataset.cadence_us == 30 * US
    assert series.event_time_us.tolist() == [JAN_1 * US, (JAN_1 + 30) * US]
    assert series.values[:, 0].tolist() == [np.float32(0.1), np.float32(0.2)]
    assert series.labels is not None
    assert series.labels.tolist() == [0, 1]


def test_a_time_stamp_needs_no_name_and_may_be_the_index(tmp_path: Path) -> None:
    index = from_pandas({"cpu": [0.1, 0.2], "__index_level_0__": TIMES["stamps"]},
                        ["__index_level_0__"])  # fmt: skip
    for table in (index, pa.table({"cpu": [0.1, 0.2], "Zeit": TIMES["nanoseconds"]})):
        dataset = load(write(tmp_path, table), "train")
        assert dataset.schema.names == ("cpu",)
        assert dataset.series[0].event_time_us.tolist() == [JAN_1 * US, (JAN_1 + 30) * US]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"time": [0.5, 0.6]}, "column 'time' must be seconds, .* Rename it if it is a feature"),
        ({"time": [JAN_1, JAN_1 * US]}, "column 'time' must be seconds"),
        ({"time": ["noon", "x"]}, "column 'time': row 0: .*'noon'"),
        ({"time": [True, False]}, "column 'time' must hold times; it is bool"),
        ({"time": [JAN_1, None]}, "column 'time' must have a time in every row; row 1 is null"),
        ({"time": [JAN_1] * 2, "timestamp": [JAN_1] * 2}, "got 'time' and 'timestamp'"),
        ({"at": pa.array([0, 1], pa.date32())}, "column 'at' must be in the years 2000 to 2099"),
    ],
)
def test_a_time_that_is_none_is_refused_by_name(
    tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    folder = write(tmp_path, pa.table({**columns, "cpu": [0.1, 0.2]}))
    with pytest.raises(ConfigError, match=rf"web-1\.train\.parquet.*{message}"):
        load(folder, "train")


def test_all_files_have_times_or_none(tmp_path: Path) -> None:
    write(tmp_path, pa.table({"time": [JAN_1], "cpu": [0.1]}), "a.train.parquet")
    write(tmp_path, pa.table({"cpu": [0.1]}), "b.train.parquet")
    with pytest.raises(ConfigError, match=r"a\.train\.parquet has times in column 'time', but .*b"):
        load(tmp_path, "train")


# --- cases 01 and 02: columns that occur twice, numbers past 2^53, types that do not fit


def test_a_repeated_column_is_refused_and_named() -> None:
    with pytest.raises(ConfigError, match=r"gw-1\.train\.parquet: column 'cpu' must occur once"):
        load(CASES / "01-arrow-repeated-column", "train")


@pytest.mark.parametrize("name", ["label", "time", "__index_level_0__"])
def test_no_column_of_any_meaning_may_occur_twice(tmp_path: Path, name: str) -> None:
    table = pa.Table.from_arrays([pa.array([1])] * 3, names=["cpu", name, name])
    with pytest.raises(ConfigError, match=f"column '{name}' must occur once; it occurs 2 times"):
        load(write(tmp_path, table), "train")


def test_whole_numbers_past_2_to_the_53_are_rounded() -> None:
    [series] = load(CASES / "02-uint64-sentinel", "train").series
    assert set(series.values[:, 1]) == {np.float32(9223372036854771712)}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1], [2]]),
        pa.array([b"a", b"b"]),
        pa.array([True, False]),
        pa.array([1, 2], pa.duration("us")),
        pa.array([{"x": 1}, {"x": 2}]),
        pa.array(["a", "b"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_a_type_that_is_no_number_is_refused_by_name(tmp_path: Path, column: pa.Array) -> None:
    for name, table in (("odd", {"cpu": [1, 2], "odd": column}),):
        with pytest.raises(ConfigError, match=rf"web-1.*column '{name}' must hold numbers; it is"):
            load(write(tmp_path, pa.table(table)), "train")
    if not pa.types.is_boolean(column.type):
        with pytest.raises(ConfigError, match=r"label must be 0 or 1; it is"):
            load(write(tmp_path, pa.table({"cpu": [1, 2], "label": column})), "train")


@pytest.mark.parametrize("label", [[0, None], [0.5, 1.0], [2, 1]])
def test_a_label_that_is_neither_0_nor_1_is_refused(tmp_path: Path, label: list[object]) -> None:
    with pytest.raises(ConfigError, match=r"web-1\.train\.parquet: label must be 0 or 1; got"):
        load(write(tmp_path, pa.table({"cpu": [1, 2], "label": label})), "train")


@pytest.mark.parametrize("command", ["train", "produce", "evaluate"])
def test_commands_refuse_such_data_in_one_line(tmp_path: Path, command: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    case = CASES / "01-arrow-repeated-column" / "gw-1.train.parquet"
    for part in ("train", "test"):
        shutil.copy(case, folder / f"gw-1.{part}.parquet")
    options = {
        "train": ["--out", str(tmp_path / "a")],
        "produce": ["--topic", "t", "--bootstrap-servers", "127.0.0.1:1"],
        "evaluate": ["--artifact", str(tmp_path / "a")],
    }
    ran = subprocess.run(
        [sys.executable, "-m", "streamgauge", command, "--data", str(folder), *options[command]],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 2, ran.stderr
    [line] = ran.stderr.splitlines()
    assert "gw-1" in line
    assert "'cpu' must occur once" in line


# --- case 12: offsets, and the night when clocks go back


def test_offsets_of_time_stamps_are_honoured() -> None:
    dataset = load(CASES / "12-time-stamps-with-an-offset", "test")
    [series] = dataset.series
    first = 1_729_985_400  # 2024-10-26T23:30:00Z
    assert series.event_time_us.tolist() == [(first + 1800 * i) * US for i in range(6)]
    assert series.values[:, 0].tolist() == [
        np.float32(v) for v in (21.8, 21.7, 21.6, 21.5, 21.4, 21.3)
    ]
    assert dataset.cadence_us == 1800 * US


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2024-01-01T00:00:00Z", 0),
        ("2024-01-01 00:00:00", 0),
        ("2024-01-01T05:45:00+05:45", 0),
        ("2023-12-31T16:00:00-0800", 0),
        ("2024-01-01T00:00:00.250000+00:00", 0.25),
    ],
)
def test_a_time_stamp_of_a_csv_file_is_read_with_its_offset(
    tmp_path: Path, text: str, seconds: float
) -> None:
    assert csv_times(tmp_path, f"timestamp,value\n{text},1\n") == [round((JAN_1 + seconds) * US)]


def csv_times(folder: Path, text: str) -> list[int]:
    file = folder / "data" / "room" / "a.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    times: list[int] = load(folder, "test").series[0].event_time_us.tolist()
    return times


def test_spring_forward_leaves_no_gap(tmp_path: Path) -> None:
    lines = ["2024-03-31T01:30:00+01:00,1", "2024-03-31T03:00:00+02:00,2"]
    times = csv_times(tmp_path, "timestamp,value\n" + "\n".join(lines) + "\n")
    assert np.diff(times).tolist() == [1800 * US]


def test_a_file_of_a_spreadsheet_is_read_and_a_broken_one_named(tmp_path: Path) -> None:
    assert csv_times(tmp_path, "\ufefftimestamp,value\n2024-01-01,1\n") == [JAN_1 * US]
    for text in ("timestamp,value\n2024-01-01\n", "timestamp,value\n1.2.2024,1\n",
                 "timestamp,value\n2024-01-01,x\n"):  # fmt: skip
        with pytest.raises(ConfigError, match=r"a\.csv, line 2: "):
            csv_times(tmp_path, text)
    (tmp_path / "data" / "room" / "a.csv").write_bytes(b"timestamp,value\n2024-01-01,\xff\n")
    with pytest.raises(ConfigError, match=r"a\.csv, line"):
        load(tmp_path, "test")


def test_a_window_of_labels_that_is_none_is_refused(tmp_path: Path) -> None:
    csv_times(tmp_path, "timestamp,value\n2024-01-01,1\n")
    (tmp_path / "labels").mkdir()
    for windows in ([["x", "y"]], [["2024-01-01"]], [[1, 2]], 7):
        text = json.dumps({"room/a.csv": windows})
        (tmp_path / "labels" / "combined_windows.json").write_text(text)
        with pytest.raises(ConfigError, match=r"combined_windows\.json: room/a\.csv"):
            load(tmp_path, "test")
