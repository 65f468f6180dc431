from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fixtures.children import default_sigint
from fixtures.deadlines import deadline
from fixtures.paths import ROOT
from streamgauge.models.artifacts import artifact
from streamgauge.models.errors import ConfigError, TrainingError
from streamgauge.models.training.trainer import TrainingSettings
from streamgauge.pipeline.training import train as command
from streamgauge.pipeline.training.train import train

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


def test_training_writes_an_artifact_and_removes_its_partial_state(data, tmp_path):
    lines: list[str] = []
    digest = train(data, tmp_path / "a", SETTINGS, lines.append)
    loaded = artifact.load(tmp_path / "a", digest)
    record = loaded.manifest["training"]
    assert loaded.forecaster.priors.entity_ids == ("one", "two")
    assert (record["settings"]["seed"], record["epochs"]) == (0, len(record["loss_history"]))
    assert len(record["data"]["hash"]) == 64
    assert not {"precision", "search"} & set(record)  # on a CPU, not searched
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert lines[-1] == f"train: artifact {tmp_path / 'a'}, version {digest}"
    assert "train: features f0, f1" in lines


def test_same_data_and_seed_give_the_same_version(data, tmp_path):
    quiet = [].append
    assert train(data, tmp_path / "a", SETTINGS, quiet) == train(
        data, tmp_path / "b", SETTINGS, quiet
    )


def test_a_resumed_training_gives_the_same_version(data, tmp_path, monkeypatch):
    undisturbed = train(data, tmp_path / "a", SETTINGS, [].append)
    epochs: list[int] = []

    class Watched(command.Trainer):
        def run_epoch(self, watch=lambda step: None):
            epochs.append(self.progress.epoch)
            if epochs == [0, 1]:
                raise Interrupted
            super().run_epoch(watch)

    monkeypatch.setattr(command, "Trainer", Watched)
    with pytest.raises(Interrupted):
        train(data, tmp_path / "b", SETTINGS, [].append)
    lines: list[str] = []
    assert train(data, tmp_path / "b", SETTINGS, lines.append) == undisturbed
    assert epochs == [0, 1, 1, 2]
    assert any("resuming after epoch 1" in line for line in lines)


def test_partial_training_with_other_settings_is_refused_and_names_them(data, tmp_path):
    with pytest.raises(Interrupted):
        train(data, tmp_path / "a", SETTINGS, interrupt)
    with pytest.raises(ConfigError, match="seed was 0, now 7; remove it to start again"):
        train(data, tmp_path / "a", replace(SETTINGS, seed=7), [].append)


def test_damaged_partial_training_is_refused(data, tmp_path):
    with pytest.raises(Interrupted):
        train(data, tmp_path / "a", SETTINGS, interrupt)
    path = tmp_path / "a.partial" / command.PARTIAL_STATE
    state = json.loads(path.read_text())
    (tmp_path / "a.partial" / state["tensors"]).write_bytes(b"torn")
    with pytest.raises(ConfigError, match="must hold an interrupted training"):
        train(data, tmp_path / "a", SETTINGS, [].append)


def test_curves_in_a_folder_of_their_own_are_kept_and_repeat_no_epoch(data, tmp_path):
    log = tmp_path / "log"
    with pytest.raises(Interrupted):
        train(data, tmp_path / "a", SETTINGS, interrupt, log_dir=log)
    train(data, tmp_path / "a", SETTINGS, [].append, log_dir=log)
    lines = [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]
    epochs = [one for one in lines if one["kind"] == "epoch"]
    history = artifact.load(tmp_path / "a").manifest["training"]["loss_history"]
    assert [one["epoch"] for one in epochs] == [1, 2, 3]
    assert [round(one["held_out_loss"], 5) for one in epochs] == [two for _, two in history]
    assert list(log.glob("events.out.tfevents.*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "log"]


def test_curves_do_not_change_the_version(data, tmp_path):
    assert train(data, tmp_path / "a", SETTINGS, [].append) == train(
        data, tmp_path / "b", SETTINGS, [].append, log_dir=tmp_path / "log"
    )


def test_partial_training_holds_its_curves(data, tmp_path):
    with pytest.raises(Interrupted):
        train(data, tmp_path / "a", SETTINGS, interrupt)
    assert (tmp_path / "a.partial" / "metrics.jsonl").read_text().count('"epoch":') == 3


def test_an_interrupted_command_exits_with_130_and_resumes_later(data, tmp_path):
    """SIGINT to a process of its own, as Ctrl-C sends it."""
    out, epochs = tmp_path / "a", 100_000
    words = ("train", "--data", str(data), "--out", str(out), "--epochs", str(epochs))
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from streamgauge.pipeline.cli.main import main; main()",
            *words,
            "--hidden",
            "4",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_sigint,
    )
    try:
        end = time.monotonic() + deadline(60)
        while not (tmp_path / "a.partial" / command.PARTIAL_STATE).is_file():
            assert time.monotonic() < end
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=deadline(30))
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in errors

    def stop(line: str) -> None:
        if "resuming after epoch" in line:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(data, out, TrainingSettings(hidden=4, epochs=epochs), stop)


@pytest.mark.parametrize(
    ("out", "text"),
    [
        ("notes", "notes exists and is not an artifact; not replaced"),
        ("notes/a.txt/b", "a.txt must be a folder; (Not a directory|File exists)"),
        ("..", r"out must name a folder; got '.*\.\.'"),
    ],
)
def test_unusable_out_is_refused_before_any_work(data, tmp_path, out, text):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    lines: list[str] = []
    with pytest.raises(ConfigError, match=text):
        train(data, tmp_path / out, SETTINGS, lines.append)
    assert not lines
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


def test_too_little_to_calibrate_on_is_refused_before_any_epoch(data, tmp_path):
    with pytest.raises(TrainingError, match="at least 500 scores .* they give 76 in 2 series"):
        train(data, tmp_path / "a", replace(SETTINGS, held_out=0.05), [].append)
    assert not (tmp_path / "a.partial").exists()
