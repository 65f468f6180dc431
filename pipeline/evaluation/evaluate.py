"""`streamgauge evaluate`: measures how well a model detects, next to simple baselines.

The model is trained on the train part. It scores the test part causally with the scorer of
the live job. Labels are read only after that. Every entity counts once in a mean. An entity
without a labelled event has no recall, but its false alerts count. The results of the
baselines are cached in `<out>/baselines.json`, and used again while data and code are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.alerts import budget
from streamgauge.models.alerts.policy import BudgetSpec
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.series import Series
from streamgauge.pipeline.console.progress import Narrate, progress, to_stderr
from streamgauge.pipeline.data import labels
from streamgauge.pipeline.data.datasets import NAB_WINDOWS, Dataset, load
from streamgauge.pipeline.evaluation import baselines, detectors, metrics, nab, results
from streamgauge.pipeline.evaluation.detectors import Detection, by_baselines, by_model
from streamgauge.pipeline.evaluation.metrics import Ranking, message_metrics, ranking
from streamgauge.pipeline.evaluation.results import BUDGETS, DetectorResult, Evaluation, budget_key

ARTIFACT, REPORT, BASELINES_CACHE = "artifact", "evaluation.json", "baselines.json"
#: Threshold on the likelihood of NAB, set without labels: a tail of 1e-5, as in its paper.
NAB_FIXED = 5.0


def evaluate(
    data: Path,
    artifact: Path | None,
    out: Path,
    *,
    processes: int | None = None,
    narrate: Narrate = to_stderr,
) -> Evaluation:
    """Evaluate on `data`, and write artifact, results and baselines to `out`.

    Args:
        data: a folder in a layout of `pipeline.data.datasets`, with labels in its test part.
        artifact: the model; None trains one on the train part first.
        out: folder for the output.
        processes: number of processes for the baselines; None for one per core.
        narrate: receives the lines of progress.

    Raises:
        ConfigError: the data cannot be evaluated.
    """
    metrics.ranking_library()  # a missing library is reported before minutes of training
    test = load(data, "test")
    if all(entity.labels is None for entity in test.series):
        raise ConfigError(f"evaluate: {data} must have labels in its test part; it has none")
    train = load(data, "train") if artifact is None or _has_train(data) else None
    out.mkdir(parents=True, exist_ok=True)
    if artifact is None:
        from streamgauge.pipeline.training.train import train as fit

        artifact = out / ARTIFACT
        fit(data, artifact, narrate=narrate)
    loaded = artifacts.load(artifact)
    with progress("score", len(BUDGETS) * test.events, narrate) as advance:
        detection = by_model(loaded, test, BUDGETS, advance=advance)
    is_nab = (data / NAB_WINDOWS).is_file()
    results_of_all = [judge(detection, test, is_nab)]
    if train is not None:
        results_of_all += _baselines(
            train, test, is_nab, out=out, processes=processes or _cores(), narrate=narrate
        )
    evaluation = Evaluation(str(data), loaded.digest, tuple(results_of_all))
    (out / REPORT).write_text(json.dumps(evaluation.to_json(), indent=1) + "\n")
    return evaluation


def _has_train(data: Path) -> bool:
    return any(data.glob("*.train.parquet")) or (data / "data").is_dir()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _baselines(
    train: Dataset, test: Dataset, is_nab: bool, *, out: Path, processes: int, narrate: Narrate
) -> list[DetectorResult]:
    """The results of the baselines; from the cache if neither data nor code has changed."""
    cache, key = out / BASELINES_CACHE, _baselines_key(train, test)
    if cache.is_file():
        cached = json.loads(cache.read_text())
        if cached["key"] == key:
            return [DetectorResult.from_json(result) for result in cached["results"]]
    with progress("baselines", len(test.series), narrate, unit="entities") as advance:
        detections = by_baselines(
            train,
            test,
            BUDGETS,
            from_row=_from_row(test, is_nab),
            processes=processes,
            advance=advance,
        )
    with progress("judge baselines", len(detections), narrate, unit="detectors") as advance:
        judged = []
        for detection in detections:
            judged.append(judge(detection, test, is_nab))
            advance(1)
    content = {"key": key, "results": [asdict(result) for result in judged]}
    cache.write_text(json.dumps(content) + "\n")
    return judged


def _baselines_key(train: Dataset, test: Dataset) -> str:
    """SHA-256 over the data, and over the code that makes the cached results."""
    digest = hashlib.sha256(f"{train.content_hash}{test.content_hash}".encode())
    for module in (baselines, budget, detectors, labels, metrics, nab, results):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()


def judge(
    detection: Detection,
    test: Dataset,
    is_nab: bool,
    *,
    budgets: Mapping[float, BudgetSpec] = BUDGETS,
) -> DetectorResult:
    """Compare a detection with the labels, which are read here for the first time.

    Args:
        detection: of every series of `test`.
        test: the series with their labels.
        is_nab: score by the rules of NAB too, and leave out the probation of each series.
        budgets: by messages per day; the detection must have them.
    """
    from_row = _from_row(test, is_nab)
    rankings = tuple(
        Ranking(None, None, None)
        if entity.labels is None
        else ranking(score[first:], entity.labels[first:])
        for entity, score, first in zip(test.series, detection.score, from_row, strict=True)
    )
    at_budget = {
        budget_key(per_day): tuple(
            message_metrics(sent, _labels(entity), entity.event_time_us, from_row=first)
            for sent, entity, first in zip(
                detection.sent[per_day], test.series, from_row, strict=True
            )
        )
        for per_day in budgets
    }
    return DetectorResult(
        detection.name,
        tuple(entity.entity_id for entity in test.series),
        rankings,
        messages=at_budget,
        nab=_nab_scores(detection, test) if is_nab else None,
    )


def _from_row(test: Dataset, is_nab: bool) -> list[int]:
    """The first row of each series that counts: in NAB the first after the probation."""
    return [nab.probation_rows(len(entity.values)) if is_nab else 0 for entity in test.series]


def _labels(entity: Series) -> NDArray[Any]:
    """The labels (T,); events without a label count as normal."""
    return np.zeros(len(entity.values), np.uint8) if entity.labels is None else entity.labels


def _nab_scores(detection: Detection, test: Dataset) -> dict[str, float]:
    """The scores of the NAB benchmark, computed on the onsets of the likelihood.

    Returns:
        `standard` and the other profiles by the published rule; `threshold`, the one of
        `standard`; `fixed`, the score at a threshold that was set without labels; `every_row`,
        the standard score without the onsets; `lowest`, the score of the worst file at the
        threshold of `standard`.
    """
    pairs = list(zip(test.series, detection.score, strict=True))
    labels = [entity.labels for entity, _ in pairs if entity.labels is not None]
    every = [
        nab.likelihood(np.square(score, dtype=np.float64))
        for entity, score in pairs
        if entity.labels is not None
    ]
    unlikely = [nab.onsets(score) for score in every]
    best = {name: nab.Corpus(labels, name).best(unlikely) for name in nab.PROFILES}
    threshold = best["standard"].threshold
    files = [
        nab.Corpus([file_labels]).at([score], threshold)
        for file_labels, score in zip(labels, unlikely, strict=True)
        if file_labels.any()
    ]
    standard = nab.Corpus(labels)
    return {
        **{name: each.score for name, each in best.items()},
        "threshold": threshold if np.isfinite(threshold) else 1e9,
        "fixed": standard.at(unlikely, NAB_FIXED),
        "every_row": standard.best(every).score,
        "lowest": min(files, default=0.0),
    }
