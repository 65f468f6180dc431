"""What an evaluation found, as the object of `--json` and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from streamgauge.models.alerts.policy import BudgetSpec
from streamgauge.pipeline.evaluation.metrics import Messages, Ranking, mean

BUDGETS = {budget: BudgetSpec(per_day=budget) for budget in (1.0, 0.2, 1 / 7)}
RANKINGS = ("auc_pr", "vus_pr", "best_f1")

#: Recall, delay in seconds, false alerts per day.
Cells = tuple[float | None, float | None, float | None]


@dataclass(frozen=True, slots=True)
class DetectorResult:
    """What one detector is worth on one data set."""

    name: str
    entities: tuple[str, ...]
    rankings: tuple[Ranking, ...]
    #: By messages per day, as text, then per entity.
    messages: Mapping[str, tuple[Messages, ...]]
    #: NAB folders only: see `_nab_scores`.
    nab: Mapping[str, float] | None

    def headline(self) -> dict[str, dict[str, float | None]]:
        """Mean and worst over entities of the figures that `--json` promises."""
        day = self.messages[budget_key(1.0)]
        found: dict[str, list[float | None]] = {
            name: [getattr(one, name) for one in self.rankings] for name in RANKINGS
        }
        found["event_recall_at_1_per_day"] = [one.recall for one in day]
        false = [one.false for one in day]
        standard, lowest = (None, None) if self.nab is None else _mean_and_worst(self.nab)
        return {
            "mean": {
                **{name: mean(values) for name, values in found.items()},
                "false_per_day_at_1": mean(false),
                "nab_standard": standard,
            },
            "worst": {
                **{name: _least(values) for name, values in found.items()},
                "false_per_day_at_1": max(false),
                "nab_standard": lowest,
            },
        }

    def at(self, per_day: float) -> dict[str, float | None]:
        """What messages at one budget did, over all entities."""
        told = self.messages[budget_key(per_day)]
        return {
            "recall": mean([one.recall for one in told]),
            "recall_by_chance": mean([one.recall_by_chance for one in told]),
            "delay_s": mean([one.delay_s for one in told]),
            "false_per_day": mean([one.false for one in told]),
            "messages_per_day": mean([one.messages for one in told]),
            "messages_per_day_worst": max(one.messages for one in told),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DetectorResult:
        """Read what `asdict` made."""
        told = {
            key: tuple(Messages(**one) for one in each) for key, each in data["messages"].items()
        }
        ranked = tuple(Ranking(**one) for one in data["rankings"])
        return cls(data["name"], tuple(data["entities"]), ranked, told, data["nab"])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All detectors on one data set, the model first."""

    data: str
    digest: str
    verdicts: tuple[DetectorResult, ...]

    def headline(self) -> dict[str, Any]:
        """The one object of `--json`."""
        model, *others = self.verdicts
        return {**model.headline(), "baselines": {one.name: one.headline() for one in others}}

    def to_json(self) -> dict[str, Any]:
        """Everything that was found, per entity."""
        return {
            "data": self.data,
            "model": self.digest,
            **self.headline(),
            "at": {
                one.name: {
                    key: one.at(per_day) for per_day in BUDGETS for key in [budget_key(per_day)]
                }
                for one in self.verdicts
            },
            "verdicts": [asdict(one) for one in self.verdicts],
        }


def lines(found: Evaluation) -> Iterator[str]:
    """Per entity and mean what the model reaches, then mean and worst of the baselines."""
    model = found.verdicts[0]
    head = f"{'':<34}{'AUC-PR':>7}{'VUS-PR':>7}{'F1':>6}"
    yield head + "".join(
        f"   {budget_key(b) + ' per day:':>12} recall delay false" for b in BUDGETS
    )
    for i, entity in enumerate(model.entities):
        told = [model.messages[budget_key(per_day)][i] for per_day in BUDGETS]
        cells: list[Cells] = [(one.recall, one.delay_s, one.false) for one in told]
        yield _line(entity, asdict(model.rankings[i]), cells)
    for one in found.verdicts:
        for which, summary in one.headline().items():
            cells = [_cells(one, which, per_day) for per_day in BUDGETS]
            yield _line(f"{which} {one.name}", summary, cells)
    for one in found.verdicts:
        if one.nab is not None:
            scores = ", ".join(f"{name} {value:.1f}" for name, value in one.nab.items())
            yield f"NAB {one.name}: {scores}"


def _cells(one: DetectorResult, which: str, per_day: float) -> Cells:
    told = one.messages[budget_key(per_day)]
    recall, delay_s, false = (
        [getattr(each, name) for each in told] for name in ("recall", "delay_s", "false")
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


def _mean_and_worst(found: Mapping[str, float]) -> tuple[float, float]:
    return found["standard"], found["lowest"]


def _least(values: Sequence[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
