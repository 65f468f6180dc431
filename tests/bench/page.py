"""Writes `docs/benchmarks.md` and its plot from `results.json`: `python -m bench.page`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from bench import targets
from bench.catalogue import DURABLE_S, PEERS_OF_BENCH
from bench.recovery import RATE
from bench.summary import summary
from fixtures.paths import DOCS, ROOT
from streamgauge.infra.local.workers import WORKER_NAME
from streamgauge.pipeline.console.markdown import filled_in

RESULTS = ROOT / "build" / "bench" / "results.json"
PAGE, PLOT = "benchmarks.md", "benchmarks.svg"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NONE = "–"

# The plot, in SVG user units.
ROW, LABEL, BARS, VALUE, TOP = 24, 250, 480, 110, 34
OURS, THEIRS = "#0b6e4f", "#8a94a6"


def write(results: dict[str, Any], out: Path, is_published: bool) -> None:
    """Fill the page and draw the plot, in `out` and, if it `is_published`, in `docs` too."""
    page = (DOCS / PAGE).read_text(encoding="utf-8")
    text = filled_in(page, BEGIN, END, _tables(results))
    for folder in (out, DOCS) if is_published else (out,):
        (folder / PAGE).write_text(text, encoding="utf-8")
        (folder / PLOT).write_text(_plot(results), encoding="utf-8")


def _tables(results: dict[str, Any]) -> Iterator[str]:
    about = results["about"]
    size = about["size"]
    yield (
        f"\nMeasured at {about['commit']} on {about['cpu']}, {about['cores']} cores, Python "
        f"{about['python']}, in {about['minutes']} minutes. {size['entities']:,} entities, "
        f"{size['arrow_events']:,} events as Arrow, {size['json_events']:,} as JSON, "
        f"{about['features']} features, H = {about['hidden']}; for detectors with a large model "
        f"per entity {size['few_entities']:,} entities. Rounds: {size['rounds']}; a peer drains "
        f"for at most {size['seconds_max']:g} s.\n"
    )
    yield from targets.table(results)
    yield from _ratios(results)
    yield from _kernel(results["kernel"])
    runs = {name: list(one.values()) for name, one in results.get("runs", {}).items()}
    yield from _throughput(runs)
    yield from _programs(runs)
    yield from _latency(results.get("latency", {}))
    yield from _skew(results.get("skew", {}), results.get("hot", {}))
    yield from _recovery(results.get("recovery", {}))
    yield from _quality(results.get("quality", {}))
    yield from _scale(results.get("scale", {}))


def _ratios(results: dict[str, Any]) -> Iterator[str]:
    yield "\n### Ratios (more is better for streamgauge)\n"
    yield "| ratio | value | |\n| --- | ---: | --- |"
    for name, value in results["ratios"].items():
        shown = NONE if value is None else f"{value:g}"
        yield f"| `{name}` | {shown} | {results['why_null'].get(name, '')} |"


def _kernel(kernel: dict[str, Any]) -> Iterator[str]:
    yield "\n### The scorer alone, one core\n"
    yield "| | events/s | µs per event | |\n| --- | ---: | ---: | --- |"
    for name, micros in kernel["us_per_event"].items():
        yield f"| {name} | {kernel['events_s'][name]:,} | {micros:.2f} | {kernel['what'][name]} |"
    yield "\n| stage | µs per event |\n| --- | ---: |"
    for name, micros in kernel["profile_us_per_event"].items():
        yield f"| {name} | {micros:.3f} |"


def _throughput(runs: dict[str, Any]) -> Iterator[str]:
    yield "\n### Draining a preloaded topic\n"
    yield "![CPU seconds per million events](benchmarks.svg)\n"
    yield (
        "| | CPU s per million | range | events/s | range | MB | checkpoint MB | durability | "
        "what it does |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |"
    )
    for peer in PEERS_OF_BENCH:
        tried = runs.get(peer.name, [])
        found = summary(tried)
        if found is None:
            if tried:
                reason = tried[-1]["reason"]
                yield f"| {peer.name} | {NONE} | | {NONE} | | | | {peer.durability} | {reason} |"
            continue
        every = f", every {peer.durable_s:g} s" if peer.durable_s else ""
        checkpoint = f"{found['checkpoint_mb_max']:g}" if found.get("checkpoint_mb_max") else ""
        yield (
            f"| {peer.name} | {found['cpu_s_per_million']:,.1f} | "
            f"{_range(found['cpu_s_per_million_range'])} | {found['events_s']:,.0f} | "
            f"{_range(found['events_s_range'])} | {found['resident_mb']:,.0f} | {checkpoint} | "
            f"{peer.durability}{every} | {peer.note} |"
        )


def _programs(runs: dict[str, Any]) -> Iterator[str]:
    yield "\n### CPU of the jobs on Flink by program, seconds per million events\n"
    yield "| | JVMs | Python workers | rest |\n| --- | ---: | ---: | ---: |"
    for peer in PEERS_OF_BENCH:
        if peer.on_flink and (found := summary(runs.get(peer.name, []))) is not None:
            used = dict(found["cpu_by_program"])
            java, workers = used.pop("java", 0.0), used.pop(WORKER_NAME, 0.0)
            rest = sum(used.values())
            yield f"| {peer.name} | {java:,.1f} | {workers:,.1f} | {rest:,.1f} |"


def _latency(latency: dict[str, Any]) -> Iterator[str]:
    yield f"\n### Latency, checkpoints or snapshots every {DURABLE_S:g} s running\n"
    yield (
        "| | at | events/s | p50 ms | p95 ms | p99 ms | |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | --- |"
    )
    for name, rates in latency.items():
        for rate, one in rates.items():
            if "reason" in one:
                yield f"| {name} | {rate} | | | | | {one['reason']} |"
                continue
            doubt = (
                ""
                if one["is_valid"]
                else (
                    f"not valid: sender {one['sender_late_ms']} ms late, {one['unscored']} unscored"
                )
            )
            yield (
                f"| {name} | {rate} | {one['rate']:,} | {one['p50_ms']:.0f} | "
                f"{one['p95_ms']:.0f} | {one['p99_ms']:.0f} | {doubt} |"
            )


def _skew(skew: dict[str, Any], hot: dict[str, Any]) -> Iterator[str]:
    yield "\n### Other loads\n"
    yield "| load | | events/s | CPU s per million |\n| --- | --- | ---: | ---: |"
    for load, by_peer in skew.items():
        for name, run in by_peer.items():
            if "reason" in run:
                yield f"| {load} | {name} | {NONE} | {run['reason']} |"
            else:
                yield (
                    f"| {load} | {name} | {run['events_s']:,} | {run['cpu_s_per_million']:,.1f} |"
                )
    if "others_p99_ms" in hot:
        yield (
            f"\nOne entity with {hot['hot_rate']:,g} events/s by the clock, all others together as "
            f"many: p99 of the others {hot['others_p99_ms']:.0f} ms, without the hot one "
            f"{hot['others_p99_ms_without']:.0f} ms."
        )


def _recovery(recovery: dict[str, Any]) -> Iterator[str]:
    yield f"\n### Killed with `kill -9` at {RATE:,.0f} events/s\n"
    yield (
        "Seconds from the kill; scores of all events. A repeated score with another value is "
        "counted as wrong.\n"
    )
    yield (
        "| | first new score, s | backlog gone, s | lost | repeated | wrong | of checked |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for name, one in recovery.items():
        if "reason" in one:
            yield f"| {name} | {NONE} | | | | | {one['reason']} |"
            continue
        first = NONE if one["first_score_s"] is None else f"{one['first_score_s']:.1f}"
        yield (
            f"| {name} | {first} | {one['lag_zero_s']:.1f} | {one['lost']:,} | "
            f"{one['repeated']:,} | {one['wrong']:,} | {one['checked']:,} |"
        )


def _quality(quality: dict[str, Any]) -> Iterator[str]:
    yield "\n### Detection quality: server machines, mean over entities\n"
    yield "| | AUC-PR | VUS-PR | best F1 |\n| --- | ---: | ---: | ---: |"
    if "reason" in quality or not quality:
        yield f"| {NONE} | | | {quality.get('reason', 'not measured in this run')} |"
        return
    for name, one in quality.items():
        if "reason" in one:
            yield f"| {name} | {NONE} | | {one['reason']} |"
        else:
            yield f"| {name} | {one['auc_pr']:.3f} | {one['vus_pr']:.3f} | {one['best_f1']:.3f} |"


def _scale(scale: dict[str, Any]) -> Iterator[str]:
    yield "\n### Scale: ten thousand entities to a million, each in turn\n"
    if not scale.get("sizes"):
        yield "Not measured in this run."
        return
    yield (
        "| entities | shards | CPU s per million | events/s | checkpoint, bytes per entity | "
        "incremental, bytes per entity touched | longest checkpoint, s | restored, s |\n"
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for entities, one in scale["sizes"].items():
        if "reason" in one:
            yield f"| {int(entities):,} | | {NONE} | {one['reason']} |"
            continue
        yield (
            f"| {one['entities']:,} | {one['shards']} | {one['cpu_s_per_million']:,.1f} | "
            f"{one['events_s']:,} | {one['checkpoint_bytes_per_entity']:,} | "
            f"{one['checkpoint_bytes_per_touched']:,} | {one['checkpoint_s_max']:.1f} | "
            f"{one['restore_s'] or NONE} |"
        )
    yield (
        f"\nA row of the entity table has {scale['row_bytes']:,} bytes; workers grew by "
        f"{scale.get('memory_bytes_per_entity', NONE)} bytes per entity. Restored: time from the "
        "kill of the TaskManager and its workers until all later events were scored."
    )


def _range(pair: list[float]) -> str:
    return "–".join(f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in pair)


def _plot(results: dict[str, Any]) -> str:
    """Bars of CPU seconds per million events on a logarithmic axis."""
    found = [
        (peer, summary(results.get("runs", {}).get(peer.name, {}).values()))
        for peer in PEERS_OF_BENCH
    ]
    rows = [(peer.name, one["cpu_s_per_million"]) for peer, one in found if one is not None]
    rows.sort(key=lambda row: row[1])
    powers = [math.log10(max(value, 0.1)) for _, value in rows] or [0.0]
    low, high = math.floor(min(powers)), math.ceil(max(powers) + 1e-9)
    width, height = LABEL + BARS + VALUE, TOP + ROW * len(rows) + 26

    def x(power: float) -> float:
        return round(LABEL + BARS * (power - low) / max(high - low, 1), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13" fill="#1c2733">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="8" y="20" font-weight="bold">CPU seconds per million events, whole process '
        "tree (logarithmic; less is better)</text>",
    ]
    for tick in range(low, high + 1):
        parts.append(
            f'<path d="M{x(tick)} {TOP}V{height - 22}" stroke="#dde3ea"/>'
            f'<text x="{x(tick)}" y="{height - 6}" text-anchor="middle">{10.0**tick:g}</text>'
        )
    for row, ((name, value), power) in enumerate(zip(rows, powers, strict=True)):
        y, fill = TOP + ROW * row, OURS if name.startswith("streamgauge") else THEIRS
        parts.append(
            f'<text x="{LABEL - 8}" y="{y + 16}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{LABEL}" y="{y + 3}" width="{max(2.0, x(power) - LABEL):.1f}" '
            f'height="{ROW - 6}" fill="{fill}"/>'
            f'<text x="{max(2.0, x(power) - LABEL) + LABEL + 6:.1f}" y="{y + 16}">'
            f"{value:,.1f}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text()), RESULTS.parent, is_published=True)
