"""Resuming a benchmark, its targets, and the figures of killed peers."""

import json

import numpy as np
import pytest

from bench import load, recovery, targets
from bench.load import Load
from bench.progress import Progress
from bench.topics import Scored

ABOUT = {"commit": "c0ffee", "size": {"rounds": 3}, "cpu": "x", "cores": 2, "python": "3",
         "numpy": "2"}  # fmt: skip


def new_progress(tmp_path, **about):
    return Progress(tmp_path / "results.json", {**ABOUT, **about}, lambda line: None)


def test_every_figure_is_on_disk_as_soon_as_it_is_there(tmp_path):
    progress = new_progress(tmp_path)
    for turn in ("round 1", "round 2"):
        progress.put({"events_s": 1.0}, "runs", "a peer", turn)
        on_disk = json.loads((tmp_path / "results.json").read_text())
        assert turn in on_disk["runs"]["a peer"]


def test_a_resumed_bench_repeats_only_what_failed(tmp_path):
    first = new_progress(tmp_path)
    first.once(lambda: {"events_s": 7.0}, "runs", "a peer", "round 1")
    first.once(lambda: {"reason": "no room"}, "runs", "a peer", "round 2")
    again = new_progress(tmp_path)
    again.take_over()
    assert again.once(lambda: pytest.fail("it is there"), "runs", "a peer", "round 1") == {
        "events_s": 7.0
    }
    again.once(lambda: {"events_s": 8.0}, "runs", "a peer", "round 2")
    assert [run["events_s"] for run in again.runs("a peer")] == [7.0, 8.0]


@pytest.mark.parametrize("other", [{"commit": "dead"}, {"size": {"rounds": 1}}, {"cores": 4}])
def test_figures_of_another_commit_size_or_machine_are_not_taken_over(tmp_path, other):
    new_progress(tmp_path, **other).put({"events_s": 7.0}, "runs", "a peer", "round 1")
    again = new_progress(tmp_path)
    again.take_over()
    assert not again.has("runs", "a peer", "round 1")


def scored(events, times_us, scores, stamps_s):
    stamps = (np.array(stamps_s) * 1000).astype(np.int64)
    return Scored(np.array(times_us)[events], np.array(scores, float), stamps)


def test_a_kill_is_judged_by_what_came_after_it():
    due_us = np.array([1, 2, 3, 4, 5, 6], np.int64) * 1_000_000
    replayed = np.array([10, 20, 30, np.nan, 50, 60])
    # Killed at 3.2 s: the third event is repeated, the fourth is wrong but not checked, the
    # fifth is late and right, then once more and wrong; the sixth never comes.
    found = recovery.judge(
        scored([0, 1, 2, 2, 3, 4, 4], due_us, [10, 20, 30, 30, 7, 50, 51],
               [1.1, 2.1, 3.1, 7.0, 7.5, 8.0, 8.1]),
        due_us, replayed, killed_s=3.2, exact=False,
    )  # fmt: skip
    assert found == {
        "events": 6,
        "first_score_s": 4.3,
        "lag_zero_s": 4.8,
        "lost": 1,
        "repeated": 2,
        "wrong": 1,
        "checked": 6,
    }


def test_the_product_is_held_to_the_very_bits():
    due_us = np.array([1_000_000], np.int64)
    off = scored([0], due_us, [10.000001], [1.0])
    given = (off, due_us, np.array([10.0]), 0.5)
    assert recovery.judge(*given, exact=False)["wrong"] == 0
    assert recovery.judge(*given, exact=True)["wrong"] == 1


def test_the_prelude_is_the_beginning_of_the_load():
    whole = Load(1_000, 5_000)
    prelude = Load(1_000, recovery.PRELUDE_EVENTS)
    assert whole.entity[: recovery.PRELUDE_EVENTS].tolist() == prelude.entity.tolist()


def test_due_times_name_events_uniquely():
    due_us = recovery.due_times(Load(10, 5_000), began_s=1.8e9)
    assert np.diff(due_us).min() > 0
    assert due_us[recovery.PRELUDE_EVENTS] == load.due_us(np.array([0]), 1.8e9, 1.0)[0]


def test_a_target_that_is_missed_or_was_not_measured_is_reported_as_missed():
    target = targets.Target("speed", targets.AT_LEAST, 2, lambda results: results["speed"])
    assert target.line({"speed": 2.5}) == "| speed | ≥ 2 | 2.5 | reached |"
    assert target.line({"speed": 1.5}) == "| speed | ≥ 2 | 1.5 | **missed** |"
    assert target.line({}) == "| speed | ≥ 2 | – | **missed**: not measured |"
    upper = targets.Target("time", targets.AT_MOST, 2, lambda results: results["time"])
    assert upper.line({"time": 2.5}).endswith("**missed** |")


def test_every_target_of_an_empty_bench_is_missed():
    lines = list(targets.table({}))[2:]
    assert len(lines) == len(targets.TARGETS)
    assert all("**missed**: not measured" in line for line in lines)
