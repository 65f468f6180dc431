"""Reads labelled telemetry from a folder, for training, evaluation, produce and the demo.

There are two layouts:

    Parquet   <folder>/<entity>.train.parquet and <folder>/<entity>.test.parquet
              one column per feature, with any name; there may also be a column of times
              and in the test part `label` (1 = anomalous); see `parquet_columns`.
    NAB       <folder>/data/<category>/<name>.csv with `timestamp,value`, and
              <folder>/labels/combined_windows.json. The train part is the probation
              of the benchmark; the test part is the whole file.

Rows with times are sorted by them. Rows without are in order of time, and their times are
invented: the train part starts at 2024-01-01T00:00:00Z, and the test part follows directly. The
distance of two rows is `cadence_s`. Its default is 300 s if all entity ids begin with
`d2-service` (those data were recorded every 5 minutes), else 60 s.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamgauge.models.errors import ConfigError
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.series import Series
from streamgauge.pipeline.data.parquet_columns import (
    columns_of,
    feature_values,
    label_values,
    read_table,
    time_us,
    time_values,
)

Part = Literal["train", "test"]

START_US = 1_704_067_200_000_000  # 2024-01-01T00:00:00Z
CADENCE_S = 60
SERVICE_PREFIX, SERVICE_CADENCE_S = "d2-service", 300
# Lavin & Ahmad 2015: the first 15 % of a NAB file, at most 750 rows, are not scored.
NAB_PROBATION_SHARE, NAB_PROBATION_ROWS_MAX = 0.15, 750
NAB_WINDOWS = Path("labels", "combined_windows.json")


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One part of a data set in memory."""

    #: The folder's name, for manifests and titles.
    name: str
    part: Part
    schema: Schema
    #: One per entity, ordered by entity id.
    series: tuple[Series, ...]
    #: Usual distance of two events of an entity, microseconds.
    cadence_us: int
    #: SHA-256 in hex over schema, entity ids, times, values and labels.
    content_hash: str

    @property
    def events(self) -> int:
        """The number of events of all entities."""
        return sum(len(series.event_time_us) for series in self.series)


def load(folder: Path | str, part: Part, cadence_s: float | None = None) -> Dataset:
    """Read one part of the data set in `folder`.

    Args:
        folder: a folder in one of the layouts above.
        part: "train" or "test".
        cadence_s: distance of invented times, seconds; None for the default above. It is
            ignored where rows have times.

    Raises:
        ConfigError: the folder has neither layout, or a file is not valid.
    """
    folder = Path(folder)
    if part not in get_args(Part):
        raise ConfigError(f"data: part must be one of {get_args(Part)}; got {part!r}")
    if cadence_s is not None and not cadence_s > 0:
        raise ConfigError(f"data: cadence_s must be above 0; got {cadence_s}")
    if not folder.is_dir():
        raise ConfigError(f"data: {folder} must be a folder; {_kind_of(folder)}")
    if parquet := sorted(folder.glob(f"*.{part}.parquet")):
        return _load_parquet(folder, parquet, part, cadence_s)
    if csvs := sorted((folder / "data").glob("*/*.csv")):
        return _load_nab(folder, csvs, part)
    raise ConfigError(
        f"data: {folder} must hold <entity>.{part}.parquet files or data/<category>/<name>.csv; "
        f"found {_listing(folder)}"
    )


def _load_parquet(folder: Path, paths: list[Path], part: Part, cadence_s: float | None) -> Dataset:
    ids = [path.name.removesuffix(f".{part}.parquet") for path in paths]
    if cadence_s is None:
        services = all(entity_id.startswith(SERVICE_PREFIX) for entity_id in ids)
        cadence_s = SERVICE_CADENCE_S if services else CADENCE_S
    cadence_us = max(1, round(cadence_s * 1e6))
    names: tuple[str, ...] = ()
    timed: list[str | None] = []
    series = []
    for entity_id, path in zip(ids, paths, strict=True):
        table = read_table(path)
        columns = columns_of(path, table)
        names = names or columns.features
        if columns.features != names:
            raise ConfigError(
                f"data: {path} must have the feature columns of {paths[0].name}, in that order: "
                f"{_first_difference(names, columns.features)}"
            )
        timed.append(columns.time)
        if (columns.time is None) != (timed[0] is None):
            has, has_not = (paths[0], path) if timed[0] else (path, paths[0])
            raise ConfigError(
                f"data: {has} has times in column {columns.time or timed[0]!r}, but {has_not} has "
                "none; all files or none must have times"
            )
        values = _as_float32(path, feature_values(path, table, names), names)
        labels = label_values(path, table) if columns.has_label else None
        if columns.time is None:
            before = _rows(folder / f"{entity_id}.train.parquet") if part == "test" else 0
            times: NDArray[Any] = START_US + cadence_us * np.arange(
                before, before + len(values), dtype=np.int64
            )
        else:
            times = time_values(path, table, columns.time)
            order = np.argsort(times, kind="stable")
            times, values = times[order], values[order]
            labels = None if labels is None else labels[order]
        series.append(Series(entity_id, times, values, labels))
    if timed[0] is not None:
        cadence_us = _usual_gap_us(series) or cadence_us
    schema = Schema(tuple(Feature(name) for name in names))
    return _dataset(folder, part, schema, series, cadence_us)


def _usual_gap_us(series: Iterable[Series]) -> int:
    """The median distance of two events of an entity; 0 if there is none."""
    gaps = np.concatenate([np.diff(s.event_time_us) for s in series] + [np.array([], np.int64)])
    gaps = gaps[gaps > 0]  # equal times are allowed; they are no measure of the cadence
    return int(np.median(gaps)) if len(gaps) else 0


def _rows(path: Path) -> int:
    """The number of rows of a file; 0 if it does not exist, as for a test part alone."""
    if not path.is_file():
        return 0
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"data: {path} must be a Parquet file; {error}") from error


def _as_float32(path: Path, values: NDArray[Any], names: tuple[str, ...]) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # values that float32 cannot hold become infinite
        values = values.astype(np.float32)
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise ConfigError(
            f"data: {path}: values must be finite in float32 or missing; "
            f"row {row} of {names[column]!r} is infinite"
        )
    return values


def _load_nab(folder: Path, paths: list[Path], part: Part) -> Dataset:
    windows_path = folder / NAB_WINDOWS
    # Only the test part has labels.
    windows = _read_windows(windows_path) if part == "test" and windows_path.is_file() else {}
    series = []
    for path in paths:
        entity_id = f"{path.parent.name}/{path.stem}"
        times, values = _read_nab_csv(path)
        if part == "train":
            probation = int(NAB_PROBATION_SHARE * len(times))
            rows = max(1, min(probation, NAB_PROBATION_ROWS_MAX))
            series.append(Series(entity_id, times[:rows], values[:rows]))
            continue
        spans = windows.get(f"{entity_id}.csv")
        try:
            labels = None if spans is None else _labels_of_windows(times, spans)
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"data: {windows_path}: {entity_id}.csv: {error}") from error
        series.append(Series(entity_id, times, values, labels))
    cadence_us = _usual_gap_us(series) or CADENCE_S * 1_000_000
    return _dataset(folder, part, Schema((Feature("value"),)), series, cadence_us)


def _read_windows(path: Path) -> dict[str, list[list[str]]]:
    """The anomalous time spans of each file; a file without an entry has no labels."""
    try:
        windows = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"data: {path} must be JSON; {error}") from error
    if not isinstance(windows, dict):
        raise ConfigError(f"data: {path} must hold an object; got {type(windows).__name__}")
    return windows


def _read_nab_csv(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Times (T,) int64 and values (T, 1) float32, sorted by time; equal times keep their order."""
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a BOM
        rows = csv.reader(file)
        try:
            header = next(rows, [])
            if header != ["timestamp", "value"]:
                raise ConfigError(f"data: {path} must start with timestamp,value; got {header}")
            pairs = [(time_us(time), float(value or "nan")) for time, value in rows]
        except (ValueError, csv.Error) as error:
            raise ConfigError(f"data: {path}, line {rows.line_num}: {error}") from error
    if not pairs:
        raise ConfigError(f"data: {path} must hold at least one row; it has none")
    times = np.array([time for time, _ in pairs], np.int64)
    values = _as_float32(path, np.array([[value] for _, value in pairs]), ("value",))
    order = np.argsort(times, kind="stable")
    return times[order], values[order]


def _labels_of_windows(times: NDArray[Any], spans: list[list[str]]) -> NDArray[Any]:
    labels = np.zeros(len(times), np.uint8)
    for first, last in spans:
        labels[(times >= time_us(first)) & (times <= time_us(last))] = 1
    return labels


def _dataset(
    folder: Path, part: Part, schema: Schema, series: Iterable[Series], cadence_us: int
) -> Dataset:
    ordered = tuple(sorted(series, key=lambda s: s.entity_id))
    name = folder.resolve().name
    return Dataset(name, part, schema, ordered, cadence_us, content_hash(schema, ordered))


def content_hash(schema: Schema, series: Iterable[Series]) -> str:
    """SHA-256 over schema, entity ids, times, values and labels, including their sizes."""
    digest = hashlib.sha256(schema.fingerprint().encode())
    for entity in series:
        for chunk in _chunks(entity):
            digest.update(len(chunk).to_bytes(8, "little"))
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(series: Series) -> Iterator[bytes]:
    yield series.entity_id.encode()
    yield series.event_time_us.astype("<i8").tobytes()
    yield series.values.astype("<f4").tobytes()
    yield b"" if series.labels is None else series.labels.astype("u1").tobytes()


def _kind_of(path: Path) -> str:
    return "it is a file" if path.exists() else "it does not exist"


def _listing(folder: Path) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    if not names:
        return "an empty folder"
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _first_difference(expected: tuple[str, ...], actual: tuple[str, ...]) -> str:
    if len(expected) != len(actual):
        return f"expected {len(expected)} feature columns; got {len(actual)}"
    index = next(i for i, (a, b) in enumerate(zip(expected, actual, strict=True)) if a != b)
    return f"expected {expected[index]!r} at position {index}; got {actual[index]!r}"
