"""Computes medians from runs, and from medians the ratios that compare the peers."""

from __future__ import annotations

from collections.abc import Collection
from statistics import median
from typing import Any

# Cores; a run with more other load is left out if there are quieter ones.
OUTSIDE_CORES_MAX = 0.15

RATE, CPU = "events_s", "cpu_s_per_million"
ARROW, JSON = ("streamgauge, Arrow",), ("streamgauge, JSON",)
#: Ratio to its figure, numerator and denominator. CPU per event is compared with streamgauge on
#: JSON, because all those peers read JSON.
RATIOS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "arrow_vs_hand_loop": (RATE, ARROW, ("hand loop, Arrow",)),
    "json_vs_hand_loop": (RATE, JSON, ("hand loop, JSON",)),
    "arrow_vs_json": (RATE, ARROW, JSON),
    "cpu_vs_beam_per_entity": (CPU, ("Beam, a cell per entity",), JSON),
    "cpu_vs_pyflink": (CPU, ("PyFlink, process mode", "PyFlink, thread mode"), JSON),
    "cpu_vs_quix": (CPU, ("Quix Streams",), JSON),
    "cpu_vs_bytewax": (CPU, ("Bytewax",), JSON),
    "cpu_vs_rcf": (CPU, ("Random Cut Forest (Java)",), JSON),
    "cpu_vs_hst": (CPU, ("River HalfSpaceTrees",), JSON),
}


def summary(runs: Collection[dict[str, Any]]) -> dict[str, Any] | None:
    """Medians and spreads over the good runs of a peer; None if there is no such run."""
    good = [run for run in runs if "reason" not in run]
    good = [run for run in good if run["cores_outside"] <= OUTSIDE_CORES_MAX] or good
    if not good:
        return None
    names = [name for name, value in good[0].items() if type(value) in (int, float)]
    found: dict[str, Any] = {name: median(run.get(name, 0) for run in good) for name in names}
    found["runs"] = len(good)
    found["cpu_by_program"] = good[0].get("cpu_by_program", {})
    for name in ("events_s", "cpu_s_per_million"):
        values = [run[name] for run in good]
        found[f"{name}_range"] = [min(values), max(values)]
    return found


def ratios(results: dict[str, Any]) -> tuple[dict[str, float | None], dict[str, str]]:
    """The ratios that compare the peers, more is better for streamgauge; null with a reason."""
    us = results["kernel"]["us_per_event"]
    found: dict[str, float | None] = {
        "kernel_vs_torch_single": round(us["torch single"] / us["kernel"], 2)
    }
    reasons: dict[str, str] = {}
    runs = results.get("runs", {})
    for ratio, (figure, above, below) in RATIOS.items():
        pair = [_best(runs, names, figure) for names in (above, below)]
        found[ratio] = None if None in pair else round(pair[0] / pair[1], 3)  # type: ignore[operator]
        for names, value in zip((above, below), pair, strict=True):
            if value is None:
                reasons[ratio] = _reason(runs, names[0])
    return found, reasons


def _best(runs: dict[str, Any], names: tuple[str, ...], figure: str) -> float | None:
    """The figure of the peer in its best variant, if it ran at all."""
    medians = [
        one[figure] for name in names if (one := summary(runs.get(name, {}).values())) is not None
    ]
    better = max if figure == RATE else min
    return better(medians, default=None)


def _reason(runs: dict[str, Any], name: str) -> str:
    tried = list(runs.get(name, {}).values())
    return f"{name}: {tried[-1]['reason'] if tried else 'not asked for'}"
