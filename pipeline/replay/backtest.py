"""Replays a range of the telemetry topic through the live graph, into files.

A range is given per partition by offsets, or by times, or as earliest and latest. The
same blocks meet the same core, so scores and alerts are those of the live job that
started at the same place, bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streamgauge.models.alerts.decision import CALM_EVENTS
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import Config, parse_start
from streamgauge.pipeline.console import formatting
from streamgauge.pipeline.jobs import preflight
from streamgauge.pipeline.jobs.run import beam_options, start_at
from streamgauge.pipeline.replay.runner import Listener, Replay, run_in_process, run_on_flink
from streamgauge.pipeline.report.page import ReportData, render, worst_first
from streamgauge.pipeline.report.summary import ScoredSeries, episodes_of, summarise
from streamgauge.transforms.kafka.client import PartitionReader
from streamgauge.transforms.sources.replay import Range, ReplayTopic, read_range
from streamgauge.transforms.sources.source import Source

# Entities drawn in the report, the worst first; their values are read from the log again.
REPORT_ENTITIES_MAX = 12
RUNNERS = ("inprocess", "flink")
# With checkpoints on, Beam's Flink sources stay for ever even when they have nothing more
# to say, and the job would never end.
ENDING = "--shutdown_sources_after_idle_ms=0"
Narrate = Callable[[str], None]


def backtest(
    config: Config,
    start: str,
    end: str,
    out: Path,
    runner: str = "inprocess",
    beam_args: Sequence[str] = (),
    narrate: Narrate = print,
    listener: Listener | None = None,
    state: str | None = None,
    keep_state: bool = False,
) -> tuple[Replay, dict[str, Any]]:
    """Replay `[start, end)` of every partition and write what it says to `out`.

    Args:
        config: as for the live job; its output topics are not touched.
        start: "earliest", "latest", an ISO time, or offsets "0:120,1:85"; with `state`, where
            that ends.
        end: likewise; a partition without a given offset is left out.
        out: folder for scores, alerts, dead letters, drift reports, summary and report.
        runner: "inprocess" or "flink".
        beam_args: more Beam options for Flink.
        narrate: told one line per step.
        listener: hears the messages of an in-process replay as they are written.
        state: folder of exported state to start from.
        keep_state: leave what the entities remember in the end in `out/state`.

    Returns:
        What the replay said, and its summary.
    """
    if runner not in RUNNERS:
        raise ConfigError(f"--runner: must be one of {', '.join(RUNNERS)}; got {runner!r}")
    artifact = preflight.load_artifact(config)
    partitions = preflight.check_input(config, artifact)
    if state:
        config = start_at(config, artifact, state)
        start = config.input.start
    ranges = resolve_ranges(config, partitions, start, end)
    offsets = sum(r.end - r.start for r in ranges)
    narrate(f"{config.input.topic}: {offsets:,} offsets of {len(ranges)} partitions, on {runner}")
    reading = ReplayTopic(graph.source(config, artifact), ranges)
    memory = graph.replay_state(config, state, str(out / "state") if keep_state else None)
    began = time.monotonic()
    if runner == "flink":
        # A job of its own name, so that `streamgauge stop` means the live one.
        named = dataclasses.replace(config, name=f"{config.name}-backtest")
        flink = config.flink
        options = beam_options(
            named, flink.job_endpoint, flink.worker_endpoint, None, [ENDING, *beam_args]
        )
        replay = run_on_flink(config, artifact, reading, out / "parts", options, memory)
    else:
        replay = run_in_process(config, artifact, reading, out / "parts", listener, memory)
    seconds = time.monotonic() - began
    shutil.rmtree(out / "parts")
    return _write(config, artifact, ranges, replay, out, seconds)


def resolve_ranges(config: Config, partitions: int, start: str, end: str) -> list[Range]:
    """Offsets of each partition's range; empty ranges are left out.

    Raises:
        ConfigError: nothing lies between `start` and `end`, or offsets name no partition.
    """
    first, last = parse_start(start), parse_start(end)
    for name, given in (("--from", first), ("--to", last)):
        unknown = [p for p in given if p >= partitions] if isinstance(given, dict) else []
        if unknown:
            raise ConfigError(
                f"{name}: partitions must be below {partitions}; got {', '.join(map(str, unknown))}"
            )
    ranges = []
    for partition in range(partitions):
        reader = PartitionReader(graph.access(config), config.name, config.input.topic, partition)
        try:
            low, high = reader.offset_at("earliest"), reader.offset_at("latest")
            begin = _offset(reader, first, partition, low)
            stop = min(high, _offset(reader, last, partition, begin))
        finally:
            reader.close()
        if begin < low:
            raise ConfigError(
                f"--from: partition {partition} begins at offset {low}; got {begin}. "
                "Older events are gone from the log"
            )
        if begin < stop:
            ranges.append(Range(partition, begin, stop))
    if not ranges:
        raise ConfigError(
            f"--from, --to: must hold at least one event of {config.input.topic!r}; "
            f"nothing lies between {start} and {end}"
        )
    return ranges


def _write(
    config: Config,
    artifact: Artifact,
    ranges: Sequence[Range],
    replay: Replay,
    out: Path,
    seconds: float,
) -> tuple[Replay, dict[str, Any]]:
    """Write scores, alerts, dead letters, drift reports, summary and report to `out`."""
    pq.write_table(replay.scores, out / "scores.parquet", compression="zstd")
    for name in ("alerts", "dead_letters", "drift"):
        lines = (msgspec.json.encode(record) + b"\n" for record in getattr(replay, name))
        (out / f"{name}.jsonl").write_bytes(b"".join(lines))
    every = scored_series(replay.scores)
    summary = summarise(every, replay.alerts, seconds, dead_letters=len(replay.dead_letters))
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    worst = worst_first(every, episodes_of(replay.alerts))[:REPORT_ENTITIES_MAX]
    shown = with_values(worst, graph.source(config, artifact), ranges)
    page = render(
        ReportData(
            f"Backtest of {config.input.topic}",
            f"{len(every):,} entities, {replay.scores.num_rows:,} events",
            summary,
            artifact.schema.names,
            shown,
            replay.alerts,
            facts(config, artifact),
        )
    )
    (out / "report.html").write_text(page, encoding="utf-8")
    return replay, summary


def scored_series(scores: pa.Table) -> list[ScoredSeries]:
    """Scores per entity in log order, without the values they are about."""
    encoded = scores.column("entity_id").combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    cuts = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1))
    columns = [
        scores.column(n).to_numpy()[order] for n in ("event_time_us", "score", "rarity_1_in_n")
    ]
    no_values = np.empty((len(order), 0), np.float32)
    return [
        ScoredSeries(
            name,
            columns[0][first:end],
            columns[1][first:end],
            columns[2][first:end],
            no_values[first:end],
        )
        for name, first, end in zip(
            encoded.dictionary.to_pylist(), cuts[:-1], cuts[1:], strict=True
        )
    ]


def with_values(
    series: Sequence[ScoredSeries], source: Source, ranges: Sequence[Range]
) -> list[ScoredSeries]:
    """The same few series with their values, read from the log once more."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {s.entity_id: [] for s in series}
    wanted = pa.array(list(found), pa.string())
    for given in ranges:
        for block in read_range(source, given):
            kept = np.flatnonzero(pc.is_in(block.entity_id, value_set=wanted).to_numpy(False))
            names, codes = block.take(kept, block.previous_end).entities()
            for i, name in enumerate(names):
                mine = kept[codes == i]
                found[name].append((block.event_time_us[mine], block.features[mine]))
    complete = []
    for one in series:
        time_us = np.concatenate([t for t, _ in found[one.entity_id]])
        values = np.concatenate([v for _, v in found[one.entity_id]])
        row = np.clip(np.searchsorted(time_us, one.event_time_us), 0, len(time_us) - 1)
        complete.append(dataclasses.replace(one, values=values[row]))
    return complete


def facts(config: Config, artifact: Artifact) -> dict[str, str]:
    """What a reader of a report needs to know to run it again."""
    policy = config.alerts.policy
    cooldown, after = formatting.duration(int(policy.cooldown_s * 1e6)), policy.new_normal_after
    lasting = f", or is the new normal after {after:,} stationary events" if after else ""
    return {
        "model": artifact.digest,
        "messages": f"at most {policy.per_entity_day:g} per entity and day, at least {cooldown} "
        "apart; at first and after quiet days some more",
        "an alert closes": f"when the entity has been calm for {CALM_EVENTS} events{lasting}",
    }


def _offset(
    reader: PartitionReader, given: str | int | dict[int, int], partition: int, otherwise: int
) -> int:
    if isinstance(given, dict):
        return given.get(partition, otherwise)
    return reader.offset_at(given)
