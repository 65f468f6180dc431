from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from fixtures.artifacts import make_artifact
from streamgauge.models.alerts import calibration, thresholds
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.errors import ConfigError
from streamgauge.models.training.offline import score_series
from streamgauge.models.training.trainer import TrainingSettings
from streamgauge.pipeline.cli.main import app
from streamgauge.pipeline.data.datasets import load
from streamgauge.pipeline.evaluation import ablation, baselines, detectors, evaluate, quality_page
from streamgauge.pipeline.evaluation.results import BUDGETS, lines
from streamgauge.pipeline.training import train as training

SMALL = TrainingSettings(hidden=4, epochs=1, rows=4, chunk=16)
KEYS = {
    "auc_pr",
    "vus_pr",
    "best_f1",
    "event_recall_at_1_per_day",
    "false_per_day_at_1",
    "nab_standard",
}


def make_data(folder: Path, rows: int = 2_000, labelled: bool = True) -> Path:
    """Three entities of noise with a jump of 30 labelled events each; "calm" has none."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("calm", "known-0", "known-1")):
        rng = np.random.default_rng(seed)
        train, test = rng.normal(size=(2, rows, 3)).astype(np.float32)
        label = np.zeros(rows, np.uint8)
        if name != "calm":
            test[1_200:1_230] += 6.0
            label[1_200:1_230] = 1
        for part, values in (("train", train), ("test", test)):
            columns = {f"f{i:02d}": values[:, i] for i in range(3)}
            if part == "test" and labelled:
                columns["label"] = label
            pq.write_table(pa.table(columns), folder / f"{name}.{part}.parquet")
    return folder


def make_nab(folder: Path, rows: int = 5_000, files: int = 4) -> Path:
    """Files with one window each, around a jump."""
    windows = {}
    (folder / "data" / "made").mkdir(parents=True)
    (folder / "labels").mkdir()
    for seed in range(files):
        values = np.random.default_rng(seed).normal(size=rows)
        values[1_000:1_010] += 12.0
        times = np.datetime64("2024-01-01T00:00:00") + 300 * np.arange(rows)
        text = [str(time).replace("T", " ") for time in times]
        body = "".join(f"{time},{value:.4f}\n" for time, value in zip(text, values, strict=True))
        (folder / "data" / "made" / f"{seed}.csv").write_text("timestamp,value\n" + body)
        windows[f"made/{seed}.csv"] = [[text[980], text[1_080]]]
    (folder / "labels" / "combined_windows.json").write_text(json.dumps(windows))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def artifact(data, tmp_path_factory) -> Path:
    """Random weights, with calibration and thresholds from scores on the train part."""
    made = artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a"))
    series = load(data, "train").series
    scores = [one.score[100:] for one in score_series(made.forecaster, series)]
    by_entity = dict(zip([one.entity_id for one in series], scores, strict=True))
    known = [by_entity[name] for name in made.forecaster.priors.entity_ids]
    times = [series[0].event_time_us[100:]] * len(known)
    out = tmp_path_factory.mktemp("fitted") / "a"
    artifacts.write(
        out,
        made.forecaster,
        calibration.fit(np.concatenate(scores)),
        thresholds=thresholds.fit(known, times),
        drift_reference=made.drift_reference,
        washout_events=made.washout_events,
        training={},
    )
    return out


@pytest.fixture(scope="module")
def found(data, artifact, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return evaluate.evaluate(data, artifact, out, processes=1, narrate=[].append), out


def test_scores_are_those_of_the_live_scorer(data, artifact):
    loaded = artifacts.load(artifact)
    test = load(data, "test")
    told = detectors.by_model(loaded, test, BUDGETS, advance=lambda count: None)
    # Nothing is a surprise and freezes learning while warming: there, kernel and scorer agree.
    alone = score_series(loaded.forecaster, test.series)
    for one, other in zip(told.score, alone, strict=True):
        np.testing.assert_array_equal(one[:20], other.score[:20])
    warming = slice(0, loaded.washout_events)
    assert not any(one[warming].any() for sent in told.sent.values() for one in sent)
    assert any(one.any() for one in told.sent[1.0])


def test_labels_change_no_score_and_no_message(data, artifact):
    loaded, test, train = artifacts.load(artifact), load(data, "test"), load(data, "train")
    blind = replace(test, series=tuple(replace(one, labels=None) for one in test.series))
    for run in (
        lambda part: [detectors.by_model(loaded, part, BUDGETS, advance=lambda count: None)],
        lambda part: detectors.by_baselines(
            train, part, BUDGETS, from_row=[0, 0, 0], processes=1, advance=lambda count: None
        ),
    ):
        for one, other in zip(run(test), run(blind), strict=True):
            np.testing.assert_array_equal(np.concatenate(one.score), np.concatenate(other.score))
            for budget in BUDGETS:
                np.testing.assert_array_equal(
                    np.concatenate(one.sent[budget]), np.concatenate(other.sent[budget])
                )


def test_an_entity_is_scored_as_if_it_were_alone(data, artifact):
    loaded, test = artifacts.load(artifact), load(data, "test")
    together = detectors.by_model(loaded, test, BUDGETS, advance=lambda count: None)
    for i in range(3):
        one = replace(test, series=test.series[i : i + 1])
        alone = detectors.by_model(loaded, one, BUDGETS, advance=lambda count: None)
        np.testing.assert_array_equal(alone.score[0], together.score[i])


def test_a_jump_is_found_by_the_model_and_not_by_chance(found):
    headline = found[0].headline()
    assert headline["mean"]["auc_pr"] > 0.5
    at = found[0].results[0].at(1.0)
    assert at["recall"] > 5 * at["recall_by_chance"] > 0
    assert headline["baselines"]["random"]["mean"]["auc_pr"] < 0.1


def test_headline_has_the_promised_keys_for_every_detector(found):
    headline = found[0].headline()
    assert set(headline["baselines"]) == set(baselines.BASELINES)
    for one in (headline, *headline["baselines"].values()):
        assert set(one["mean"]) == set(one["worst"]) == KEYS
        assert one["mean"]["nab_standard"] is None
        assert one["worst"]["auc_pr"] <= one["mean"]["auc_pr"]
        assert one["worst"]["false_per_day_at_1"] >= one["mean"]["false_per_day_at_1"]


def test_entities_without_anomalies_have_no_ranking_but_their_false_alerts_count(found):
    model = found[0].results[0]
    assert model.entities[0] == "calm"
    assert model.rankings[0].auc_pr is None
    assert all(model.messages[key][0].recall is None for key in model.messages)
    assert model.messages["1"][0].false == model.messages["1"][0].messages


def test_every_entity_and_detector_has_a_line(found):
    text = list(lines(found[0]))
    for name in ("calm", "known-1", "mean streamgauge", "worst ridge", "mean random"):
        assert sum(line.startswith(name) for line in text) == 1, name


def test_baselines_are_cached_while_data_and_code_are_the_same(data, artifact, found, monkeypatch):
    first, out = found

    def refuse(*args, **more):
        raise AssertionError("baselines were computed again")

    monkeypatch.setattr(evaluate, "by_baselines", refuse)
    again = evaluate.evaluate(data, artifact, out, processes=1, narrate=[].append)
    assert again.headline() == first.headline()
    kept = json.loads((out / "baselines.json").read_text())
    (out / "baselines.json").write_text(json.dumps({**kept, "key": "other"}))
    with pytest.raises(AssertionError, match="computed again"):
        evaluate.evaluate(data, artifact, out, processes=1, narrate=[].append)
    (out / "baselines.json").write_text(json.dumps(kept))


def test_processes_change_nothing(data):
    train, test = load(data, "train"), load(data, "test")
    one, two = (
        detectors.by_baselines(
            train, test, BUDGETS, from_row=[0, 0, 0], processes=count, advance=lambda done: None
        )
        for count in (1, 2)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(np.concatenate(a.score), np.concatenate(b.score))


def test_a_test_part_alone_is_scored_without_baselines(data, artifact, tmp_path):
    for path in data.glob("*.test.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = evaluate.evaluate(tmp_path, artifact, tmp_path / "out", processes=1, narrate=[].append)
    assert [one.name for one in found.results] == ["streamgauge"]


def test_data_without_labels_or_with_other_features_is_refused(artifact, tmp_path):
    blind = make_data(tmp_path / "blind", rows=300, labelled=False)
    with pytest.raises(ConfigError, match="must have labels"):
        evaluate.evaluate(blind, artifact, tmp_path / "out", narrate=[].append)
    other = make_artifact(tmp_path / "other", features=2)
    full = make_data(tmp_path / "full", rows=1_300)
    with pytest.raises(ConfigError, match="artifact's 2 features"):
        evaluate.evaluate(full, other, tmp_path / "out", narrate=[].append)


def test_nab_is_evaluated_after_the_probation_and_gets_its_score(tmp_path):
    nab = make_nab(tmp_path / "nab")
    training.train(nab, tmp_path / "a", SMALL, [].append)
    found = evaluate.evaluate(nab, tmp_path / "a", tmp_path / "out", processes=1, narrate=[].append)
    model, random = found.results[0], found.results[1]
    assert model.headline()["mean"]["nab_standard"] > 80
    assert random.headline()["mean"]["nab_standard"] < 60


def test_without_an_artifact_it_trains_and_the_command_ends_with_one_object(
    data, tmp_path, monkeypatch
):
    fit = training.train
    monkeypatch.setattr(
        training, "train", lambda data, out, narrate: fit(data, out, SMALL, [].append)
    )
    words = ["evaluate", "--data", str(data), "--out", str(tmp_path), "--json", "--processes", "1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    last = json.loads(result.stdout.splitlines()[-1])
    assert set(last) == {"mean", "worst", "baselines"}
    assert (tmp_path / "artifact" / "manifest.json").is_file()
    assert json.loads((tmp_path / "evaluation.json").read_text())["mean"] == last["mean"]


def test_the_page_is_filled_in_between_its_markers_and_nowhere_else(found):
    page = f"before\n{quality_page.BEGIN}\nold\n{quality_page.END}\nafter\n"
    parts = {"smd": {"whole": found[0].results[0], "no level": found[0].results[1]}}
    filled = quality_page.filled_in(page, {"smd": found[0]}, parts)
    assert filled.startswith(f"before\n{quality_page.BEGIN}\n")
    assert filled.endswith(f"{quality_page.END}\nafter\n")
    assert "old" not in filled
    assert "| AUC-PR |" in filled
    assert "| no level | 0." in filled
    assert quality_page.filled_in(filled, {"smd": found[0]}, parts) == filled
    with pytest.raises(ConfigError, match="must hold"):
        quality_page.filled_in("no markers", {}, {})


def test_every_variant_of_the_ablation_scores_unlike_the_whole(data, tmp_path, monkeypatch):
    training.train(data, tmp_path / "a", SMALL, [].append)
    told, judge = [], ablation.judge
    monkeypatch.setattr(
        ablation, "judge", lambda one, *rest, **more: told.append(one) or judge(one, *rest, **more)
    )
    found = ablation.ablate(data, tmp_path / "a", [].append)
    named = dict(zip(found, (np.concatenate(one.score) for one in told), strict=True))
    whole = named.pop("whole")
    np.testing.assert_array_equal(
        whole,
        np.concatenate(
            detectors.by_model(
                artifacts.load(tmp_path / "a"),
                load(data, "test"),
                BUDGETS,
                advance=lambda count: None,
            ).score
        ),
    )
    assert len(named) == 7
    for name, score in named.items():
        assert np.mean(score != whole) > 0.3, name
