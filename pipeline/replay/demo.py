"""Replays bundled telemetry with labelled anomalies through the real graph, in one process.

Steps, core and artifact are those of a live job on Flink. Only source and sinks are files.
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
from streamgauge.pipeline.report.summary import (
    ScoredSeries,
    alerts_of,
    labelled_anomalies_of,
    summarise,
)
from streamgauge.transforms.messages.outgoing import Outgoing
from streamgauge.transforms.sinks import files
from streamgauge.transforms.sources.archive import ReplayArchive, write_archive

#: `demo.yaml`, the artifact it names, and a sample in the Parquet layout with its licence.
BUNDLED = Path(__file__).with_name("bundled")
CONFIG, SAMPLE = "demo.yaml", "sample"


def demo(out: Path, bundled: Path = BUNDLED, narrate: Narrate = to_stderr) -> dict[str, Any]:
    """Run the demonstration and write `report.html` and `summary.json` to `out`.

    Args:
        out: folder; created if it is missing.
        bundled: folder with `demo.yaml` and `sample`; the configuration names the artifact.
        narrate: receives the lines of progress.

    Returns:
        The content of `summary.json`.

    Raises:
        ConfigError, ArtifactError: the bundled files are damaged or do not fit together.
    """
    settings = config.load(bundled / CONFIG)
    narrate(
        "loading the model; the first run on a machine compiles the scorer, which takes about 20 s"
    )
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
    replay = _replay(settings, artifact, sample, scratch=out / "scratch", narrate=narrate)
    seconds = time.monotonic() - began
    series = scored_series(replay.scores, sample)
    summary = summarise(series, replay.alerts, seconds, dead_letters=len(replay.dead_letters))
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    report = _report_data(settings, artifact, sample, replay=replay, series=series, summary=summary)
    (out / "report.html").write_text(render(report), encoding="utf-8")
    for line in _table(series, replay, summary):
        print(line)
    print(f"report   {out / 'report.html'}\nsummary  {out / 'summary.json'}")
    return summary


def _replay(
    settings: Config, artifact: Artifact, sample: Dataset, *, scratch: Path, narrate: Narrate
) -> Replay:
    """Run the graph on `sample`; the folder `scratch` is removed afterwards."""
    scratch.mkdir(parents=True, exist_ok=True)
    archive = scratch / "events"
    write_archive(archive, sample.series, settings.scoring.shards, settings.flink.max_parallelism)
    with progress("scoring", sample.events, narrate) as advance:

        def show(kind: str, message: Outgoing) -> None:
            value = message.value
            if kind == files.SCORES:
                with pa.ipc.open_stream(pa.py_buffer(value)) as reader:
                    advance(sum(batch.num_rows for batch in reader))
            elif (alert := msgspec.json.decode(value))["status"] != "closed":
                narrate(tail.line(alert))

        replay = run_in_process(
            settings,
            artifact,
            ReplayArchive(str(archive)),
            directory=scratch / "parts",
            listener=show,
        )
    shutil.rmtree(scratch)
    return replay


def scored_series(scores: pa.Table, sample: Dataset) -> list[ScoredSeries]:
    """The scores of each entity, with the feature values and labels of their events.

    Args:
        scores: columns of `transforms.messages.scores.SCHEMA`, in log order.
        sample: the replayed data; an event is identified by its entity and time.
    """
    owner = np.asarray(scores.column("entity_id").to_pylist(), object)
    time_us, score, rarity_1_in_n = (
        scores.column(name).to_numpy() for name in ("event_time_us", "score", "rarity_1_in_n")
    )
    scored = []
    for series in sample.series:
        own = owner == series.entity_id
        row = np.searchsorted(series.event_time_us, time_us[own])
        scored.append(
            ScoredSeries(
                entity_id=series.entity_id,
                event_time_us=time_us[own],
                score=score[own],
                rarity_1_in_n=rarity_1_in_n[own],
                values=series.values[row],
                labels=None if series.labels is None else series.labels[row],
            )
        )
    return scored


def _report_data(
    settings: Config,
    artifact: Artifact,
    sample: Dataset,
    *,
    replay: Replay,
    series: list[ScoredSeries],
    summary: dict[str, Any],
) -> ReportData:
    first = min(int(entity.event_time_us[0]) for entity in sample.series)
    last = max(int(entity.event_time_us[-1]) for entity in sample.series)
    return ReportData(
        title="Anomalies in the bundled telemetry",
        subtitle=f"{len(sample.series)} server machines, {formatting.moment(first)} to "
        f"{formatting.moment(last)} UTC; times are invented, values and labels are real",
        summary=summary,
        feature_names=sample.schema.names,
        series=series,
        alert_records=replay.alerts,
        facts={
            **facts(settings, artifact),
            "data": f"SHA-256 {sample.content_hash}",
            "dead letters": str(len(replay.dead_letters)),
        },
    )


def _table(series: list[ScoredSeries], replay: Replay, summary: dict[str, Any]) -> Iterator[str]:
    """A line per entity and one for all."""
    alerts = alerts_of(replay.alerts)
    yield f"{'entity':<20} {'events':>8} {'anomalies':>10} {'found':>6} {'alerts':>7} {'false':>6}"
    for entity in series:
        own = [alert for alert in alerts if alert.entity_id == entity.entity_id]
        anomalies = labelled_anomalies_of(entity)
        detected = sum(any(alert.overlaps(each) for alert in own) for each in anomalies)
        false = sum(not any(alert.overlaps(each) for each in anomalies) for alert in own)
        yield (
            f"{formatting.plain(entity.entity_id):<20} {len(entity.score):>8,} "
            f"{len(anomalies):>10} "
            f"{detected:>6} {len(own):>7} {false:>6}"
        )
    recall, false_rate = summary["event_recall"], summary["false_alerts_per_entity_day"]
    if recall is not None:
        yield f"recall {recall:.0%} at {false_rate:.2f} false alerts per entity and day"
