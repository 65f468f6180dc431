"""`streamgauge evaluate`: how well a model detects, beside what simple detectors reach.

Train on the train part, score the test part causally with the scorer of the live job, and
only then look at labels. Every entity counts once in a mean; an entity without a labelled
event has no recall, but its false alerts count. What baselines reach is kept in
`<out>/baselines.json` and read back while data and code are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from streamgauge.models.alerts import budget
from streamgauge.models.alerts.policy import BudgetSpec
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.series import Series
from streamgauge.pipeline.console.progress import Narrate, progress, to_stderr
from streamgauge.pipeline.data.datasets import NAB_WINDOWS, Dataset, load
from streamgauge.pipeline.evaluation import baselines, detectors, metrics, nab, results
from streamgauge.pipeline.evaluation.detectors import Detected, by_baselines, by_model
from streamgauge.pipeline.evaluation.metrics import Ranking, judged, ranking
from streamgauge.pipeline.evaluation.results import BUDGETS, DetectorResult, Evaluation, budget_key

ARTIFACT, REPORT, BASELINES_KEPT = "artifact", "evaluation.json", "baselines.json"
#: Threshold set without labels on the likelihood of NAB: a tail of 1e-5, as its authors use.
NAB_FIXED = 5.0


def evaluate(
    data: Path,
    artifact: Path | None,
    out: Path,
    processes: int | None = None,
    narrate: Narrate = to_stderr,
) -> Evaluation:
    """Evaluate on `data`, and keep artifact, report and baselines in `out`.

    Args:
        data: a folder in a layout of `pipeline.data.datasets`, with labels in its test part.
        artifact: scores with this one; None trains on the train part first.
        out: folder for what is made.
        processes: for baselines; None = one per core.
        narrate: takes the lines of narration.

    Raises:
        ConfigError: the data cannot be evaluated.
    """
    metrics.library()  # before minutes of training, not behind them
    test = load(data, "test")
    if all(one.labels is None for one in test.series):
        raise ConfigError(f"evaluate: {data} must have labels in its test part; it has none")
    train = load(data, "train") if artifact is None or _has_train(data) else None
    out.mkdir(parents=True, exist_ok=True)
    if artifact is None:
        from streamgauge.pipeline.training.train import train as fit

        artifact = out / ARTIFACT
        fit(data, artifact, narrate=narrate)
    loaded = artifacts.load(artifact)
    with progress("score", len(BUDGETS) * test.events, narrate) as advance:
        told = by_model(loaded, test, BUDGETS, advance)
    is_nab = (data / NAB_WINDOWS).is_file()
    verdicts = [judge(told, test, is_nab)]
    if train is not None:
        verdicts += _baselines(train, test, is_nab, out, processes or _cores(), narrate)
    found = Evaluation(str(data), loaded.digest, tuple(verdicts))
    (out / REPORT).write_text(json.dumps(found.to_json(), indent=1) + "\n")
    return found


def _has_train(data: Path) -> bool:
    return any(data.glob("*.train.parquet")) or (data / "data").is_dir()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _baselines(
    train: Dataset, test: Dataset, is_nab: bool, out: Path, processes: int, narrate: Narrate
) -> list[DetectorResult]:
    """Verdicts on the baselines, from the last time if nothing has changed since."""
    kept, key = out / BASELINES_KEPT, _baselines_key(train, test)
    if kept.is_file():
        before = json.loads(kept.read_text())
        if before["key"] == key:
            return [DetectorResult.from_json(one) for one in before["verdicts"]]
    with progress("baselines", len(test.series), narrate, unit="entities") as advance:
        told = by_baselines(train, test, BUDGETS, _from_row(test, is_nab), processes, advance)
    with progress("judge baselines", len(told), narrate, unit="detectors") as advance:
        verdicts = []
        for one in told:
            verdicts.append(judge(one, test, is_nab))
            advance(1)
    kept.write_text(json.dumps({"key": key, "verdicts": [asdict(one) for one in verdicts]}) + "\n")
    return verdicts


def _baselines_key(train: Dataset, test: Dataset) -> str:
    """SHA-256 over the data and the code whose figures are kept."""
    digest = hashlib.sha256(f"{train.content_hash}{test.content_hash}".encode())
    for module in (baselines, budget, detectors, metrics, nab, results):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()


def judge(
    told: Detected, test: Dataset, is_nab: bool, budgets: Mapping[float, BudgetSpec] = BUDGETS
) -> DetectorResult:
    """Set scores against labels; the first place where labels are read."""
    from_row = _from_row(test, is_nab)
    rankings = tuple(
        Ranking(None, None, None) if one.labels is None else ranking(score[at:], one.labels[at:])
        for one, score, at in zip(test.series, told.score, from_row, strict=True)
    )
    at_budget = {
        budget_key(per_day): tuple(
            judged(sent, _labels(one), one.event_time_us, at)
            for sent, one, at in zip(told.sent[per_day], test.series, from_row, strict=True)
        )
        for per_day in budgets
    }
    found = _nab_scores(told, test) if is_nab else None
    return DetectorResult(
        told.name, tuple(one.entity_id for one in test.series), rankings, at_budget, found
    )


def _from_row(test: Dataset, is_nab: bool) -> list[int]:
    """Where judging of each series begins: in NAB behind its probation."""
    return [nab.probation_rows(len(one.values)) if is_nab else 0 for one in test.series]


def _labels(one: Series) -> np.ndarray:
    """(T,); events without a label count as normal."""
    return np.zeros(len(one.values), np.uint8) if one.labels is None else one.labels


def _nab_scores(told: Detected, test: Dataset) -> dict[str, float]:
    """The benchmark's own score, from the onsets of the likelihood of the squared score.

    `standard` and the other profiles by the published rule, `fixed` at a threshold set
    without labels, `every_row` without the onsets, `lowest` of the worst file at the
    threshold of `standard`.
    """
    pairs = list(zip(test.series, told.score, strict=True))
    labels = [one.labels for one, _ in pairs if one.labels is not None]
    every = [
        nab.likelihood(np.square(score, dtype=np.float64))
        for one, score in pairs
        if one.labels is not None
    ]
    unlikely = [nab.onsets(score) for score in every]
    best = {name: nab.Corpus(labels, name).best(unlikely) for name in nab.PROFILES}
    threshold = best["standard"].threshold
    files = [
        nab.Corpus([one]).at([score], threshold)
        for one, score in zip(labels, unlikely, strict=True)
        if one.any()
    ]
    standard = nab.Corpus(labels)
    return {
        **{name: each.score for name, each in best.items()},
        "threshold": threshold if np.isfinite(threshold) else 1e9,
        "fixed": standard.at(unlikely, NAB_FIXED),
        "every_row": standard.best(every).score,
        "lowest": min(files, default=0.0),
    }
