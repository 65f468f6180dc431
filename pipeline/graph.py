"""The graph, whole, on one page: one `build()` for the live job and for the replay.

    telemetry ─► ReadTelemetry ─► ScoreEntities ─► FormatAlerts ─► WriteAlerts
                  │ dead letters   │  │  └ scores ──────────────► WriteScores
                  │                │  ├ drift reports ──────────► WriteDrift
                  │                │  └ shard health ───────────► WriteHealth
                  └────────────────┴ dead letters ──────────────► WriteDeadLetters

Step labels are a contract: restoring state matches on them. They are written by hand
and change only with a migration note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError
from streamgauge.models.state.snapshot_file import StateIdentity
from streamgauge.pipeline.config import Config, parse_start
from streamgauge.transforms.kafka.client import KafkaAccess
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
from streamgauge.transforms.sources.live import DEAD_LETTERS, Polling, ReadTelemetry, Source


@dataclass(frozen=True, slots=True)
class Sinks:
    """One transform per kind of output; None writes no scores."""

    alerts: beam.PTransform
    scores: beam.PTransform | None
    dead_letters: beam.PTransform
    drift: beam.PTransform
    health: beam.PTransform


def build(
    root: Any,
    config: Config,
    artifact: Artifact,
    reading: beam.PTransform,
    sinks: Sinks,
    state: SnapshotSettings,
    is_live: bool,
) -> None:
    """Put the steps together on pipeline `root`; live and replay differ in the arguments only."""
    read = root | "ReadTelemetry" >> reading
    scored = read.blocks | "ScoreEntities" >> scoring(config, artifact, state, is_live)
    alerts = scored[TRANSITIONS] | "FormatAlerts" >> FormatAlerts(
        config.input.topic, artifact.digest
    )
    alerts | "WriteAlerts" >> sinks.alerts
    if sinks.scores is not None:
        scored.scores | "WriteScores" >> sinks.scores
    scored[DRIFT] | "WriteDrift" >> sinks.drift
    scored[HEALTH] | "WriteHealth" >> sinks.health
    letters = (read[DEAD_LETTERS], scored[DEAD_LETTERS]) | "DeadLetters" >> beam.Flatten()
    letters | "WriteDeadLetters" >> sinks.dead_letters


def live_reading(config: Config, artifact: Artifact) -> ReadTelemetry:
    """The source of the live job."""
    given = config.input
    polling = Polling(
        parse_start(given.start),
        given.on_missing_offset,
        given.discovery_interval_s,
        given.poll_interval_ms,
    )
    return ReadTelemetry(source(config, artifact), polling)


def source(config: Config, artifact: Artifact) -> Source:
    """What is read, live or replayed."""
    return Source(
        access(config),
        config.name,
        config.input.topic,
        artifact.schema,
        config.input.limits,
        config.scoring.shards,
        config.input.routing,
        config.input.block_events_max,
        config.flink.max_parallelism,
    )


def origin(config: Config) -> StateIdentity:
    """Whose memory the shards keep."""
    return StateIdentity(config.input.topic, config.scoring.shards, config.input.routing)


def live_state(config: Config, start_from: str | None = None) -> SnapshotSettings:
    """Where the live job keeps its snapshots; and the folder that it starts from, if any."""
    return _state(config, start_from, state_folder(config))


def replay_state(
    config: Config, start_from: str | None = None, snapshot_folder: str | None = None
) -> SnapshotSettings:
    """Snapshots of a replay: never those of the live job, and kept when its input ends."""
    return _state(config, start_from, snapshot_folder)


def _state(config: Config, start_from: str | None, snapshot_folder: str | None) -> SnapshotSettings:
    if start_from is not None and start_from == snapshot_folder:
        raise ConfigError(
            f"--state: must not be the folder that the job itself writes to, {snapshot_folder}; "
            "make a copy with `streamgauge state export`"
        )
    # Named one by one now: what a folder holds later must not change where a shard starts.
    files = newest_snapshots(start_from) if start_from else {}
    return SnapshotSettings(
        origin(config), snapshot_folder, config.state.snapshot_interval_s, files
    )


def state_folder(config: Config) -> str | None:
    """The folder in which the live job of this name keeps its snapshots."""
    return f"{config.state.folder}/{config.name}" if config.state.folder else None


def scoring(
    config: Config, artifact: Artifact, state: SnapshotSettings, is_live: bool
) -> ScoreEntities:
    """The scoring step, live or replayed."""
    return ScoreEntities(
        ScoringSpec(
            ArtifactRef(config.artifact, artifact.digest),
            state,
            config.scoring.policy,
            config.alerts.policy,
            config.shard_policy,
            config.drift.window_s,
            config.scores.format if config.scores.topic else None,
            config.health.interval_s,
            is_live,
        )
    )


def topic_sinks(config: Config) -> Sinks:
    """Outputs of the live job."""
    kafka = access(config)
    return Sinks(
        WriteTopic(kafka, config.alerts.topic),
        WriteTopic(kafka, config.scores.topic) if config.scores.topic else None,
        WriteTopic(kafka, config.dead_letters.topic),
        WriteTopic(kafka, config.drift.topic),
        WriteTopic(kafka, config.health.topic),
    )


def file_sinks(directory: str) -> Sinks:
    """Outputs of a replay: never the live topics."""
    kinds = (files.ALERTS, files.SCORES, files.DEAD_LETTERS, files.DRIFT, files.HEALTH)
    return Sinks(*(WriteParts(directory, kind) for kind in kinds))


def access(config: Config) -> KafkaAccess:
    """How workers reach the broker."""
    kafka = config.kafka
    return KafkaAccess(kafka.bootstrap_servers, kafka.settings, kafka.secrets_file)
