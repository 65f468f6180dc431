"""The model of `docs/scaling.md`, computed from the figures in `results.json`.

Its inputs were measured on one core. Everything larger is arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.summary import summary
from streamgauge.models.scoring.policy import ShardPolicy
from streamgauge.models.state.incremental_snapshot import QUEUE_PATIENCE
from streamgauge.pipeline.console.markdown import filled_in

PAGE = "scaling.md"
BEGIN, END = "<!-- modelled: begin -->", "<!-- modelled: end -->"

USED = 0.6  # share of its cores that a job uses; the rest catches up after a restart
SHARD_ENTITIES, SHARDS_PER_CORE = 50_000, 2
INDEX_BYTES = 90  # per entity, of the dictionary from names to rows
WORKER_BYTES = 400e6  # interpreter, Beam, blocks under way
#: A snapshot replaces a log when its blocks have this many times the size of the table; the second
#: value is for a log that has to wait for the snapshots of other shards.
TABLES_IN_LOG = ShardPolicy().log_factor
TABLES_IN_LOG_MAX = TABLES_IN_LOG * QUEUE_PATIENCE
SNAPSHOT_BYTES_S = 500e6  # read, checked and unpacked
RESTART_S = 10.0
VCPU_HOUR, GB_HOUR = 0.04, 0.005  # round list prices of large clouds, dollars
PLACES = ((10_000, 1_000), (100_000, 10_000), (1_000_000, 100_000), (10_000_000, 1_000_000),
          (100_000_000, 10_000_000))  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Figures of one core."""

    cpu_s_per_million: float
    #: Size of an event on the wire, and in a shard's log, which always holds columns.
    event_bytes: float
    log_bytes: float
    #: Size of an entity's row.
    row_bytes: float
    #: CPU seconds of the scorer per million events.
    scorer_s_per_million: float


@dataclass(frozen=True)
class Need:
    """The resources that a fleet needs."""

    cores: float
    shards: int
    worker_bytes: float
    #: Written to state, per second.
    state_bytes_s: float
    #: Read from Kafka, per second.
    network_bytes_s: float
    restore_s: float
    dollars_per_million: float


def need(measured: Measured, entities: int, rate: float) -> Need:
    """The resources for `entities` that send `rate` events/s together."""
    cores = rate * measured.cpu_s_per_million / 1e6 / USED
    whole = math.ceil(cores)
    memory = whole * WORKER_BYTES + table_bytes(measured.row_bytes, entities, whole)
    log_events = entities * TABLES_IN_LOG_MAX * measured.row_bytes / measured.log_bytes
    stepping_s = log_events * measured.scorer_s_per_million / 1e6 / whole
    loading_s = entities * measured.row_bytes / SNAPSHOT_BYTES_S / whole
    dollars_s = (cores * VCPU_HOUR + memory / 1e9 * GB_HOUR) / 3600
    return Need(
        cores,
        max(SHARDS_PER_CORE * whole, math.ceil(entities / SHARD_ENTITIES)),
        memory,
        rate * measured.log_bytes * (1 + 1 / TABLES_IN_LOG),
        rate * measured.event_bytes,
        RESTART_S + loading_s + stepping_s,
        dollars_s / rate * 1e6,
    )


def table_bytes(row_bytes: float, entities: int, workers: int) -> float:
    """Memory for entities: their rows, the index of names, and a shard's copy in each worker."""
    copied = min(entities, workers * SHARD_ENTITIES)
    return (entities + copied) * row_bytes + entities * INDEX_BYTES


def write(results: dict[str, Any], docs: Path, out: Path, is_published: bool) -> None:
    """Fill the tables into the page, in `out` and, if it `is_published`, in `docs`."""
    page = (docs / PAGE).read_text(encoding="utf-8")
    text = filled_in(page, BEGIN, END, _tables(results))
    for folder in (out, docs) if is_published else (out,):
        (folder / PAGE).write_text(text, encoding="utf-8")


def _tables(results: dict[str, Any]) -> Iterator[str]:
    for form in ("Arrow", "JSON"):
        run = summary(results.get("runs", {}).get(f"streamgauge, {form}", {}).values())
        if run is None or "row_bytes" not in results.get("scale", {}):
            yield f"\n{form}: not measured in this run."
            continue
        scorer = results["kernel"]["us_per_event"]["scorer step"]
        measured = Measured(
            run["cpu_s_per_million"],
            results["about"]["bytes_per_event"][form.lower()],
            results["about"]["bytes_per_event"]["arrow"],
            results["scale"]["row_bytes"],
            scorer,
        )
        yield f"\n### {form}: {measured.cpu_s_per_million:.1f} CPU seconds per million events\n"
        yield (
            "| entities | events/s | cores | shards | memory GB | state written MB/s | "
            "read MB/s | restore s, at most | dollars per million |\n"
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )
        for entities, rate in PLACES:
            one = need(measured, entities, rate)
            yield (
                f"| {entities:,} | {rate:,} | {one.cores:,.1f} | {one.shards:,} | "
                f"{one.worker_bytes / 1e9:,.1f} | {one.state_bytes_s / 1e6:,.1f} | "
                f"{one.network_bytes_s / 1e6:,.1f} | {one.restore_s:,.0f} | "
                f"{one.dollars_per_million:.5f} |"
            )
    yield from _checked(results)


def _checked(results: dict[str, Any]) -> Iterator[str]:
    """The model compared with measurements of a million entities."""
    scale = results.get("scale", {})
    if "cost_many_vs_few" not in scale:
        return
    row, memory = scale["row_bytes"], scale["memory_bytes_per_entity"]
    yield "\n### The model compared with measurements\n"
    yield "| | model | measured |\n| --- | ---: | ---: |"
    modelled = table_bytes(row, 1_000_000, 1) / 1e6
    yield f"| worker memory per entity, bytes | {modelled:,.0f} | {memory:,} |"
    yield f"| cost per event, 1,000,000 entities to 10,000 | 1.0 | {scale['cost_many_vs_few']} |"
