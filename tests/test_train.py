from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models import artifact
from models.errors import ConfigError
from models.training import TrainingSettings
from pipeline import train as command
from pipeline.train import train

SETTINGS = TrainingSettings(hidden=4, epochs=3, rows=4, chunk=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("one", "two")):
        values = np.random.default_rng(seed).normal(size=(1_500, 2)).astype(np.float32)
        table = pa.table({f"f{i}": values[:, i] for i in range(2)})
        pq.write_table(table, folder / f"{name}.train.parquet")
    return folder


class Interrupted(Exception):
    """Stands for whatever ends a process in the middle."""


def interrupt(line: str) -> None:
    """A narrator that ends the process when the last epoch is saved."""
    if "calibrating" in line:
        raise Interrupted


def test_training_writes_an_artifact_and_removes_what_it_kept(data, tmp_path):
    lines: list[str] = []
    digest = train(data, tmp_path / "a", SETTINGS, lines.append)
    loaded = artifact.load(tmp_path / "a", digest)
    record = loaded.manifest["training"]
    assert loaded.forecaster.priors.entity_ids == ("one", "two")
    assert (record["settings"]["seed"], record["epochs"]) == (0, len(record["loss_history"]))
    assert len(record["data"]["hash"]) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert lines[-1] == f"train: artifact {tmp_path / 'a'}, version {digest}"


def test_same_data_and_seed_give_the_same_version(data, tmp_path):
    quiet = [].append
    assert train(data, tmp_path / "a", SETTINGS, quiet) == train(
        data, tmp_path / "b", SETTINGS, quiet
    )


def test_stopped_training_goes_on_and_gives_the_same_version(data, tmp_path, monkeypatch):
    undisturbed = train(data, tmp_path / "a", SETTINGS, [].append)
    epochs: list[int] = []

    class Watched(command.Trainer):
        def run_epoch(self, say=lambda share: None):
            epochs.append(self.progress.epoch)
            if epochs == [0, 1]:
                raise Interrupted
            super().run_epoch(say)

    monkeypatch.setattr(command, "Trainer", Watched)
    with pytest.raises(Interrupted):
        train(data, tmp_path / "b", SETTINGS, [].append)
    lines: list[str] = []
    assert train(data, tmp_path / "b", SETTINGS, lines.append) == undisturbed
    assert epochs == [0, 1, 1, 2]
    assert any("going on after epoch 1" in line for line in lines)


def test_stopped_training_of_other_settings_is_refused_by_name(data, tmp_path):
    with pytest.raises(Interrupted):
        train(data, tmp_path / "a", SETTINGS, interrupt)
    with pytest.raises(ConfigError, match="seed was 0, now 7; remove it to begin anew"):
        train(data, tmp_path / "a", replace(SETTINGS, seed=7), [].append)


def test_damaged_partial_training_is_refused(data, tmp_path):
    with pytest.raises(Interrupted):
        train(data, tmp_path / "a", SETTINGS, interrupt)
    path = tmp_path / "a.partial" / command.PARTIAL_STATE
    state = json.loads(path.read_text())
    (tmp_path / "a.partial" / state["tensors"]).write_bytes(b"torn")
    with pytest.raises(ConfigError, match="must hold a stopped training"):
        train(data, tmp_path / "a", SETTINGS, [].append)
