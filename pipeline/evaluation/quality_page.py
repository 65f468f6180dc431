"""Writes the figures of `docs/quality.md`: `make quality` evaluates and fills the page in.

Everything between two markers is replaced by what `streamgauge evaluate` found on the
development sets, which is kept in `build/quality/<set>/evaluation.json`.
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
    page: Annotated[Path, typer.Option(help="The page to fill in.")],
    keep: Annotated[
        bool, typer.Option("--keep", help="Do not train where an artifact is there already.")
    ] = False,
    processes: Annotated[int | None, typer.Option(help="For the baselines.")] = None,
) -> None:
    """Evaluate on every development set and write the tables into the page."""
    found, parts = {}, {}
    for name in SETS:
        before = out / name / ARTIFACT
        artifact = before if keep and before.is_dir() else None
        found[name] = evaluate(data / name, artifact, out / name, processes, to_stderr)
        parts[name] = ablate(data / name, before, to_stderr)
    page.write_text(filled_in(page.read_text(encoding="utf-8"), found, parts), encoding="utf-8")
    to_stderr(f"quality: figures are in {page}")


def filled_in(
    page: str, found: dict[str, Evaluation], parts: dict[str, dict[str, DetectorResult]]
) -> str:
    """`page` with the tables of what was `found` and of what `parts` bring between its markers."""
    tables = [line for name, one in found.items() for line in _table(SETS[name], one)]
    tables += _parts_table(parts)
    return between(page, BEGIN, END, tables)


def _table(title: str, found: Evaluation) -> Iterator[str]:
    model = found.verdicts[0]
    yield f"\n### {title}\n"
    yield f"{len(model.entities)} entities; model {found.digest[:12]}.\n"
    yield "| | " + " | ".join(one.name for one in found.verdicts) + " |"
    yield "| --- |" + " --- |" * len(found.verdicts)
    for name, cells in _rows(found.verdicts):
        yield f"| {name} | " + " | ".join(cells) + " |"
    worst = sorted(
        (ranking.auc_pr, entity)
        for entity, ranking in zip(model.entities, model.rankings, strict=True)
        if ranking.auc_pr is not None
    )
    lowest = ", ".join(f"{entity} {auc_pr:.2f}" for auc_pr, entity in worst[:4])
    yield f"\nLowest AUC-PR: {lowest}.\n"


def _parts_table(parts: dict[str, dict[str, DetectorResult]]) -> Iterator[str]:
    """Per variant what is left of each set's figures."""
    yield "\n### What each part brings\n"
    yield (
        "The same weights with one part left out; AUC-PR / VUS-PR / best F1, and for NAB the "
        "standard score.\n"
    )
    yield "| | " + " | ".join(SETS[name] for name in parts) + " |"
    yield "| --- |" + " --- |" * len(parts)
    for variant in next(iter(parts.values()), {}):
        cells = [_of_variant(each[variant].headline()["mean"]) for each in parts.values()]
        yield f"| {variant} | " + " | ".join(cells) + " |"
    yield ""


def _of_variant(mean: dict[str, float | None]) -> str:
    ranking = " / ".join(_number(mean[key], 3) for key in ("auc_pr", "vus_pr", "best_f1"))
    return ranking if mean["nab_standard"] is None else _number(mean["nab_standard"], 1)


def _rows(verdicts: tuple[DetectorResult, ...]) -> Iterator[tuple[str, list[str]]]:
    """Name of a figure, and the figure of each detector."""
    means = [one.headline()["mean"] for one in verdicts]
    for key, name in (("auc_pr", "AUC-PR"), ("vus_pr", "VUS-PR"), ("best_f1", "best F1")):
        yield name, [_number(one[key], 3) for one in means]
    if verdicts[0].nab is not None:
        yield "NAB standard", [_number(one["nab_standard"], 1) for one in means]
        fixed = [None if one.nab is None else one.nab["fixed"] for one in verdicts]
        yield "NAB standard, threshold set without labels", [_number(one, 1) for one in fixed]
    for per_day, name in ((1.0, "1"), (0.2, "0.2"), (1 / 7, "1/7")):
        at = [one.at(per_day) for one in verdicts]
        yield (
            f"event recall at {name} a day (by chance)",
            [f"{_number(one['recall'])} ({_number(one['recall_by_chance'])})" for one in at],
        )
        yield "… delay, minutes", [_minutes(one["delay_s"]) for one in at]
        yield "… false alerts a day", [_number(one["false_per_day"]) for one in at]
        yield (
            "… messages over the budget, mean (worst entity)",
            [
                f"{_share(one['messages_per_day'], per_day)} "
                f"({_share(one['messages_per_day_worst'], per_day)})"
                for one in at
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
