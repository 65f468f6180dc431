"""The targets of the benchmarks and whether a run reached them; a missing figure is a miss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.summary import summary

AT_LEAST, AT_MOST = "≥", "≤"
OURS = "streamgauge, Arrow"


@dataclass(frozen=True)
class Target:
    """One bound."""

    text: str
    #: `AT_LEAST` or `AT_MOST`.
    sense: str
    bound: float
    #: Finds the figure; raises KeyError or TypeError where it was not measured.
    find: Callable[[dict[str, Any]], Any]

    def line(self, results: dict[str, Any]) -> str:
        """A row of the table: target, bound, measured value, and whether it reaches the bound."""
        try:
            found = self.find(results)
        except (KeyError, TypeError):
            found = None
        asked = f"{self.sense} {_shown(self.bound)}"
        if found is None:
            return f"| {self.text} | {asked} | – | **missed**: not measured |"
        is_met = found >= self.bound if self.sense == AT_LEAST else found <= self.bound
        verdict = "reached" if is_met else "**missed**"
        return f"| {self.text} | {asked} | {_shown(found)} | {verdict} |"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:g}"


def _ratio(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda results: results["ratios"][name]


def _latency(percentile: str, peer: str = OURS) -> Callable[[dict[str, Any]], Any]:
    return lambda results: results["latency"][peer]["50 % of own"][f"{percentile}_ms"]


def _at(entities: int, figure: str) -> Callable[[dict[str, Any]], Any]:
    return lambda results: results["scale"]["sizes"][str(entities)][figure]


def _hot_rate(results: dict[str, Any]) -> float | None:
    """Events of the hot entity, half of all, per second."""
    return round(results["skew"]["hot"][OURS]["events_s"] / 2)


def _growth(results: dict[str, Any]) -> float:
    """How much more a checkpoint after touching 10,000 entities holds at a million than at few."""
    few, many = (_at(entities, "checkpoint_bytes_per_touched")(results)
                 for entities in (10_000, 1_000_000))  # fmt: skip
    return round(many / few, 2)


MILLION = 1_000_000
TARGETS = (
    Target("1. scoring kernel to torch one event at a time", AT_LEAST, 40,
           _ratio("kernel_vs_torch_single")),
    Target("1. scoring kernel, events/s and core", AT_LEAST, 1e6,
           lambda results: results["kernel"]["events_s"]["kernel"]),
    Target("2. Arrow to the hand-written loop", AT_LEAST, 0.6, _ratio("arrow_vs_hand_loop")),
    Target("2. JSON to the hand-written loop", AT_LEAST, 0.4, _ratio("json_vs_hand_loop")),
    Target("2. Arrow to JSON", AT_LEAST, 2, _ratio("arrow_vs_json")),
    Target("3. CPU per event, Beam with a cell per entity to ours", AT_LEAST, 30,
           _ratio("cpu_vs_beam_per_entity")),
    Target("3. CPU per event, PyFlink to ours", AT_LEAST, 4, _ratio("cpu_vs_pyflink")),
    Target("3. CPU per event, Quix Streams to ours", AT_LEAST, 4, _ratio("cpu_vs_quix")),
    Target("3. CPU per event, Bytewax to ours", AT_LEAST, 4, _ratio("cpu_vs_bytewax")),
    Target("3. CPU per event, Random Cut Forest to ours", AT_LEAST, 50, _ratio("cpu_vs_rcf")),
    Target("4. latency p95 at 50 % of the own maximum, Arrow, ms", AT_MOST, 150, _latency("p95")),
    Target("4. latency p99 at 50 % of the own maximum, Arrow, ms", AT_MOST, 200, _latency("p99")),
    Target("4. latency p95 at 50 % of the own maximum, JSON, ms", AT_MOST, 150,
           _latency("p95", "streamgauge, JSON")),
    Target("4. latency p99 at 50 % of the own maximum, JSON, ms", AT_MOST, 200,
           _latency("p99", "streamgauge, JSON")),
    Target("5. a million entities, bytes of memory each", AT_MOST, 400,
           lambda results: results["scale"]["memory_bytes_per_entity"]),
    Target("5. a million entities, bytes of checkpoint each", AT_MOST, 300,
           _at(MILLION, "checkpoint_bytes_per_entity")),
    Target("5. a million entities, restored, s", AT_MOST, 30, _at(MILLION, "restore_s")),
    Target("5. a million entities, cost per event to that at 10,000", AT_MOST, 1.2,
           lambda results: results["scale"]["cost_many_vs_few"]),
    Target("5. a checkpoint after touching 10,000 of a million entities, to all of 10,000",
           AT_MOST, 2, _growth),
    Target("6. one entity with half the traffic, its events/s", AT_LEAST, 20_000, _hot_rate),
    Target("6. p99 of the others, to that without a hot entity", AT_MOST, 2,
           lambda results: results["hot"]["others_p99_ratio"]),
)  # fmt: skip


def table(results: dict[str, Any]) -> Iterator[str]:
    """The table of all targets."""
    yield "### Targets\n"
    yield "| target | bound | measured | |\n| --- | ---: | ---: | --- |"
    for target in TARGETS:
        yield target.line(results)
    if runs := results.get("runs", {}).get(OURS):
        found = summary(runs.values())
        if found is not None and found["cores_outside"] > 0.15:
            yield f"\nOthers kept {found['cores_outside']:.2f} cores busy during these runs."
