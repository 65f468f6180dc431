"""Results of an evaluation: as the JSON object of `--json` and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from streamgauge.models.alerts.policy import BudgetSpec
from streamgauge.pipeline.evaluation.metrics import MessageMetrics, Ranking, mean

BUDGETS = {budget: BudgetSpec(per_day=budget) for budget in (1.0, 0.2, 1 / 7)}
RANKINGS = ("auc_pr", "vus_pr", "best_f1")

#: Recall, delay in seconds, false alerts per day.
Cells = tuple[float | None, float | None, float | None]


@dataclass(frozen=True, slots=True)
class DetectorResult:
    """The metrics of one detector on one data set."""

    name: str
    entities: tuple[str, ...]
    rankings: tuple[Ranking, ...]
    #: By budget, as `budget_key` writes it; one value per entity.
    messages: Mapping[str, tuple[MessageMetrics, ...]]
    #: Only for the folder layout of NAB: see `evaluate._nab_scores`.
    nab: Mapping[str, float] | None

    def headline(self) -> dict[str, dict[str, float | None]]:
        """Mean and worst entity of the figures that `--json` promises."""
        day = self.messages[budget_key(1.0)]
        figures: dict[str, list[float | None]] = {
            name: [getattr(entity, name) for entity in self.rankings] for name in RANKINGS
        }
        figures["event_recall_at_1_per_day"] = [entity.recall for entity in day]
        false = [entity.false for entity in day]
        standard, lowest = (None, None) if self.nab is None else _mean_and_worst(self.nab)
        return {
            "mean": {
                **{name: mean(values) for name, values in figures.items()},
                "false_per_day_at_1": mean(false),
                "nab_standard": standard,
            },
            "worst": {
                **{name: _least(values) for name, values in figures.items()},
                "false_per_day_at_1": max(false),
                "nab_standard": lowest,
            },
        }

    def at(self, per_day: float) -> dict[str, float | None]:
        """The metrics of messages at one budget, over all entities."""
        metrics = self.messages[budget_key(per_day)]
        return {
            "recall": mean([entity.recall for entity in metrics]),
            "recall_by_chance": mean([entity.recall_by_chance for entity in metrics]),
            "delay_s": mean([entity.delay_s for entity in metrics]),
            "false_per_day": mean([entity.false for entity in metrics]),
            "messages_per_day": mean([entity.messages for entity in metrics]),
            "messages_per_day_worst": max(entity.messages for entity in metrics),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DetectorResult:
        """Read a result from the plain types that `asdict` makes."""
        messages = {
            budget: tuple(MessageMetrics(**entity) for entity in entities)
            for budget, entities in data["messages"].items()
        }
        rankings = tuple(Ranking(**entity) for entity in data["rankings"])
        return cls(data["name"], tuple(data["entities"]), rankings, messages, nab=data["nab"])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of all detectors on one data set, the model first."""

    data: str
    digest: str
    results: tuple[DetectorResult, ...]

    def headline(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        model, *others = self.results
        return {**model.headline(), "baselines": {other.name: other.headline() for other in others}}

    def to_json(self) -> dict[str, Any]:
        """All results, per entity, as plain types."""
        return {
            "data": self.data,
            "model": self.digest,
            **self.headline(),
            "at": {
                result.name: {
                    key: result.at(per_day) for per_day in BUDGETS for key in [budget_key(per_day)]
                }
                for result in self.results
            },
            "results": [asdict(result) for result in self.results],
        }


def lines(evaluation: Evaluation) -> Iterator[str]:
    """A line per entity for the model, then mean and worst entity of every detector."""
    model = evaluation.results[0]
    head = f"{'':<34}{'AUC-PR':>7}{'VUS-PR':>7}{'F1':>6}"
    yield head + "".join(
        f"   {budget_key(b) + ' per day:':>12} recall delay false" for b in BUDGETS
    )
    for i, entity in enumerate(model.entities):
        metrics = [model.messages[budget_key(per_day)][i] for per_day in BUDGETS]
        cells: list[Cells] = [(entity.recall, entity.delay_s, entity.false) for entity in metrics]
        yield _line(entity, asdict(model.rankings[i]), cells)
    for result in evaluation.results:
        for which, summary in result.headline().items():
            cells = [_cells(result, which, per_day) for per_day in BUDGETS]
            yield _line(f"{which} {result.name}", summary, cells)
    for result in evaluation.results:
        if result.nab is not None:
            scores = ", ".join(f"{name} {value:.1f}" for name, value in result.nab.items())
            yield f"NAB {result.name}: {scores}"


def _cells(result: DetectorResult, which: str, per_day: float) -> Cells:
    metrics = result.messages[budget_key(per_day)]
    recall, delay_s, false = (
        [getattr(each, name) for each in metrics] for name in ("recall", "delay_s", "false")
    )
    if which == "mean":
        return mean(recall), mean(delay_s), mean(false)
    longest = max((value for value in delay_s if value is not None), default=None)
    return _least(recall), longest, max(false)


def _line(
    name: str,
    ranked: Mapping[str, float | None],
    cells: Sequence[Cells],
) -> str:
    text = f"{name[-33:]:<34}" + "".join(f"{_figure(ranked[key]):>7}" for key in RANKINGS)
    for recall, delay_s, false in cells:
        minutes = None if delay_s is None else delay_s / 60
        text += f"{'':>15}{_figure(recall):>7}{_figure(minutes, 0):>6}{_figure(false):>6}"
    return text


def _figure(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def budget_key(per_day: float) -> str:
    """A budget as text.

    >>> budget_key(1.0), budget_key(1 / 7)
    ('1', '0.143')
    """
    return f"{per_day:.3g}"


def _mean_and_worst(nab: Mapping[str, float]) -> tuple[float, float]:
    return nab["standard"], nab["lowest"]


def _least(values: Sequence[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
