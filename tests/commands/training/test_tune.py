from __future__ import annotations

import fcntl
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

from fixtures.paths import DOCS
from streamgauge.models.artifacts import artifact
from streamgauge.models.errors import ConfigError, TrainingError
from streamgauge.models.training.trainer import TrainingSettings
from streamgauge.pipeline.cli.main import app
from streamgauge.pipeline.training import tune as command
from streamgauge.pipeline.training.search_space import SPACE
from streamgauge.pipeline.training.tune import Plan, SearchResult, tune

SETTINGS = TrainingSettings(hidden=16, epochs=2, rows=48, chunk=32)
PLAN = Plan(trials=3, settings=SETTINGS)
EVENTS = 1_600
JUDGED_FROM = 1_400  # of 400 held-out events the earlier half stops, the later half judges


class Interrupted(Exception):
    """Stands for whatever ends a process in the middle."""


def write(folder: Path, spoiled: slice = slice(0, 0), labels: int | None = None) -> Path:
    """Two entities; a test part that is not to be read, since nobody could."""
    folder.mkdir()
    for seed, name in enumerate(("one", "two")):
        values = np.random.default_rng(seed).normal(size=(EVENTS, 2)).astype(np.float32)
        values[spoiled] += 3.0
        columns = {f"f{i}": values[:, i] for i in range(2)}
        if labels is not None:
            columns["label"] = np.full(EVENTS, labels, np.uint8)
        pq.write_table(pa.table(columns), folder / f"{name}.train.parquet")
        (folder / f"{name}.test.parquet").write_bytes(b"no Parquet")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tune")


@pytest.fixture(scope="module")
def data(folder) -> Path:
    return write(folder / "data")


@pytest.fixture(scope="module")
def found(folder, data) -> SearchResult:
    return search(data, folder / "a")


def search(data: Path, out: Path, plan: Plan = PLAN, narrate=[].append) -> SearchResult:
    return tune(data, out, out.with_suffix(".sqlite"), plan=plan, narrate=narrate)


def outcomes(found: SearchResult) -> list[tuple]:
    return [(one.params, one.value, one.intermediate_values) for one in found.trials]


def watched(monkeypatch, act) -> None:
    """Have `act(trainer)` called before each epoch, of trials and of the final training."""

    class Watched(command.Trainer):
        def run_epoch(self, watch=lambda step: None):
            act(self)
            super().run_epoch(watch)

    monkeypatch.setattr(command, "Trainer", Watched)


def test_search_reads_no_test_part_and_trains_with_the_best_settings(folder, found):
    manifest = artifact.load(folder / "a").manifest["training"]
    best = min(found.trials, key=lambda one: one.value)
    assert manifest["settings"] == asdict(replace(SETTINGS, **best.params))
    assert manifest["search"] == {
        "study": f"data-{manifest['data']['hash'][:12]}",
        "seed": 0,
        "trials": 3,
        "pruned": 0,
        "failed": 0,
        "best_trial": found.trials.index(best) + 1,
        "loss": best.value,
        "loss_of_first": found.trials[0].value,
    }


def test_first_trial_has_the_given_settings_and_the_others_have_other_ones(found):
    first, *others = (one.params for one in found.trials)
    assert first == {name: getattr(SETTINGS, name) for name in SPACE}
    assert all(one not in [*others[:i], first] for i, one in enumerate(others))


def test_labels_make_no_difference(tmp_path, found):
    for label in (0, 1):
        data = write(tmp_path / f"data{label}", labels=label)
        assert outcomes(search(data, tmp_path / f"a{label}")) == outcomes(found)


def test_benchmark_gives_its_probation_and_neither_the_rest_nor_its_labels(tmp_path):
    losses = []
    for later in (0.0, 50.0):
        data = tmp_path / f"data{later}"
        (data / "data" / "real").mkdir(parents=True)
        (data / "labels").mkdir()
        (data / "labels" / "combined_windows.json").write_text("no JSON")
        start = np.datetime64("2024-01-01T00:00:00")
        for seed in range(4):
            values = np.random.default_rng(seed).normal(size=5_000)
            values[750:] += later  # 15 % of the file are probation
            rows = [f"{start + 300 * i}".replace("T", " ") + f",{v}" for i, v in enumerate(values)]
            path = data / "data" / "real" / f"{seed}.csv"
            path.write_text("\n".join(["timestamp,value", *rows]))
        plan = Plan(trials=2, settings=SETTINGS)
        losses.append(outcomes(search(data, tmp_path / f"a{later}", plan)))
    assert losses[0] == losses[1]


def test_the_loss_of_a_trial_comes_from_events_that_its_training_did_not_see(tmp_path, found):
    one = replace(PLAN, trials=1)
    data = write(tmp_path / "data", spoiled=slice(JUDGED_FROM, None))
    (spoiled,), first = search(data, tmp_path / "a", one).trials, found.trials[0]
    assert spoiled.intermediate_values == first.intermediate_values
    assert spoiled.value > first.value + 0.1


def test_trial_is_stopped_by_the_earlier_half(tmp_path, found):
    data = write(tmp_path / "data", spoiled=slice(1_200, JUDGED_FROM))
    (spoiled,) = search(data, tmp_path / "a", replace(PLAN, trials=1)).trials
    assert spoiled.intermediate_values[1] > found.trials[0].intermediate_values[1] + 0.1


def test_a_resumed_search_gives_the_same_artifact(tmp_path, folder, data, found, monkeypatch):
    epochs: list[int] = []

    def interrupt(trainer) -> None:
        epochs.append(trainer.progress.epoch)
        if len(epochs) == 6:  # the second of the third trial
            raise Interrupted

    watched(monkeypatch, interrupt)
    with pytest.raises(Interrupted):
        search(data, tmp_path / "a")
    lines: list[str] = []
    again = search(data, tmp_path / "a", narrate=lines.append)
    assert lines[0].endswith("has 2 trials")
    assert epochs == [0, 1, 0, 1, 0, 1, 0, 1]
    assert outcomes(again) == outcomes(found)
    assert artifact.load(tmp_path / "a").digest == artifact.load(folder / "a").digest


def test_a_resumed_search_runs_no_more_trials_than_requested(tmp_path, data, monkeypatch):
    search(data, tmp_path / "a", replace(PLAN, trials=2))
    epochs: list[int] = []
    watched(monkeypatch, lambda trainer: epochs.append(trainer.progress.epoch))
    assert len(search(data, tmp_path / "a", replace(PLAN, trials=2)).trials) == 2
    assert epochs == []
    assert len(search(data, tmp_path / "a").trials) == 3
    assert epochs == [0, 1]


def test_trial_worse_than_the_median_is_pruned(tmp_path, data, monkeypatch):
    monkeypatch.setattr(command, "PRUNED_FROM_TRIAL", 1)
    monkeypatch.setattr(command, "PRUNED_FROM_EPOCH", 0)
    trainers: list[command.Trainer] = []

    def corrupt(trainer) -> None:
        if trainer not in trainers:
            trainers.append(trainer)
        if len(trainers) == 2:
            trainer._held_out[0][:] += 100.0

    watched(monkeypatch, corrupt)
    found = search(data, tmp_path / "a")
    assert [one.state for one in found.trials][:2] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert len(found.trials[1].intermediate_values) == 1
    assert found.record()["pruned"] >= 1
    assert found.trials[1] not in found.ranking


def test_a_trial_that_cannot_be_trained_is_counted_and_the_search_continues(
    tmp_path, data, monkeypatch
):
    def fail(trainer) -> None:
        if trainer.settings.noise != SETTINGS.noise:
            raise TrainingError("training: planted")

    watched(monkeypatch, fail)
    found = search(data, tmp_path / "a")
    assert found.record()["failed"] == 2
    assert found.settings == SETTINGS


def test_search_without_a_usable_trial_is_an_error_that_says_why(tmp_path, data, monkeypatch):
    def fail(trainer) -> None:
        raise TrainingError("training: planted")

    watched(monkeypatch, fail)
    with pytest.raises(TrainingError, match="all 3 failed, the last with: training: planted"):
        search(data, tmp_path / "a")


def test_only_the_first_trial_starts_after_the_time_limit(tmp_path, data):
    lines: list[str] = []
    plan = replace(PLAN, minutes=1e-9)
    assert len(search(data, tmp_path / "a", plan, lines.append).trials) == 1
    assert "tune: time limit reached after 1 of 3 trials" in lines


def test_study_of_other_settings_is_refused_by_name(tmp_path, data):
    search(data, tmp_path / "a", replace(PLAN, trials=1))
    other = Plan(trials=1, settings=replace(SETTINGS, epochs=3))
    with pytest.raises(ConfigError, match="epochs was 2, now 3; use another file"):
        search(data, tmp_path / "a", other)


def test_a_file_that_is_no_study_is_refused_and_not_changed(tmp_path, data):
    study = tmp_path / "notes.txt"
    study.write_text("not a database, and long enough to be looked at " * 100)
    before = study.read_bytes()
    with pytest.raises(ConfigError, match=r"notes\.txt must be a study"):
        tune(data, tmp_path / "a", study, plan=PLAN, narrate=[].append)
    assert study.read_bytes() == before


def test_study_in_use_is_refused(tmp_path, data):
    with (tmp_path / "a.sqlite.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="in use by another search"):
            search(data, tmp_path / "a")


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"trials": 0}, "trials must be >= 1; got 0"),
        ({"minutes": 0.0}, "minutes must be > 0; got 0"),
        ({"settings": TrainingSettings(hidden=17)}, r"hidden must be 16\|32\|64\|128; got 17"),
    ],
)
def test_unusable_plans_are_refused_by_name(bad, text):
    with pytest.raises(ConfigError, match=text):
        Plan(**bad)


def test_table_shows_the_best_trial_first(found):
    head, best, *others = (line.split() for line in found.lines())
    assert head == ["trial", "loss", "epochs", *SPACE]
    losses = [float(row[1]) for row in (best, *others)]
    assert losses == sorted(losses)
    assert len(losses) == 3


def test_page_about_training_lists_the_space():
    page = (DOCS / "training.md").read_text()
    rows = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert rows == set(SPACE)


def test_help_shows_the_space():
    shown = " ".join(CliRunner().invoke(app, ["tune", "--help"]).output.split())
    assert all(f"{name} {values}" in shown for name, values in SPACE.items())


def test_the_study_can_be_read_by_other_tools(folder, found):
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'a.sqlite'}")
    try:
        study = optuna.load_study(study_name=found.study, storage=storage)
        assert study.best_value == found.ranking[0].value
        assert json.loads(json.dumps(study.user_attrs["identity"]))["epochs"] == 2
    finally:
        storage.remove_session()
        storage.engine.dispose()
