"""Scores of a test part: by the model, as the live job would give them, and by baselines.

Nothing here looks at a label. A detector hands over scores and, per budget, where the
threshold of each entity starts; what they are worth is judged in `pipeline.evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from multiprocessing import get_context

import numpy as np
import pyarrow as pa

from models.alerting import WARMING, AlertPolicy
from models.artifact import Artifact
from models.block import NOTHING_BEFORE, Block
from models.budget import ETA_STD, BudgetSpec, Start, start_of
from models.calibration import Calibration
from models.errors import ConfigError
from models.scorer import Scorer, ScoringPolicy
from models.series import Series
from models.table import EntityTable
from pipeline import baselines
from pipeline.baselines import BASELINES
from pipeline.datasets import Dataset
from pipeline.progress import Advance

BLOCK_EVENTS = 4_096
HELD_OUT = 0.3  # of the train part, at its end: where thresholds of baselines start
SCORE_MIN = 1e-9  # a score of 0 has no logarithm
TAIL_MIN = 40  # events below which an end says nothing
QUANTILES = 2_000  # of a calibration, to take its deviation from


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """What one detector says about every series of a test part."""

    name: str
    #: (T,) per series, finite, high is anomalous.
    score: list[np.ndarray]
    #: (T,) bool per series, False while the detector is warming.
    may_tell: list[np.ndarray]
    #: By messages per day: scalars, or (N,) over the series.
    starts: dict[float, Start]


def log_score(score: np.ndarray) -> np.ndarray:
    """What thresholds of budgets work on."""
    return np.log(np.maximum(score, SCORE_MIN, dtype=np.float64))


def by_model(
    artifact: Artifact,
    train: Dataset | None,
    test: Dataset,
    budgets: Mapping[float, BudgetSpec],
    advance: Advance,
) -> Detected:
    """Score `test` with the scorer of the live job, every entity from its first event.

    An entity of the training starts from its own statistics, any other from the pool. Its
    threshold starts from its scores on the end of `train`; without that, where the
    artifact's calibration of all entities says.
    """
    told = _live(artifact, test, advance)
    per_day = 86_400e6 / test.cadence_us
    pooled = {
        budget: _pooled_start(artifact.calibration, per_day / spec.per_day)
        for budget, spec in budgets.items()
    }
    tails = {} if train is None else _tails(artifact, train, advance)
    starts = {
        budget: _side_by_side(
            [
                start_of(*tails[one.entity_id], spec) if one.entity_id in tails else pooled[budget]
                for one in test.series
            ]
        )
        for budget, spec in budgets.items()
    }
    return Detected("streamgauge", *told, starts)


def by_baselines(
    train: Dataset,
    test: Dataset,
    budgets: Mapping[float, BudgetSpec],
    processes: int,
    advance: Advance,
) -> list[Detected]:
    """Score `test` with every baseline, each fitted per entity on `train`."""
    before = {one.entity_id: replace(one, labels=None) for one in train.series}
    nothing = np.empty((0, train.schema.size), np.float32)
    tasks = [
        (
            seed,
            before.get(one.entity_id, Series(one.entity_id, np.empty(0, np.int64), nothing)),
            one,
        )
        for seed, one in enumerate(replace(one, labels=None) for one in test.series)
    ]
    found: dict[str, list[tuple[np.ndarray, dict[float, Start]]]] = {name: [] for name in BASELINES}
    with _mapper(processes) as run:
        for result in run(_of_entity, tasks, repeat(dict(budgets))):
            for name, told in result.items():
                found[name].append(told)
            advance(1)
    return [
        Detected(
            name,
            [score for score, _ in told],
            [np.ones(len(score), bool) for score, _ in told],
            {budget: _side_by_side([starts[budget] for _, starts in told]) for budget in budgets},
        )
        for name, told in found.items()
    ]


def _of_entity(
    task: tuple[int, Series, Series], budgets: Mapping[float, BudgetSpec]
) -> dict[str, tuple[np.ndarray, dict[float, Start]]]:
    """All baselines of one entity: scores of its test part and where thresholds start."""
    seed, train, test = task
    cut = int(len(train.values) * (1 - HELD_OUT))
    result = {}
    for name in BASELINES:
        score = baselines.scores(name, train.values, test.values, seed)
        starts = dict.fromkeys(budgets, Start(np.inf, 0.0, np.inf))
        if cut >= baselines.TRAIN_MIN:
            tail = log_score(baselines.scores(name, train.values[:cut], train.values[cut:], seed))
            times = train.event_time_us[cut:]
            starts = {budget: start_of(tail, times, spec) for budget, spec in budgets.items()}
        result[name] = (score, starts)
    return result


def _live(
    artifact: Artifact, dataset: Dataset, advance: Advance
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores (T,) of every series and where it was not warming."""
    if dataset.schema.names != artifact.schema.names:
        raise ConfigError(
            f"evaluate: the data must have the artifact's {artifact.schema.size} features in "
            f"order; it has {dataset.schema.size}: {', '.join(dataset.schema.names[:5])} …"
        )
    scorer = Scorer(artifact, ScoringPolicy(), AlertPolicy())
    table = EntityTable(scorer.layout)
    lengths = [len(one.values) for one in dataset.series]
    score, verdict = np.empty(sum(lengths), np.float32), np.empty(sum(lengths), np.uint8)
    for block in _blocks(dataset.series):
        told = scorer.step(table, block)
        at = told.block.row
        score[at], verdict[at] = told.score, told.verdict
        advance(len(block))
    cuts = np.cumsum(lengths)[:-1]
    return np.split(score, cuts), np.split(verdict != WARMING, cuts)


def _tails(
    artifact: Artifact, train: Dataset, advance: Advance
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Log scores of the end of each train part that is long enough, with their times.

    The artifact has seen these events, so thresholds start somewhat low.
    """
    tails = {}
    for one, score, told in zip(train.series, *_live(artifact, train, advance), strict=True):
        cut = int(len(score) * (1 - HELD_OUT))
        if told[cut:].all() and len(score) - cut >= TAIL_MIN:
            tails[one.entity_id] = log_score(score[cut:]), one.event_time_us[cut:]
    return tails


def _pooled_start(calibration: Calibration, events_per_message: float) -> Start:
    """Where a threshold starts if nothing but the artifact is known."""
    share = (np.arange(QUANTILES) + 0.5) / QUANTILES
    bulk = log_score(np.interp(-np.log(1 - share), calibration.log_once_in, calibration.grid))
    theta = float(log_score(np.asarray(calibration.threshold(events_per_message))))
    return Start(theta, ETA_STD * float(bulk.std()), float(np.median(bulk)))


def _side_by_side(starts: Sequence[Start]) -> Start:
    theta, eta, floor = (
        np.array([getattr(one, name) for one in starts]) for name in ("theta", "eta", "floor")
    )
    return Start(theta, eta, floor)


def _blocks(series: Sequence[Series]) -> Iterator[Block]:
    """All events as blocks of one partition: first events of all entities, then second ones.

    So entities share tiles wherever in time they lie. `Block.row`, which no score depends
    on, says where an event lies in all series one after the other.
    """
    values = np.concatenate([one.values for one in series]).astype(np.float32, copy=False)
    time_us = np.concatenate([one.event_time_us for one in series])
    which = np.repeat(np.arange(len(series)), [len(one.values) for one in series])
    rank = np.concatenate([np.arange(len(one.values)) for one in series])
    order = np.lexsort((which, rank))
    names = pa.array([one.entity_id for one in series], pa.string())
    for first in range(0, len(order), BLOCK_EVENTS):
        at = order[first : first + BLOCK_EVENTS]
        end = first + len(at)
        offset = np.arange(first, end, dtype=np.int64)
        entity = names.take(pa.array(which[at]))
        row = at.astype(np.int32)
        yield Block(0, first, end, NOTHING_BEFORE, offset, row, time_us[at], entity, values[at])


@contextmanager
def _mapper(processes: int) -> Iterator[Callable[..., Iterator]]:
    """`map`, in as many processes as are asked for."""
    if processes < 2:
        yield map
        return
    # Spawned: a fork of a process that has trained would hang in torch's threads.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield pool.map
