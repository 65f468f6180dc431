"""Scores of a test part: by the model, as the live job would give them, and by baselines.

Nothing here looks at a label. A detector hands over scores and, per budget, where it sent
messages; what they are worth is judged in `pipeline.evaluation.evaluate`.
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

from streamgauge.models.alerts import budget
from streamgauge.models.alerts.budget import Start, start_of
from streamgauge.models.alerts.policy import AlertPolicy, BudgetSpec
from streamgauge.models.alerts.thresholds import log_score
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.block import NOTHING_BEFORE, Block
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.series import Series
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline.console.progress import Advance
from streamgauge.pipeline.data.datasets import Dataset
from streamgauge.pipeline.evaluation import baselines
from streamgauge.pipeline.evaluation.baselines import BASELINES

BLOCK_EVENTS = 4_096
HELD_OUT = 0.3  # of the train part, at its end: where thresholds of baselines start
MESSAGES = ("opened", "updated")  # a closed alert is no message


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """What one detector says about every series of a test part."""

    name: str
    #: (T,) per series, finite, high is anomalous.
    score: list[np.ndarray]
    #: By messages per day: (T,) bool per series, where it sent one.
    sent: dict[float, list[np.ndarray]]


def by_model(
    artifact: Artifact,
    test: Dataset,
    budgets: Mapping[float, BudgetSpec],
    advance: Advance,
    scoring: ScoringPolicy | None = None,
) -> Detected:
    """Score `test` with the scorer of the live job, every entity from its first event.

    An entity of the training starts from its own statistics, any other from the pool.
    """
    sent: dict[float, list[np.ndarray]] = {}
    score: list[np.ndarray] = []
    for per_day, spec in budgets.items():
        policy = AlertPolicy(per_entity_day=spec.per_day, cooldown_s=spec.cooldown_s)
        score, sent[per_day] = _live(
            artifact, test, (scoring or ScoringPolicy(), policy), advance
        )  # one score for all budgets
    return Detected("streamgauge", score, sent)


def by_baselines(
    train: Dataset,
    test: Dataset,
    budgets: Mapping[float, BudgetSpec],
    from_row: Sequence[int],
    processes: int,
    advance: Advance,
) -> list[Detected]:
    """Score `test` with every baseline, each fitted per entity on `train`.

    Messages are sent from the rows `from_row` of the series on.
    """
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
            {
                per_day: _told(told, test.series, from_row, per_day, spec)
                for per_day, spec in budgets.items()
            },
        )
        for name, told in found.items()
    ]


def _told(
    found: Sequence[tuple[np.ndarray, dict[float, Start]]],
    series: Sequence[Series],
    from_row: Sequence[int],
    per_day: float,
    spec: BudgetSpec,
) -> list[np.ndarray]:
    """Where messages of each series would be sent, all series side by side."""
    lengths = [len(score) for score, _ in found]
    shape = (max(lengths), len(lengths))
    level, times = np.full(shape, np.nan), np.zeros(shape, np.int64)
    may_tell = np.zeros(shape, bool)
    for i, ((score, _), one) in enumerate(zip(found, series, strict=True)):
        level[: lengths[i], i] = log_score(score)
        times[: lengths[i], i] = one.event_time_us
        may_tell[from_row[i] : lengths[i], i] = True
    start = _side_by_side([starts[per_day] for _, starts in found])
    sent = budget.messages(level, times, spec, start=start, may_send=may_tell)
    return [sent[:length, i] for i, length in enumerate(lengths)]


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
    artifact: Artifact,
    dataset: Dataset,
    policies: tuple[ScoringPolicy, AlertPolicy],
    advance: Advance,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores (T,) of every series and where messages (T,) were sent."""
    if dataset.schema.names != artifact.schema.names:
        raise ConfigError(
            f"evaluate: the data must have the artifact's {artifact.schema.size} features in "
            f"order; it has {dataset.schema.size}: {', '.join(dataset.schema.names[:5])} …"
        )
    scorer = Scorer(artifact, *policies)
    table = EntityTable(scorer.layout)
    lengths = [len(one.values) for one in dataset.series]
    score, sent = np.empty(sum(lengths), np.float32), np.zeros(sum(lengths), bool)
    for block in _blocks(dataset.series):
        told = scorer.step(table, block)
        score[told.block.row] = told.score
        sent[[one.row for one in told.transitions if one.status in MESSAGES]] = True
        advance(len(block))
    cuts = np.cumsum(lengths)[:-1]
    return np.split(score, cuts), np.split(sent, cuts)


def _side_by_side(starts: Sequence[Start]) -> Start:
    log_threshold, threshold_rate, floor = (
        np.array([getattr(one, name) for one in starts])
        for name in ("log_threshold", "threshold_rate", "floor")
    )
    return Start(log_threshold, threshold_rate, floor)


def _blocks(series: Sequence[Series]) -> Iterator[Block]:
    """All events as blocks of one partition: first events of all entities, then second ones.

    So entities share groups wherever in time they lie. `Block.row`, which no score depends
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
