"""Is what the job wrote exactly what its log gives? Derives a sample again and compares bits.

The log is read once, decoded by the same rules, and only the events of the sample are
stepped, in one table: an entity's scores depend on its own events alone, so shards, blocks
and neighbours need not be known. Nothing is written anywhere.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

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
from streamgauge.transforms.kafka.admin import partition_count
from streamgauge.transforms.kafka.client import MissingOffsetError, PartitionReader
from streamgauge.transforms.kafka.topic_log import TopicLog
from streamgauge.transforms.sources.replay import Range, read_range
from streamgauge.transforms.sources.source import Source


def audit(
    config: Config,
    entities: int = 20,
    seed: int = 0,
    named: Sequence[str] = (),
    start: str | None = None,
    end: str = "latest",
    narrate: Narrate = to_stderr,
) -> AuditReport:
    """Derive the scores of a sample of entities from the log and compare them.

    Args:
        config: the one that the job runs with; policies shape scores.
        entities: size of the sample.
        seed: chooses the sample.
        named: audit these entities instead of a sample.
        start: where the job began to read, as in the configuration's `input.start`; None
            takes what that says.
        end: compare events up to here: "latest", a time, or offsets.
        narrate: told one line per step.

    Raises:
        ConfigError: broker, topic or artifact are not there, or no entity can be derived.
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
        found = _read_scores(config, artifact, log, Sample(entities, seed, named), narrate)
        refused = _read_refused(config, found, narrate)
        ranges, cut = _ranges(config, partitions, first, last, found)
        if cut:
            narrate(
                f"{config.input.topic}: partitions {', '.join(map(str, cut))} do not begin at "
                "offset 0 any more; entities older than the log cannot be derived from it"
            )
        derived = Rescorer(
            artifact,
            config.scoring,
            config.alerts.policy,
            config.input.routing,
            found.scores,
            refused,
        )
        _derive(config, derived, graph.source(config, artifact), ranges.values(), narrate)
        found.read_on()
    finally:
        log.close()
    report = AuditReport(
        config.input.topic,
        config.scores.topic,
        artifact.digest,
        [_audit_entity(name, found, derived, ranges) for name in found.scores],
        found.foreign,
        round(time.monotonic() - began, 3),
        cut,
    )
    if not report.audited:
        raise ConfigError(
            f"audit: at least one entity of the sample must have begun within the log; "
            f"all {len(report.entities)} are left out ({report.entities[0].left_out}). "
            "Another --seed takes others"
        )
    return report


def _read_scores(
    config: Config, artifact: Artifact, log: TopicLog, sample: Sample, narrate: Narrate
) -> ScoreLog:
    """The sample's scores.

    Raises:
        ConfigError: there is no such topic, or nothing on it of this job and model.
    """
    if not log.exists:
        raise ConfigError(f"scores.topic: topic {log.topic!r} must exist; it does not")
    found = ScoreLog(
        log,
        sample,
        topic=config.input.topic,
        digest=artifact.digest,
        shards=config.scoring.shards,
        routing=config.input.routing,
    )
    with progress(f"reading {log.topic}", log.messages_left(), narrate, "messages") as advance:
        found.read(advance)
    if not found.reached:
        raise ConfigError(
            f"scores.topic: {log.topic!r} must hold scores of {config.input.topic!r} by model "
            f"{artifact.digest[:12]}; it holds {found.foreign:,} messages, none of them that"
        )
    if found.foreign:
        narrate(f"{log.topic}: {found.foreign:,} messages of other topics or models are left out")
    return found


def _read_refused(config: Config, found: ScoreLog, narrate: Narrate) -> set[tuple[int, int, int]]:
    """Events of the sample that never reached the model because their shard was full."""
    if not config.scoring.policy.entities_per_shard_max:
        return set()
    log = TopicLog(graph.access(config), f"{config.name}-audit", config.dead_letters.topic)
    try:
        return read_refused(log, config.input.topic, list(found.scores))
    finally:
        log.close()


def _ranges(
    config: Config, partitions: int, first: Any, last: Any, found: ScoreLog
) -> tuple[dict[int, Range], list[int]]:
    """From where the job began to `last`, by partition; and whose log has lost its beginning."""
    ranges, cut = {}, []
    for partition in range(partitions):
        reader = PartitionReader(graph.access(config), config.name, config.input.topic, partition)
        try:
            low, high = reader.offset_at("earliest"), reader.offset_at("latest")
            if first == "latest":  # known by what came of it
                begin = found.first.get(partition, high)
            elif isinstance(first, dict):
                begin = first.get(partition, low)
            else:
                begin = reader.offset_at(first)
            given = last.get(partition, 0) if isinstance(last, dict) else reader.offset_at(last)
        finally:
            reader.close()
        if low and begin <= low:
            cut.append(partition)
        begin, end = max(begin, low), min(high, given)
        if begin < end:
            ranges[partition] = Range(partition, begin, end)
    if not ranges:
        raise ConfigError(f"--from, --to: must hold at least one event of {config.input.topic!r}")
    return ranges, cut


def _derive(
    config: Config,
    derivation: Rescorer,
    source: Source,
    ranges: Collection[Range],
    narrate: Narrate,
) -> None:
    """Take the whole range through `derivation`.

    Raises:
        ConfigError: the broker has the range by its own word but does not send it.
    """
    total = sum(given.end - given.start for given in ranges)
    with progress(f"reading {config.input.topic}", total, narrate, "offsets") as advance:
        for given in ranges:
            try:
                for block in read_range(source, given):
                    derivation.take(block)
                    advance(block.end_offset - block.first_offset)
            except (TimeoutError, MissingOffsetError) as error:
                raise ConfigError(f"input.topic: {error}") from error


def _audit_entity(
    name: str, found: ScoreLog, derived: Rescorer, ranges: dict[int, Range]
) -> EntityAudit:
    scores = found.of(name)
    homes = set(scores["partition"].tolist())
    if name in derived.home:
        homes.add(derived.home[name])
    if name in derived.scattered or len(homes) > 1:
        return EntityAudit(name, left_out=SCATTERED)
    if not homes:
        return EntityAudit(name, left_out="neither the log nor the scores have it")
    [home] = homes
    given = ranges.get(home, Range(home, 0, 0))
    if _is_older(scores, given, found.is_whole):
        return EntityAudit(name, left_out=OLDER)
    inside = scores[scores["offset"] < given.end]
    from_offset = 0 if found.is_whole or not len(scores) else int(scores["offset"].min())
    one = compare(name, derived.scores_of(name), inside, found.reached_by(name, home), from_offset)
    return dataclasses.replace(one, refused=derived.refusals.get(name, 0))


def _is_older(scores: np.ndarray, given: Range, is_whole: bool) -> bool:
    """Whether an entity had events before the range, by its first score."""
    if not given.start or not len(scores):
        return False
    earliest = scores[np.argmin(order_of(scores)["offset"])]
    # Where older scores are gone too, only an entity that is warming up is surely new.
    return bool(
        earliest["offset"] < given.start or (not is_whole and earliest["verdict"] != WARMING)
    )
