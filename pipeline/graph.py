"""The graph, whole, on one page: one `build()` for the live job and for the replay.

    telemetry ─► ReadTelemetry ─► ScoreEntities ─► RaiseAlerts ─► WriteAlerts
                  │ dead letters   │  │  └ scores ──────────────► WriteScores
                  │                │  └ drift reports ──────────► WriteDrift
                  └────────────────┴ dead letters ──────────────► WriteDeadLetters

Step labels are a contract: restoring state matches on them. They are written by hand
and change only with a migration note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from models.artifact import Artifact
from models.shard import ShardPolicy
from pipeline.config import Config, parse_start
from transforms import files
from transforms.alert import RaiseAlerts
from transforms.files import WriteParts
from transforms.kafka import KafkaAccess
from transforms.read import DEAD_LETTERS, Polling, ReadTelemetry, Source
from transforms.score import DRIFT, TRANSITIONS, ArtifactRef, ScoreEntities, ScoringSpec
from transforms.write import WriteTopic


@dataclass(frozen=True, slots=True)
class Sinks:
    """One transform per kind of output; None writes no scores."""

    alerts: beam.PTransform
    scores: beam.PTransform | None
    dead_letters: beam.PTransform
    drift: beam.PTransform


def build(
    root: Any,
    config: Config,
    artifact: Artifact,
    reading: beam.PTransform,
    sinks: Sinks,
    is_live: bool,
) -> None:
    """Put the steps together on pipeline `root`; live and replay differ in the arguments only."""
    read = root | "ReadTelemetry" >> reading
    scored = read.blocks | "ScoreEntities" >> scoring(config, artifact, is_live)
    alerts = scored[TRANSITIONS] | "RaiseAlerts" >> RaiseAlerts(config.input.topic, artifact.digest)
    alerts | "WriteAlerts" >> sinks.alerts
    if sinks.scores is not None:
        scored.scores | "WriteScores" >> sinks.scores
    scored[DRIFT] | "WriteDrift" >> sinks.drift
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


def scoring(config: Config, artifact: Artifact, is_live: bool) -> ScoreEntities:
    """The scoring step, live or replayed."""
    return ScoreEntities(
        ScoringSpec(
            ArtifactRef(config.artifact, artifact.digest),
            config.input.topic,
            config.scoring,
            config.alerts,
            ShardPolicy(held_blocks_max=config.scoring.held_blocks_max),
            config.drift.window_s,
            config.scores.format if config.scores.topic else None,
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
    )


def file_sinks(directory: str) -> Sinks:
    """Outputs of a replay: never the live topics."""
    kinds = (files.ALERTS, files.SCORES, files.DEAD_LETTERS, files.DRIFT)
    return Sinks(*(WriteParts(directory, kind) for kind in kinds))


def access(config: Config) -> KafkaAccess:
    """How workers reach the broker."""
    kafka = config.kafka
    return KafkaAccess(kafka.bootstrap_servers, kafka.settings, kafka.secrets_file)
