"""Runs detectors on a test part: the model, with the scorer of the live job, and baselines.

Nothing here reads a label. A detection consists of the scores and, per budget, of the events
for which a message is sent. `pipeline.evaluation.evaluate` compares both with the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.alerts import budget
from streamgauge.models.alerts.budget import Start, start_of
from streamgauge.models.alerts.policy import AlertPolicy, BudgetSpec
from streamgauge.models.alerts.thresholds import log_score
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.block import Block
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.series import Series, series_blocks
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline.console.progress import Advance
from streamgauge.pipeline.data.datasets import Dataset
from streamgauge.pipeline.evaluation import baselines
from streamgauge.pipeline.evaluation.baselines import BASELINES

HELD_OUT = 0.3  # share of the train part, at its end, that sets the first thresholds of baselines
MESSAGES = ("opened", "updated")  # the closing of an alert does not count as a message

#: Scores (T,) of one entity, and by budget the first threshold of the entity.
BaselineScores = tuple[NDArray[Any], dict[float, Start]]


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """The output of one detector for every series of a test part."""

    name: str
    #: (T,) per series, finite, high is anomalous.
    score: list[NDArray[Any]]
    #: By budget in messages per day: (T,) bool per series, True where a message is sent.
    sent: dict[float, list[NDArray[Any]]]


def by_model(
    artifact: Artifact,
    test: Dataset,
    budgets: Mapping[float, BudgetSpec],
    *,
    advance: Advance,
    scoring: ScoringPolicy | None = None,
) -> Detection:
    """Score `test` with the scorer of the live job, every entity from its first event.

    An entity of the train part starts from its own statistics, any other from pooled ones.

    Args:
        artifact: the model.
        test: must have the features of the artifact.
        budgets: by messages per day.
        advance: called with the number of events just scored; each budget scores all events.
        scoring: policy of the scorer; None for the default.

    Raises:
        ConfigError: `test` has other features.
    """
    sent: dict[float, list[NDArray[Any]]] = {}
    score: list[NDArray[Any]] = []
    for per_day, spec in budgets.items():
        policy = AlertPolicy(per_entity_day=spec.per_day, cooldown_s=spec.cooldown_s)
        # The scores are the same for every budget.
        score, sent[per_day] = _score_live(
            artifact, test, (scoring or ScoringPolicy(), policy), advance=advance
        )
    return Detection("streamgauge", score, sent)


def by_baselines(
    train: Dataset,
    test: Dataset,
    budgets: Mapping[float, BudgetSpec],
    *,
    from_row: Sequence[int],
    processes: int,
    advance: Advance,
) -> list[Detection]:
    """Score `test` with every baseline, each fitted per entity on `train`.

    Args:
        train: an entity without a train part gets scores of 0.
        test: what is scored.
        budgets: by messages per day.
        from_row: per series of `test`, the first row that may send a message.
        processes: number of processes; 1 stays in this one.
        advance: called with 1 after each entity.
    """
    scored: dict[str, list[BaselineScores]] = {name: [] for name in BASELINES}
    with _mapper(processes) as run:
        for result in run(_score_entity, _tasks(train, test), repeat(dict(budgets))):
            for name, scores in result.items():
                scored[name].append(scores)
            advance(1)
    return [
        Detection(
            name,
            [score for score, _ in entities],
            {
                per_day: _messages(
                    [score for score, _ in entities],
                    test.series,
                    starts=[starts[per_day] for _, starts in entities],
                    spec=spec,
                    from_row=from_row,
                )
                for per_day, spec in budgets.items()
            },
        )
        for name, entities in scored.items()
    ]


def _tasks(train: Dataset, test: Dataset) -> list[tuple[int, Series, Series]]:
    """Per entity of `test`: a seed, its train part (maybe empty) and its test part, unlabelled."""
    trained = {entity.entity_id: replace(entity, labels=None) for entity in train.series}
    no_times, no_values = np.empty(0, np.int64), np.empty((0, train.schema.size), np.float32)
    return [
        (
            seed,
            trained.get(entity.entity_id) or Series(entity.entity_id, no_times, no_values),
            replace(entity, labels=None),
        )
        for seed, entity in enumerate(test.series)
    ]


def _messages(
    scores: Sequence[NDArray[Any]],
    series: Sequence[Series],
    *,
    starts: Sequence[Start],
    spec: BudgetSpec,
    from_row: Sequence[int],
) -> list[NDArray[Any]]:
    """Where messages of each series (T,) are sent; all series are computed side by side."""
    lengths = [len(score) for score in scores]
    shape = (max(lengths), len(lengths))
    level, times = np.full(shape, np.nan), np.zeros(shape, np.int64)
    may_send = np.zeros(shape, bool)
    for i, (score, entity) in enumerate(zip(scores, series, strict=True)):
        level[: lengths[i], i] = log_score(score)
        times[: lengths[i], i] = entity.event_time_us
        may_send[from_row[i] : lengths[i], i] = True
    sent = budget.messages(level, times, spec, start=_stacked(starts), may_send=may_send)
    return [sent[:length, i] for i, length in enumerate(lengths)]


def _score_entity(
    task: tuple[int, Series, Series], budgets: Mapping[float, BudgetSpec]
) -> dict[str, BaselineScores]:
    """Scores and first thresholds of one entity, by baseline."""
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


def _score_live(
    artifact: Artifact,
    dataset: Dataset,
    policies: tuple[ScoringPolicy, AlertPolicy],
    *,
    advance: Advance,
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Per series the scores (T,), and (T,) bool where a message is sent."""
    if dataset.schema.names != artifact.schema.names:
        raise ConfigError(
            f"evaluate: the data must have the artifact's {artifact.schema.size} features in "
            f"order; it has {dataset.schema.size}: {', '.join(dataset.schema.names[:5])} …"
        )
    scorer = Scorer(artifact, *policies)
    table = EntityTable(scorer.layout)
    lengths = [len(entity.values) for entity in dataset.series]
    score, sent = np.empty(sum(lengths), np.float32), np.zeros(sum(lengths), bool)
    for block in _interleaved(dataset.series):
        scored = scorer.step(table, block)
        score[scored.block.row] = scored.score
        messages = (each for each in scored.transitions if each.status in MESSAGES)
        sent[[message.row for message in messages]] = True
        advance(len(block))
    cuts = np.cumsum(lengths)[:-1]
    return np.split(score, cuts), np.split(sent, cuts)


def _stacked(starts: Sequence[Start]) -> Start:
    """One start of arrays, one value per series."""
    log_threshold, threshold_rate, floor = (
        np.array([getattr(start, name) for start in starts])
        for name in ("log_threshold", "threshold_rate", "floor")
    )
    return Start(log_threshold, threshold_rate, floor)


def _interleaved(series: Sequence[Series]) -> Iterator[Block]:
    """Blocks with the first events of all entities, then their second events, and so on.

    The scorer steps several entities at once; in this order a block holds many of them, however
    far apart in time they are. `Block.row` is the number of the event in all series.
    """
    owner = np.repeat(np.arange(len(series)), [len(entity.values) for entity in series])
    rank = np.concatenate([np.arange(len(entity.values)) for entity in series])
    order = np.lexsort((owner, rank))
    return series_blocks(series, order, order)


@contextmanager
def _mapper(processes: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A `map` that runs in `processes` processes."""
    if processes < 2:
        yield map
        return
    # Not forked: the fork of a process that has trained hangs in the threads of torch.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield pool.map
