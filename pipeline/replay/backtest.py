"""Replays a range of the telemetry topic through the live graph, into files.

The range is given by offsets per partition, by event times, or as earliest and latest. The code is
that of the live job, so scores and alerts equal, bit for bit, those of a live job that started
at the same offsets.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from numpy.typing import NDArray

from streamgauge.models.alerts.decision import CALM_EVENTS
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.console import formatting
from streamgauge.pipeline.console.progress import Narrate, to_stderr
from streamgauge.pipeline.jobs import preflight
from streamgauge.pipeline.jobs.flink_options import beam_options
from streamgauge.pipeline.jobs.ranges import resolve_ranges
from streamgauge.pipeline.jobs.run import start_at
from streamgauge.pipeline.replay.runner import Replay, run_in_process, run_on_flink
from streamgauge.pipeline.replay.tap import Listener
from streamgauge.pipeline.report.page import ReportData, render, worst_first
from streamgauge.pipeline.report.summary import ScoredSeries, alerts_of, summarise
from streamgauge.transforms.sources.replay import Range, ReplayTopic, read_range
from streamgauge.transforms.sources.source import Source

# Entities in the report, the worst first; their values are read from the log again.
REPORT_ENTITIES_MAX = 12
RUNNERS = ("inprocess", "flink")
#: Runs the graph: `run_in_process` or `run_on_flink`.
Run = Callable[..., Replay]
# With checkpoints on, Beam's Flink sources do not end when their input does, and neither would
# the job.
END_WITH_SOURCES = "--shutdown_sources_after_idle_ms=0"


def backtest(
    config: Config,
    start: str,
    end: str,
    *,
    out: Path,
    runner: str = "inprocess",
    beam_args: Sequence[str] = (),
    state: str | None = None,
    keep_state: bool = False,
    narrate: Narrate = to_stderr,
    listener: Listener | None = None,
) -> tuple[Replay, dict[str, Any]]:
    """Replay `[start, end)` of every partition and write the output to `out`.

    Args:
        config: the configuration of the live job; its output topics are not written.
        start: "earliest", "latest", an event time as ISO 8601, or offsets "0:120,1:85". With
            `state` the replay starts where the state ends, and `start` is ignored.
        end: likewise. A partition that the offsets do not name is left out.
        out: folder for scores, alerts, dead letters, drift reports, summary and report.
        runner: "inprocess" or "flink".
        beam_args: further Beam options for Flink.
        state: folder of exported state to start from.
        keep_state: write the final state of the entities to `out/state`.
        narrate: receives the lines of progress.
        listener: called with the messages of an in-process replay while it runs.

    Returns:
        The output of the replay, and its summary.

    Raises:
        ConfigError, ArtifactError: a check failed; nothing was written.
    """
    if runner not in RUNNERS:
        raise ConfigError(f"--runner: must be one of {', '.join(RUNNERS)}; got {runner!r}")
    artifact = preflight.load_artifact(config)
    partitions = preflight.check_input(config, artifact, narrate)
    if state:
        config = start_at(config, artifact, state)
        start = config.input.start
    source = graph.source(config, artifact)
    ranges = resolve_ranges(config, partitions, start, end, source=source)
    offsets = sum(each.end - each.start for each in ranges)
    narrate(f"{config.input.topic}: {offsets:,} offsets of {len(ranges)} partitions, on {runner}")
    began = time.monotonic()
    if runner == "flink":
        run: Run = partial(run_on_flink, options=_flink_options(config, beam_args))
    else:
        run = partial(run_in_process, listener=listener)
    replay = run(
        config,
        artifact,
        ReplayTopic(source, ranges),
        directory=out / "parts",
        snapshots=graph.replay_state(config, state, str(out / "state") if keep_state else None),
    )
    seconds = time.monotonic() - began
    shutil.rmtree(out / "parts")
    _write_records(replay, out)
    narrate(event_time_range(replay.scores))
    series = scored_series(replay.scores)
    summary = summarise(series, replay.alerts, seconds, dead_letters=len(replay.dead_letters))
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    worst = worst_first(series, alerts_of(replay.alerts))[:REPORT_ENTITIES_MAX]
    report = ReportData(
        title=f"Backtest of {config.input.topic}",
        subtitle=f"{len(series):,} entities, {replay.scores.num_rows:,} events",
        summary=summary,
        feature_names=artifact.schema.names,
        series=with_values(worst, source, ranges),
        alert_records=replay.alerts,
        facts=facts(config, artifact),
    )
    (out / "report.html").write_text(render(report), encoding="utf-8")
    return replay, summary


def event_time_range(scores: pa.Table) -> str:
    """A line that says which times the scored events have."""
    if not scores.num_rows:
        return "no event was scored"
    bounds = pc.min_max(scores.column("event_time_us")).values()
    first, last = (datetime.fromtimestamp(us.as_py() / 1e6, UTC) for us in bounds)
    return f"event times from {first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ}"


def _flink_options(config: Config, beam_args: Sequence[str]) -> PipelineOptions:
    """Options of a job with another name than the live one, which `streamgauge stop` stops."""
    named = dataclasses.replace(config, name=f"{config.name}-backtest")
    return beam_options(
        named,
        config.flink.job_endpoint,
        config.flink.worker_endpoint,
        beam_args=[END_WITH_SOURCES, *beam_args],
    )


def _write_records(replay: Replay, out: Path) -> None:
    """Write scores, alerts, dead letters and drift reports."""
    pq.write_table(replay.scores, out / "scores.parquet", compression="zstd")
    for name in ("alerts", "dead_letters", "drift"):
        lines = (msgspec.json.encode(record) + b"\n" for record in getattr(replay, name))
        (out / f"{name}.jsonl").write_bytes(b"".join(lines))


def scored_series(scores: pa.Table) -> list[ScoredSeries]:
    """The scores of each entity in log order, without feature values."""
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
            entity_id=name,
            event_time_us=columns[0][first:end],
            score=columns[1][first:end],
            rarity_1_in_n=columns[2][first:end],
            values=no_values[first:end],
        )
        for name, first, end in zip(
            encoded.dictionary.to_pylist(), cuts[:-1], cuts[1:], strict=True
        )
    ]


def with_values(
    series: Sequence[ScoredSeries], source: Source, ranges: Sequence[Range]
) -> list[ScoredSeries]:
    """The series with their feature values, which are read from the log again."""
    parts: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {s.entity_id: [] for s in series}
    wanted = pa.array(list(parts), pa.string())
    for each in ranges:
        for block in read_range(source, each):
            rows = np.flatnonzero(pc.is_in(block.entity_id, value_set=wanted).to_numpy(False))
            names, codes = block.take(rows, block.previous_end).entities()
            for i, name in enumerate(names):
                own = rows[codes == i]
                parts[name].append((block.event_time_us[own], block.features[own]))
    complete = []
    for entity in series:
        time_us = np.concatenate([t for t, _ in parts[entity.entity_id]])
        values = np.concatenate([v for _, v in parts[entity.entity_id]])
        row = np.clip(np.searchsorted(time_us, entity.event_time_us), 0, len(time_us) - 1)
        complete.append(dataclasses.replace(entity, values=values[row]))
    return complete


def facts(config: Config, artifact: Artifact) -> dict[str, str]:
    """Facts for the foot of a report: the model and the alert policy."""
    policy = config.alerts.policy
    cooldown, after = formatting.duration(int(policy.cooldown_s * 1e6)), policy.new_normal_after
    lasting = f", or is the new normal after {after:,} stationary events" if after else ""
    return {
        "model": artifact.digest,
        "messages": f"on average at most {policy.per_entity_day:g} per entity and day, at least "
        f"{cooldown} apart; more at the start and after quiet days",
        "an alert closes": f"when the entity has been calm for {CALM_EVENTS} events{lasting}",
    }
