"""Replays bundled telemetry with labelled incidents through the real graph, in one process.

What runs is what runs on Flink: the same steps from `pipeline.graph`, the same core, an
artifact made by `streamgauge train`. Only source and sinks are files.
"""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline import config
from streamgauge.pipeline.alerts import tail
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.console import formatting
from streamgauge.pipeline.console.progress import Narrate, progress, to_stderr
from streamgauge.pipeline.data.datasets import Dataset, load
from streamgauge.pipeline.jobs import preflight
from streamgauge.pipeline.replay.backtest import facts
from streamgauge.pipeline.replay.runner import Replay, run_in_process
from streamgauge.pipeline.report.page import ReportData, render
from streamgauge.pipeline.report.summary import ScoredSeries, episodes_of, incidents_of, summarise
from streamgauge.transforms.messages.outgoing import Outgoing
from streamgauge.transforms.sinks import files
from streamgauge.transforms.sources.archive import ReplayArchive, write_archive

#: `demo.yaml`, the artifact it names, and a sample in the Parquet layout with its licence.
BUNDLED = Path(__file__).with_name("bundled")
CONFIG, SAMPLE = "demo.yaml", "sample"


def demo(out: Path, bundled: Path = BUNDLED, narrate: Narrate = to_stderr) -> dict[str, Any]:
    """Run the demonstration and write `report.html` and `summary.json` to `out`.

    Args:
        out: folder, made if it is missing.
        bundled: folder with `demo.yaml` and `sample`; the configuration names the artifact.
        narrate: takes the lines of narration.

    Returns:
        The content of `summary.json`.

    Raises:
        ConfigError, ArtifactError: the bundled files are not what they should be.
    """
    settings = config.load(bundled / CONFIG)
    narrate("loading the model; a new machine compiles its scorer first, which takes some 20 s")
    artifact = preflight.load_artifact(settings)
    sample = load(bundled / SAMPLE, "test")
    if sample.schema.names != artifact.schema.names:
        raise ConfigError(
            f"demo: the sample must have the artifact's {artifact.schema.size} features; "
            f"it has {sample.schema.size}"
        )
    narrate(
        f"replaying {sample.events:,} events of {len(sample.series)} entities through the graph, "
        f"model {artifact.digest[:12]}"
    )
    began = time.monotonic()
    replay = _replayed(settings, artifact, sample, out / "scratch", narrate)
    seconds = time.monotonic() - began
    series = scored_series(replay.scores, sample)
    summary = summarise(series, replay.alerts, seconds, dead_letters=len(replay.dead_letters))
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    page = render(_report(settings, artifact, sample, series, replay, summary))
    (out / "report.html").write_text(page, encoding="utf-8")
    for text in _table(series, replay, summary):
        print(text)
    print(f"report   {out / 'report.html'}\nsummary  {out / 'summary.json'}")
    return summary


def _replayed(
    settings: Config, artifact: Artifact, sample: Dataset, scratch: Path, narrate: Narrate
) -> Replay:
    """Everything the graph says about `sample`; `scratch` does not stay."""
    scratch.mkdir(parents=True, exist_ok=True)
    archive = scratch / "events"
    write_archive(archive, sample.series, settings.scoring.shards, settings.flink.max_parallelism)
    with progress("scoring", sample.events, narrate) as advance:

        def listen(kind: str, message: Outgoing) -> None:
            value = message.value
            if kind == files.SCORES:
                with pa.ipc.open_stream(pa.py_buffer(value)) as reader:
                    advance(sum(batch.num_rows for batch in reader))
            elif (alert := msgspec.json.decode(value))["status"] != "closed":
                narrate(tail.line(alert))

        reading = ReplayArchive(str(archive))
        replay = run_in_process(settings, artifact, reading, scratch / "parts", listen)
    shutil.rmtree(scratch)
    return replay


def scored_series(scores: pa.Table, sample: Dataset) -> list[ScoredSeries]:
    """Scores beside the values and labels they are about, one series per entity.

    Args:
        scores: columns of `transforms.scores.SCHEMA`, in log order.
        sample: what was replayed; an event is found by its entity and time.
    """
    owner = np.asarray(scores.column("entity_id").to_pylist(), object)
    time_us, score, rarity_1_in_n = (
        scores.column(name).to_numpy() for name in ("event_time_us", "score", "rarity_1_in_n")
    )
    found = []
    for one in sample.series:
        mine = owner == one.entity_id
        row = np.searchsorted(one.event_time_us, time_us[mine])
        found.append(
            ScoredSeries(
                one.entity_id,
                time_us[mine],
                score[mine],
                rarity_1_in_n[mine],
                one.values[row],
                None if one.labels is None else one.labels[row],
            )
        )
    return found


def _report(
    settings: Config,
    artifact: Artifact,
    sample: Dataset,
    series: list[ScoredSeries],
    replay: Replay,
    summary: dict[str, Any],
) -> ReportData:
    first = min(int(one.event_time_us[0]) for one in sample.series)
    last = max(int(one.event_time_us[-1]) for one in sample.series)
    return ReportData(
        "What streamgauge found in the bundled telemetry",
        f"{len(sample.series)} server machines, {formatting.moment(first)} to "
        f"{formatting.moment(last)} UTC; times are invented, values and labels are real",
        summary,
        sample.schema.names,
        series,
        replay.alerts,
        {
            **facts(settings, artifact),
            "data": f"SHA-256 {sample.content_hash}",
            "dead letters": str(len(replay.dead_letters)),
        },
    )


def _table(series: list[ScoredSeries], replay: Replay, summary: dict[str, Any]) -> Iterator[str]:
    """A line per entity and one for all."""
    episodes = episodes_of(replay.alerts)
    yield f"{'entity':<20} {'events':>8} {'incidents':>10} {'found':>6} {'alerts':>7} {'false':>6}"
    for one in series:
        mine = [episode for episode in episodes if episode.entity_id == one.entity_id]
        incidents = incidents_of(one)
        found = sum(any(e.overlaps(i) for e in mine) for i in incidents)
        false = sum(not any(e.overlaps(i) for i in incidents) for e in mine)
        yield (
            f"{formatting.plain(one.entity_id):<20} {len(one.score):>8,} {len(incidents):>10} "
            f"{found:>6} {len(mine):>7} {false:>6}"
        )
    recall, false_rate = summary["event_recall"], summary["false_alerts_per_entity_day"]
    if recall is not None:
        yield f"recall {recall:.0%} at {false_rate:.2f} false alerts per entity and day"
