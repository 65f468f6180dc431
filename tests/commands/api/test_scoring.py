"""Frames are scored with the bits of the live job, and refused in one line if they cannot be."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import streamgauge as sg
from fixtures.artifacts import make_artifact
from fixtures.blocks import START_US, STEP_US
from fixtures.frames import ENTITIES, EVENTS, OtherFrame, make_frame, values_of
from streamgauge.models.events.series import Series
from streamgauge.pipeline.config import load
from streamgauge.pipeline.replay.runner import run_in_process
from streamgauge.transforms.sources.archive import ReplayArchive, write_archive

RESULTS = ["score", "rarity_1_in_n", "verdict", "confidence"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    make_artifact(folder / "model")
    return folder


@pytest.fixture(scope="module")
def artifact(folder):
    return sg.load_artifact(folder / "model")


def with_column(table: pa.Table, name: str, column: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


JOBS = {
    "defaults": "artifact: model\n",
    "few messages": "artifact: model\nscoring: {shards: 3, warmup_events: 30}\n"
    "alerts: {per_entity_day: 100, cooldown_s: 600, new_normal_after: 20}\n",
    "forgetful": "artifact: model\nscoring: {shards: 2, entity_ttl_s: 30}\n",
    "full": "artifact: model\nscoring: {shards: 1, entities_per_shard_max: 2}\n",
}


@pytest.mark.parametrize("name", JOBS)
def test_scores_have_the_bits_of_the_graph(folder, artifact, name, tmp_path):
    file = folder / f"{name}.yaml"
    file.write_text(JOBS[name])
    config = load(file)
    frame = make_frame()
    series = [
        Series(entity, START_US + np.arange(EVENTS) * STEP_US, values_of(i))
        for i, entity in enumerate(ENTITIES)
    ]
    write_archive(tmp_path / "archive", series, config.scoring.shards, 128)
    reading = ReplayArchive(str(tmp_path / "archive"))
    replay = run_in_process(config, artifact, reading, directory=tmp_path / "parts").scores

    ours = sg.score_frame(artifact, frame, job=None if name == "defaults" else file)

    assert len(ours) == len(frame)
    key = [("entity_id", "ascending"), ("event_time", "ascending")]
    scored = ours.filter(ours["score"].is_valid()).sort_by(key)
    theirs = replay.rename_columns({"event_time_us": "event_time"}).sort_by(key)
    assert len(scored) == len(theirs) == (2 if name == "full" else 4) * EVENTS
    for column in RESULTS:
        expected = theirs[column].cast(ours[column].type).to_pylist()
        assert scored[column].to_pylist() == expected, column
    assert "anomalous" in scored["verdict"].to_pylist() or name == "forgetful"


def test_a_result_has_the_rows_of_the_frame_in_their_order(artifact):
    frame = make_frame(50)
    scores = sg.score_frame(artifact, frame)
    assert scores.column_names == ["entity_id", "event_time", *RESULTS]
    assert scores["entity_id"].equals(frame["entity_id"])
    assert scores["event_time"].equals(frame["event_time"])


@pytest.mark.parametrize("size", [1, 7, 64])
def test_scores_do_not_depend_on_how_a_frame_is_cut_into_blocks(artifact, monkeypatch, size):
    whole = sg.score_frame(artifact, make_frame(40))
    monkeypatch.setattr("streamgauge.pipeline.api.scoring.BLOCK_EVENTS", size)
    assert sg.score_frame(artifact, make_frame(40)).equals(whole)


def test_a_frame_without_rows_has_a_result_without_rows(artifact):
    assert len(sg.score_frame(artifact, make_frame(5).slice(0, 0))) == 0


@pytest.mark.parametrize(
    ("column", "convert"),
    [
        ("event_time", lambda c: c.cast(pa.timestamp("us"))),
        ("event_time", lambda c: c.cast(pa.timestamp("us")).cast(pa.timestamp("ns"))),
        ("event_time", lambda c: pc.add(pc.multiply(c, 1_000), 999).cast(pa.timestamp("ns"))),
        ("event_time", lambda c: c.cast(pa.timestamp("us", "Europe/Berlin"))),
        ("event_time", lambda c: c.cast(pa.uint64())),
        ("entity_id", lambda c: c.cast(pa.large_string())),
        ("entity_id", lambda c: c.dictionary_encode()),
        ("entity_id", lambda c: pa.array(c.to_pylist(), pa.string_view())),
        ("f00", lambda c: c.cast(pa.float64())),
        ("f00", lambda c: pa.chunked_array([c.combine_chunks()[:9], c.combine_chunks()[9:]])),
    ],
)  # fmt: skip
def test_equal_values_of_another_type_give_equal_scores(artifact, column, convert):
    frame = make_frame(30)
    expected = sg.score_frame(artifact, frame).select(RESULTS)
    other = with_column(frame, column, convert(frame[column]))
    assert sg.score_frame(artifact, other).select(RESULTS).equals(expected)


@pytest.mark.parametrize(
    "numbers",
    [
        pa.array([2**60 + 1] * 12, pa.int64()),
        pa.array([2**64 - 1] * 12, pa.uint64()),
        pa.array([True, None, False] * 4),
        pa.array([Decimal("1.25")] * 12),
        pa.nulls(12),
        pa.array(np.full(12, 0.5, np.float16)),
    ],
)
def test_every_kind_of_number_is_scored(artifact, numbers):
    frame = with_column(make_frame(3), "f00", numbers)
    assert sg.score_frame(artifact, frame)["score"].null_count == 0


def test_a_frame_of_any_library_with_the_protocol_is_scored(artifact):
    frame = make_frame(30)
    scores = sg.score_frame(artifact, OtherFrame(frame))
    assert isinstance(scores, pa.Table)
    assert scores.equals(sg.score_frame(artifact, frame))


def test_the_column_of_times_may_have_the_name_of_the_messages(artifact):
    frame = make_frame(30)
    named = frame.rename_columns({"event_time": "event_time_us"})
    scores = sg.score_frame(artifact, named)
    assert scores.column_names[1] == "event_time_us"
    assert scores.select(RESULTS).equals(sg.score_frame(artifact, frame).select(RESULTS))


def without(name: str) -> Any:
    return lambda table: table.drop_columns([name])


def also(name: str, copy_of: str) -> Any:
    return lambda table: table.append_column(name, table[copy_of])


def like(name: str, other: str) -> Any:
    return lambda table: with_column(table, name, table[other])


def filled(name: str, *values: Any, kind: Any = None) -> Any:
    """A change that repeats `values` in a column of twelve rows."""
    column = pa.array(list(values) * (12 // len(values)), kind)
    return lambda table: with_column(table, name, column)


def without_values(table: pa.Table) -> pa.Table:
    for name in ("f00", "f01", "f02"):
        table = filled(name, None)(table)
    return table


REFUSED = [
    (lambda table: 5, r"frame: must be a frame of pandas 2\.2 or later, .* got builtins\.int"),
    (lambda table: table.to_pydict(), r"frame: must be a frame of .* got builtins\.dict"),
    (without("event_time"), "one column of times, event_time or event_time_us; got 'entity_id'"),
    (also("event_time_us", "event_time"), "got 'event_time' and 'event_time_us'"),
    (without("entity_id"), "needs the columns .* 'entity_id' missing"),
    (
        lambda table: table.rename_columns({"f01": "f_01"}),
        r"'f01' missing, it has .*; did you mean its column 'f_01'\?",
    ),
    (also("f00", "f00"), "each column must be there once; 'f00' is there 2 times"),
    (also("event_time", "f00"), "'event_time' is there 2 times"),
    (filled("entity_id", 1, 2), "column 'entity_id' must be text; got int64"),
    (filled("entity_id", b"a"), "column 'entity_id' must be text; got binary"),
    (like("f00", "entity_id"), "column 'f00' must be numbers; got string"),
    (filled("f00", [1.0]), "column 'f00' must be numbers; got list"),
    (like("event_time", "f00"), "column 'event_time' must be a time .* got float"),
    (like("event_time", "entity_id"), "column 'event_time' must be a time .* got string"),
    (filled("event_time", 2**64 - 1, kind="uint64"), "'event_time' must be readable as int64"),
    (filled("event_time", START_US, None), r"row 1: the event time must be present; .* \(6 rows"),
    (filled("event_time", START_US // 1000), "row 0: event_time_us must be microseconds in the"),
    (filled("entity_id", "a", None, ""), r"row 1: entity_id .* got null \(8 rows of 12 break a"),
    (filled("entity_id", "ä" * 129), "row 0: entity_id must have 1 to 256 bytes; got 258 bytes"),
    (filled("f02", 0.5, 1e39), "row 1: features: 'f02' must be finite and within float32; got inf"),
    (without_values, "row 0: features: at least one value must be present"),
]


@pytest.mark.parametrize(("change", "line"), REFUSED, ids=[line for _, line in REFUSED])
def test_a_frame_that_cannot_be_scored_is_refused_in_one_line(artifact, change, line):
    with pytest.raises(sg.ConfigError, match=line) as refused:
        sg.score_frame(artifact, change(make_frame(3)))
    assert len(str(refused.value).splitlines()) == 1


def test_an_artifact_that_is_none_is_refused_in_one_line(folder, tmp_path):
    with pytest.raises(sg.ConfigError, match="path: must be a directory with an artifact; nothing"):
        sg.load_artifact(tmp_path / "none")
    with pytest.raises(sg.ArtifactError, match=r"manifest\.json"):
        sg.load_artifact(tmp_path)
    with pytest.raises(sg.ConfigError, match=r"load_artifact returns; got a str"):
        sg.score_frame("model", make_frame(3))  # type: ignore[arg-type]
