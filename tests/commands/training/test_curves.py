from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from streamgauge.models.errors import ConfigError
from streamgauge.models.training.trainer import Progress, Step
from streamgauge.pipeline.training.curves import METRICS, Curves

STEPS = 15  # per epoch


def run(folder: Path, progress: Progress, epochs: float, loss: float = 1.0) -> None:
    """Train for so many epochs; a part of one is a training that was stopped in it."""
    with Curves(folder, progress) as curves:
        while epochs > 0:
            for i in range(round(STEPS * min(epochs, 1.0))):
                number, share = progress.epoch * STEPS + i + 1, (i + 1) / STEPS
                curves.step(Step(number, share, loss, 0.01 * number, 2.0, is_skipped=False))
            if epochs >= 1:
                progress.epoch += 1
                progress.step += STEPS
                progress.history.append((loss, loss + 1))
                curves.epoch(progress)
            epochs -= 1


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def records(path: Path) -> Iterator[Event]:
    """Events of a file of TensorBoard: length, checksum, bytes, checksum."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        yield Event.FromString(data[at + 12 : at + 12 + size])
        at += 16 + size


def points(folder: Path) -> dict[str, list[int]]:
    """Steps of each curve as TensorBoard shows them: a new session purges what it repeats."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime_ns):
        for event in records(path):
            if event.session_log.status == SessionLog.START:
                found = {tag: [s for s in steps if s < event.step] for tag, steps in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    return found


def test_every_epoch_and_every_tenth_step_is_a_point(tmp_path):
    run(tmp_path, Progress(), epochs=2)
    assert [(one["kind"], one["step"]) for one in lines(tmp_path)] == [
        ("step", 10),
        ("epoch", 15),
        ("step", 20),
        ("step", 30),
        ("epoch", 30),
    ]
    assert lines(tmp_path)[1] == {
        "kind": "epoch",
        "step": 15,
        "epoch": 1,
        "train_loss": 1.0,
        "held_out_loss": 2.0,
        "learning_rate": pytest.approx(0.15),
        "gradient_norm": 2.0,
        "steps_skipped": 0,
    }
    assert points(tmp_path)["epoch/held_out_loss"] == [15, 30]
    assert points(tmp_path)["step/gradient_norm"] == [10, 20, 30]


def test_a_resumed_training_repeats_no_point(tmp_path):
    undisturbed, stopped = tmp_path / "a", tmp_path / "b"
    run(undisturbed, Progress(), epochs=3)
    saved = Progress()
    run(stopped, saved, epochs=1)
    run(stopped, Progress(epoch=1, step=STEPS), epochs=0.8)  # never saved
    for path in stopped.glob(f"events.out.tfevents.*.{STEPS:09d}"):
        path.rename(path.with_name(f"{path.name}.older"))  # of another second than the next
    run(stopped, saved, epochs=2)
    assert lines(stopped) == lines(undisturbed)
    assert points(stopped) == points(undisturbed)


def test_training_from_the_start_replaces_the_curves(tmp_path):
    run(tmp_path, Progress(), epochs=2)
    run(tmp_path, Progress(), epochs=1, loss=9.0)
    assert [one["train_loss"] for one in lines(tmp_path)] == [9.0, 9.0]
    assert points(tmp_path)["epoch/train_loss"] == [15]


def test_an_incomplete_last_line_is_dropped(tmp_path):
    progress = Progress()
    run(tmp_path, progress, epochs=1)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"kind": "epoch", "st')
    run(tmp_path, progress, epochs=1)
    assert [one["step"] for one in lines(tmp_path)] == [10, 15, 20, 30, 30]


def test_a_value_that_is_not_finite_is_null_and_counted_as_skipped(tmp_path):
    with Curves(tmp_path, Progress(skipped=2)) as curves:
        curves.step(Step(10, 1.0, math.inf, 0.1, math.nan, is_skipped=True))
    (line,) = lines(tmp_path)
    assert (line["train_loss"], line["gradient_norm"], line["steps_skipped"]) == (None, None, 3)
    assert "step/train_loss" not in points(tmp_path)
    assert points(tmp_path)["step/steps_skipped"] == [10]


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(ConfigError, match=r"f must be a folder for metrics\.jsonl .* File exists"):
        Curves(tmp_path / "f", Progress())
