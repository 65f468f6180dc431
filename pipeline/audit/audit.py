"""Verifies scores against the log: scores a sample of entities again and compares the bits.

The log is read once and decoded by the rules of the job. Only the events of the sample are
scored, in one table. The scores of an entity depend on its own events only, so shards, blocks
and other entities play no role. Nothing is written.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.scored_block import WARMING
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline import graph
from streamgauge.pipeline.audit.report import (
    OLDER,
    SCATTERED,
    AuditReport,
    EntityAudit,
    compare,
    order_of,
)
from streamgauge.pipeline.audit.rescore import Rescorer
from streamgauge.pipeline.audit.score_log import Sample, ScoreLog, read_refused
from streamgauge.pipeline.config import Config, parse_start
from streamgauge.pipeline.console.progress import Narrate, progress, to_stderr
from streamgauge.pipeline.jobs import broker, preflight
from streamgauge.pipeline.jobs.ranges import processed_ranges
from streamgauge.transforms.kafka.admin import partition_count
from streamgauge.transforms.kafka.client import MissingOffsetError
from streamgauge.transforms.kafka.topic_log import TopicLog
from streamgauge.transforms.sources.replay import Range, read_range


def audit(
    config: Config,
    *,
    entities: int = 20,
    seed: int = 0,
    named: Sequence[str] = (),
    start: str | None = None,
    end: str = "latest",
    narrate: Narrate = to_stderr,
) -> AuditReport:
    """Compute the scores of a sample of entities again from the log, and compare them.

    Args:
        config: the configuration of the job; its policies influence the scores.
        entities: size of the sample.
        seed: seed of the sample.
        named: audit these entities instead of a sample.
        start: where the job began to read, as in `input.start`; None takes `input.start`.
        end: compare the events before this point: "latest", a time, or offsets.
        narrate: receives the lines of progress.

    Raises:
        ConfigError: broker, topic or artifact are missing, or no entity can be audited.
    """
    began = time.monotonic()
    if config.scores.topic is None:
        raise ConfigError("scores.topic: must name the topic of scores; the job writes none")
    first, last = parse_start(start or config.input.start), parse_start(end)
    artifact = preflight.load_artifact(config)
    broker.connect(config.kafka.bootstrap_servers)
    partitions = partition_count(graph.access(config), config.input.topic)
    log = TopicLog(graph.access(config), f"{config.name}-audit", config.scores.topic)
    try:
        written = _read_scores(config, artifact, log, Sample(entities, seed, named), narrate)
        ranges, truncated = processed_ranges(
            config, partitions, first, end=last, scored_from=written.first
        )
        _narrate_truncated(config, truncated, narrate)
        rescored = _rescore(config, artifact, written, ranges=ranges, narrate=narrate)
        written.read_on()
    finally:
        log.close()
    report = AuditReport(
        topic=config.input.topic,
        scores_topic=config.scores.topic,
        model=artifact.digest,
        entities=[_audit_entity(name, written, rescored, ranges) for name in written.scores],
        foreign=written.foreign,
        seconds=round(time.monotonic() - began, 3),
        truncated_partitions=truncated,
    )
    _check_audited(report)
    return report


def _narrate_truncated(config: Config, partitions: Sequence[int], narrate: Narrate) -> None:
    if partitions:
        narrate(
            f"{config.input.topic}: partitions {', '.join(map(str, partitions))} no longer begin "
            "at offset 0; entities with older events cannot be audited"
        )


def _check_audited(report: AuditReport) -> None:
    """Refuse a report about no entity at all."""
    if not report.audited:
        raise ConfigError(
            f"audit: at least one entity of the sample must have all its events in the log; "
            f"all {len(report.entities)} are left out ({report.entities[0].left_out}). "
            "Another --seed chooses others"
        )


def _read_scores(
    config: Config, artifact: Artifact, log: TopicLog, sample: Sample, narrate: Narrate
) -> ScoreLog:
    """Read the scores that the job wrote for the sample.

    Raises:
        ConfigError: there is no such topic, or it has no scores of this job and model.
    """
    if not log.exists:
        raise ConfigError(f"scores.topic: topic {log.topic!r} must exist; it does not")
    written = ScoreLog(
        log,
        sample,
        topic=config.input.topic,
        digest=artifact.digest,
        shards=config.scoring.shards,
        routing=config.input.routing,
    )
    with progress(f"reading {log.topic}", log.messages_left(), narrate, unit="messages") as advance:
        written.read(advance)
    if not written.reached:
        raise ConfigError(
            f"scores.topic: {log.topic!r} must hold scores of {config.input.topic!r} by model "
            f"{artifact.digest[:12]}; it holds {written.foreign:,} messages, none of them that"
        )
    if written.foreign:
        narrate(f"{log.topic}: {written.foreign:,} messages of other topics or models are left out")
    return written


def _read_refused(config: Config, written: ScoreLog) -> set[tuple[int, int, int]]:
    """Events of the sample that were never scored because their shard was full."""
    if not config.scoring.policy.entities_per_shard_max:
        return set()
    log = TopicLog(graph.access(config), f"{config.name}-audit", config.dead_letters.topic)
    try:
        return read_refused(log, config.input.topic, list(written.scores))
    finally:
        log.close()


def _rescore(
    config: Config,
    artifact: Artifact,
    written: ScoreLog,
    *,
    ranges: Mapping[int, Range],
    narrate: Narrate,
) -> Rescorer:
    """Score the events of the sample in `ranges` again.

    Raises:
        ConfigError: the broker reports a range but does not deliver it.
    """
    rescorer = Rescorer(
        artifact,
        config.scoring,
        config.alerts.policy,
        routing=config.input.routing,
        sample=written.scores,
        refused=_read_refused(config, written),
    )
    source = graph.source(config, artifact)
    total = sum(each.end - each.start for each in ranges.values())
    with progress(f"reading {config.input.topic}", total, narrate, unit="offsets") as advance:
        for each in ranges.values():
            try:
                for block in read_range(source, each):
                    rescorer.take(block)
                    advance(block.end_offset - block.first_offset)
            except (TimeoutError, MissingOffsetError) as error:
                raise ConfigError(f"input.topic: {error}") from error
    return rescorer


def _audit_entity(
    name: str, written: ScoreLog, rescored: Rescorer, ranges: Mapping[int, Range]
) -> EntityAudit:
    scores = written.of(name)
    partitions = set(scores["partition"].tolist())
    if name in rescored.partition:
        partitions.add(rescored.partition[name])
    if name in rescored.scattered or len(partitions) > 1:
        return EntityAudit(name, left_out=SCATTERED)
    if not partitions:
        return EntityAudit(name, left_out="neither the log nor the scores have it")
    [partition] = partitions
    log_range = ranges.get(partition, Range(partition, 0, 0))
    if _is_older(scores, log_range, written.is_whole):
        return EntityAudit(name, left_out=OLDER)
    inside = scores[scores["offset"] < log_range.end]
    from_offset = 0 if written.is_whole or not len(scores) else int(scores["offset"].min())
    audited = compare(
        name,
        expected=rescored.scores_of(name),
        written=inside,
        reached=written.reached_by(name, partition),
        from_offset=from_offset,
    )
    return dataclasses.replace(audited, refused=rescored.refusals.get(name, 0))


def _is_older(scores: NDArray[Any], log_range: Range, is_whole: bool) -> bool:
    """Whether the entity had events before the range, judged by its first score."""
    if not log_range.start or not len(scores):
        return False
    earliest = scores[np.argmin(order_of(scores)["offset"])]
    # If older scores are gone too, only an entity that is warming up is certainly new.
    return bool(
        earliest["offset"] < log_range.start or (not is_whole and earliest["verdict"] != WARMING)
    )
