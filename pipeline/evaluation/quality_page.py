"""Writes the tables of `docs/quality.md`; `make quality` runs it.

It evaluates the model on the development sets and replaces the text between two markers of
the page. The results of a set are stored in `build/quality/<set>/evaluation.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from streamgauge.pipeline.console.markdown import filled_in as between
from streamgauge.pipeline.console.progress import to_stderr
from streamgauge.pipeline.evaluation.ablation import ablate
from streamgauge.pipeline.evaluation.evaluate import ARTIFACT, evaluate
from streamgauge.pipeline.evaluation.results import DetectorResult, Evaluation

SETS = {"smd": "Server machines", "services": "Services", "nab": "NAB"}
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NONE = "–"


def main(
    data: Annotated[Path, typer.Option(help="Folder with the development sets.")],
    out: Annotated[Path, typer.Option(help="Folder for artifacts and figures.")],
    page: Annotated[Path, typer.Option(help="The page whose tables are replaced.")],
    keep: Annotated[
        bool, typer.Option("--keep", help="Do not train where an artifact exists already.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(help="Processes for the baselines. [default: one per core]")
    ] = None,
) -> None:
    """Evaluate on every development set and write the tables into the page."""
    evaluations, variants = {}, {}
    for name in SETS:
        before = out / name / ARTIFACT
        artifact = before if keep and before.is_dir() else None
        evaluations[name] = evaluate(data / name, artifact, out / name, processes=processes)
        variants[name] = ablate(data / name, before, to_stderr)
    text = filled_in(page.read_text(encoding="utf-8"), evaluations, variants)
    page.write_text(text, encoding="utf-8")
    to_stderr(f"quality: figures are in {page}")


def filled_in(
    page: str,
    evaluations: dict[str, Evaluation],
    variants: dict[str, dict[str, DetectorResult]],
) -> str:
    """`page` with new tables between its markers.

    Args:
        page: the text of the page.
        evaluations: by data set.
        variants: by data set and by the name of the variant, see `ablation`.
    """
    tables = [line for name, each in evaluations.items() for line in _table(SETS[name], each)]
    tables += _variants_table(variants)
    return between(page, BEGIN, END, lines=tables)


def _table(title: str, evaluation: Evaluation) -> Iterator[str]:
    model = evaluation.results[0]
    yield f"\n### {title}\n"
    yield f"{len(model.entities)} entities; model {evaluation.digest[:12]}.\n"
    yield "| | " + " | ".join(result.name for result in evaluation.results) + " |"
    yield "| --- |" + " --- |" * len(evaluation.results)
    for name, cells in _rows(evaluation.results):
        yield f"| {name} | " + " | ".join(cells) + " |"
    worst = sorted(
        (ranking.auc_pr, entity)
        for entity, ranking in zip(model.entities, model.rankings, strict=True)
        if ranking.auc_pr is not None
    )
    lowest = ", ".join(f"{entity} {auc_pr:.2f}" for auc_pr, entity in worst[:4])
    yield f"\nLowest AUC-PR: {lowest}.\n"


def _variants_table(variants: dict[str, dict[str, DetectorResult]]) -> Iterator[str]:
    """A row per variant, a column per data set."""
    yield "\n### Contribution of each part\n"
    yield (
        "The same weights without one part; AUC-PR / VUS-PR / best F1, and for NAB the "
        "standard score.\n"
    )
    yield "| | " + " | ".join(SETS[name] for name in variants) + " |"
    yield "| --- |" + " --- |" * len(variants)
    for variant in next(iter(variants.values()), {}):
        cells = [_of_variant(each[variant].headline()["mean"]) for each in variants.values()]
        yield f"| {variant} | " + " | ".join(cells) + " |"
    yield ""


def _of_variant(mean: dict[str, float | None]) -> str:
    ranking = " / ".join(_number(mean[key], 3) for key in ("auc_pr", "vus_pr", "best_f1"))
    return ranking if mean["nab_standard"] is None else _number(mean["nab_standard"], 1)


def _rows(results: tuple[DetectorResult, ...]) -> Iterator[tuple[str, list[str]]]:
    """The name of a figure, and its value for each detector."""
    means = [result.headline()["mean"] for result in results]
    for key, name in (("auc_pr", "AUC-PR"), ("vus_pr", "VUS-PR"), ("best_f1", "best F1")):
        yield name, [_number(result[key], 3) for result in means]
    if results[0].nab is not None:
        yield "NAB standard", [_number(result["nab_standard"], 1) for result in means]
        fixed = [None if result.nab is None else result.nab["fixed"] for result in results]
        yield "NAB standard, threshold set without labels", [_number(result, 1) for result in fixed]
    for per_day, name in ((1.0, "1"), (0.2, "0.2"), (1 / 7, "1/7")):
        at = [result.at(per_day) for result in results]
        yield (
            f"event recall at {name} a day (by chance)",
            [f"{_number(each['recall'])} ({_number(each['recall_by_chance'])})" for each in at],
        )
        yield "… delay, minutes", [_minutes(result["delay_s"]) for result in at]
        yield "… false alerts a day", [_number(result["false_per_day"]) for result in at]
        yield (
            "… messages over the budget, mean (worst entity)",
            [
                f"{_share(result['messages_per_day'], per_day)} "
                f"({_share(result['messages_per_day_worst'], per_day)})"
                for result in at
            ],
        )


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _minutes(seconds: float | None) -> str:
    return NONE if seconds is None else f"{seconds / 60:.0f}"


def _share(value: float | None, per_day: float) -> str:
    return NONE if value is None else f"{value / per_day:.2f}"


if __name__ == "__main__":
    typer.run(main)
