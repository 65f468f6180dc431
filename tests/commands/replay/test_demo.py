"""The demonstration on a small bundle of its own; the shipped one is proved elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fixtures.artifacts import make_artifact
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.schema import Feature, Schema
from streamgauge.models.events.series import Series
from streamgauge.pipeline.data.datasets import Dataset
from streamgauge.pipeline.replay.demo import demo, scored_series

ROWS, FEATURES, ANOMALY = 300, 3, slice(200, 220)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Two entities of noise around zero, one of which leaves it for 20 events."""
    folder = tmp_path / "bundle"
    make_artifact(folder / "artifact", features=FEATURES)
    (folder / "sample").mkdir()
    rng = np.random.default_rng(3)
    for entity in ("calm", "upset"):
        values = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
        label = np.zeros(ROWS, np.uint8)
        if entity == "upset":
            values[ANOMALY] += 300
            label[ANOMALY] = 1
        columns = {f"f{i:02d}": values[:, i] for i in range(FEATURES)} | {"label": label}
        pq.write_table(pa.table(columns), folder / "sample" / f"{entity}.test.parquet")
    (folder / "demo.yaml").write_text("artifact: artifact\nalerts: {per_entity_day: 0.5}\n")
    return folder


def test_a_labelled_anomaly_is_found_and_shown_in_every_output(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrated: list[str] = []
    summary = demo(tmp_path / "out", bundle, narrated.append)
    assert (summary["events"], summary["entities"]) == (2 * ROWS, 2)
    assert (summary["labelled_anomalies"], summary["event_recall"]) == (1, 1.0)
    assert summary["dead_letters"] == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert "upset" in (tmp_path / "out" / "report.html").read_text()
    opened = [line for line in narrated if "upset  once in" in line]
    assert len(opened) >= 1
    assert ", expected " in opened[0]
    table = capsys.readouterr().out.splitlines()
    assert table[2].split() == ["upset", str(ROWS), "1", "1", str(len(opened)), "0"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "summary.json",
    ]


def test_scores_are_joined_with_the_values_and_labels_of_their_events() -> None:
    series = (
        Series("a", np.array([10, 20]), np.float32([[1], [2]]), np.uint8([0, 1])),
        Series("b", np.array([15, 25]), np.float32([[3], [4]])),
    )
    sample = Dataset("s", "test", Schema((Feature("x"),)), series, 1, "")
    table = pa.table(
        {
            "entity_id": ["a", "b", "a", "b"],
            "event_time_us": [10, 15, 20, 25],
            "score": np.float32([0.1, 0.3, 0.2, 0.4]),
            "rarity_1_in_n": np.float32([1, 3, 2, 4]),
        }
    )
    a, b = scored_series(table, sample)
    assert (a.entity_id, b.entity_id) == ("a", "b")
    np.testing.assert_array_equal(a.score, np.float32([0.1, 0.2]))
    np.testing.assert_array_equal(a.values[:, 0], [1, 2])
    np.testing.assert_array_equal(b.values[:, 0], [3, 4])
    assert a.labels is not None
    assert a.labels.tolist() == [0, 1]
    assert b.labels is None
    missing_one = scored_series(table.slice(1), sample)[0]
    assert missing_one.values.tolist() == [[2.0]]


def test_a_sample_of_another_model_is_refused(bundle: Path, tmp_path: Path) -> None:
    make_artifact(bundle / "artifact", features=FEATURES + 1)
    with pytest.raises(ConfigError, match="must have the artifact's 4 features; it has 3"):
        demo(tmp_path / "out", bundle, lambda line: None)
    assert not (tmp_path / "out").exists()
