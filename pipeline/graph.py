"""The Beam graph of the job: one `build()` for live and replay.

    telemetry ─► ReadTelemetry ─► ScoreEntities ─► FormatAlerts ─► WriteAlerts
                  │ dead letters   │  │  └ scores ──────────────► WriteScores
                  │                │  ├ drift reports ──────────► WriteDrift
                  │                │  └ shard health ───────────► WriteHealth
                  └────────────────┴ dead letters ──────────────► WriteDeadLetters

Step labels are a contract: a restore matches state by them. They are written by hand and change
only with a migration note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError
from streamgauge.models.state.snapshot_file import StateIdentity
from streamgauge.pipeline.config import Config, parse_start
from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.messages.alerts import FormatAlerts
from streamgauge.transforms.runner.snapshot_store import newest_snapshots
from streamgauge.transforms.score import (
    DRIFT,
    HEALTH,
    TRANSITIONS,
    ArtifactRef,
    ScoreEntities,
    ScoringSpec,
    SnapshotSettings,
)
from streamgauge.transforms.sinks import files
from streamgauge.transforms.sinks.files import WriteParts
from streamgauge.transforms.sinks.topic import WriteTopic
from streamgauge.transforms.sources.live import Polling, ReadTelemetry
from streamgauge.transforms.sources.source import DEAD_LETTERS, Source


@dataclass(frozen=True, slots=True)
class Sinks:
    """One transform per kind of output; `scores` is None if no scores are written."""

    alerts: beam.PTransform[Any, Any]
    scores: beam.PTransform[Any, Any] | None
    dead_letters: beam.PTransform[Any, Any]
    drift: beam.PTransform[Any, Any]
    health: beam.PTransform[Any, Any]


def build(
    root: Any,
    config: Config,
    artifact: Artifact,
    *,
    reading: beam.PTransform[Any, Any],
    sinks: Sinks,
    state: SnapshotSettings,
    is_live: bool,
) -> None:
    """Add the steps of the job to pipeline `root`; live and replay differ only in arguments."""
    read = root | "ReadTelemetry" >> reading
    scored = read.blocks | "ScoreEntities" >> scoring(config, artifact, state, is_live)
    alerts = scored[TRANSITIONS] | "FormatAlerts" >> beam.ParDo(
        FormatAlerts(config.input.topic, artifact.digest)
    )
    alerts | "WriteAlerts" >> sinks.alerts
    if sinks.scores is not None:
        scored.scores | "WriteScores" >> sinks.scores
    scored[DRIFT] | "WriteDrift" >> sinks.drift
    scored[HEALTH] | "WriteHealth" >> sinks.health
    letters = (read[DEAD_LETTERS], scored[DEAD_LETTERS]) | "DeadLetters" >> beam.Flatten()
    letters | "WriteDeadLetters" >> sinks.dead_letters


def live_reading(config: Config, artifact: Artifact) -> ReadTelemetry:
    """Return the source of the live job."""
    settings = config.input
    polling = Polling(
        start=parse_start(settings.start),
        on_missing_offset=settings.on_missing_offset,
        discovery_interval_s=settings.discovery_interval_s,
        poll_interval_ms=settings.poll_interval_ms,
    )
    return ReadTelemetry(source(config, artifact), polling)


def source(config: Config, artifact: Artifact) -> Source:
    """Return what is read, live or replayed."""
    return Source(
        access=access(config),
        group=config.name,
        topic=config.input.topic,
        schema=artifact.schema,
        limits=config.input.limits,
        shards=config.scoring.shards,
        routing=config.input.routing,
        block_events_max=config.input.block_events_max,
        max_parallelism=config.flink.max_parallelism,
    )


def origin(config: Config) -> StateIdentity:
    """Return the identity of the job's state."""
    return StateIdentity(config.input.topic, config.scoring.shards, config.input.routing)


def live_state(config: Config, start_from: str | None = None) -> SnapshotSettings:
    """Return the snapshot settings of the live job.

    Args:
        config: of the job.
        start_from: folder with the snapshots that the job starts from; None for no state.
    """
    return _state(config, start_from, state_folder(config))


def replay_state(
    config: Config, start_from: str | None = None, snapshot_folder: str | None = None
) -> SnapshotSettings:
    """Return the snapshot settings of a replay, which writes its snapshots when its input ends.

    Args:
        config: of the live job.
        start_from: folder with the snapshots that the replay starts from; None for no state.
        snapshot_folder: folder for its snapshots, not that of the live job; None writes none.
    """
    return _state(config, start_from, snapshot_folder)


def _state(config: Config, start_from: str | None, snapshot_folder: str | None) -> SnapshotSettings:
    if start_from is not None and start_from == snapshot_folder:
        raise ConfigError(
            f"--state: must not be the folder that the job itself writes to, {snapshot_folder}; "
            "make a copy with `streamgauge state export`"
        )
    # The files are chosen now: files that the folder gets later must not change the start.
    files = newest_snapshots(start_from) if start_from else {}
    return SnapshotSettings(
        origin=origin(config),
        snapshot_folder=snapshot_folder,
        snapshot_interval_s=config.state.snapshot_interval_s,
        start_from=files,
    )


def state_folder(config: Config) -> str | None:
    """Return the folder for the snapshots of the live job of this name."""
    return f"{config.state.folder}/{config.name}" if config.state.folder else None


def scoring(
    config: Config, artifact: Artifact, state: SnapshotSettings, is_live: bool
) -> ScoreEntities:
    """Return the scoring step, live or replayed."""
    return ScoreEntities(
        ScoringSpec(
            artifact=ArtifactRef(config.artifact, artifact.digest),
            state=state,
            scoring=config.scoring.policy,
            alerts=config.alerts.policy,
            shard=config.shard_policy,
            drift_window_s=config.drift.window_s,
            score_format=config.scores.format if config.scores.topic else None,
            health_interval_s=config.health.interval_s,
            is_live=is_live,
        )
    )


def topic_sinks(config: Config) -> Sinks:
    """Return the outputs of the live job."""
    kafka = access(config)
    return Sinks(
        WriteTopic(kafka, config.alerts.topic),
        WriteTopic(kafka, config.scores.topic) if config.scores.topic else None,
        WriteTopic(kafka, config.dead_letters.topic),
        WriteTopic(kafka, config.drift.topic),
        WriteTopic(kafka, config.health.topic),
    )


def file_sinks(directory: str) -> Sinks:
    """Return the outputs of a replay: files, never the topics of the live job."""
    kinds = (files.ALERTS, files.SCORES, files.DEAD_LETTERS, files.DRIFT, files.HEALTH)
    return Sinks(*(WriteParts(directory, kind) for kind in kinds))


def access(config: Config) -> KafkaAccess:
    """Return how workers reach the broker."""
    kafka = config.kafka
    return KafkaAccess(kafka.bootstrap_servers, kafka.settings, kafka.secrets_file)
