"""Scores a frame of events in this process, with the bits that the live job gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.block import NOTHING_BEFORE, Block
from streamgauge.models.blocks.chain import cut, new_ends
from streamgauge.models.blocks.scored_block import VERDICTS, ScoredBlock
from streamgauge.models.errors import ConfigError
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline import config
from streamgauge.pipeline.api.frames import FrameEvents, as_kind_of, read_frame

BLOCK_EVENTS = 20_000  # as `input.block_events_max`; no score depends on it


def load_artifact(path: str | Path) -> Artifact:
    """Load a trained model for `score_frame`; its files and its self-test are checked.

    Args:
        path: the directory that `streamgauge train` wrote.

    Raises:
        ConfigError: there is no directory.
        ArtifactError: the artifact is damaged, or this machine does not compute the same bits.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise ConfigError(f"path: must be a directory with an artifact; nothing at {directory}")
    return artifacts.load(directory)


def score_frame(artifact: Artifact, frame: Any, *, job: str | Path | None = None) -> Any:
    """Score the events of a frame, each against the history of its own entity.

    Rows are scored in the order of the frame, as the job scores events in the order of their
    offsets. Every entity starts without history. The scores have the bits that a live job gives
    for the same events on one partition.

    Args:
        artifact: as `load_artifact` returns it.
        frame: of pandas (2.2 or later), polars or pyarrow, with the columns `entity_id` (text),
            `event_time` (a time, UTC if it has no zone, or integer microseconds since 1970; also
            named `event_time_us`) and one column of numbers per feature; null or NaN is missing.
            Other columns are left out.
        job: configuration file whose sections `scoring` and `alerts` count; None for defaults.

    Returns:
        A frame of the same kind and number of rows: `entity_id`, the times, `score` (high is
        anomalous), `rarity_1_in_n`, `verdict` (warming, normal or anomalous) and `confidence`.
        Results are null for events that the settings of `job` set aside.

    Raises:
        ConfigError: a column is missing, repeated or of a wrong type, or a row breaks a rule.
    """
    if not isinstance(artifact, Artifact):
        raise ConfigError(
            "artifact: must be what streamgauge.load_artifact returns; got a "
            f"{type(artifact).__name__}"
        )
    settings = config.Config("") if job is None else config.load(job)
    events = read_frame(frame, artifact.schema)
    scored = _score(artifact, events, settings)
    return as_kind_of(frame, _result(events, scored))


def _score(artifact: Artifact, events: FrameEvents, settings: config.Config) -> list[ScoredBlock]:
    """Score the events as a job does: cut into shards, one table per shard."""
    scoring: ScoringPolicy = settings.scoring.policy
    alerts: AlertPolicy = settings.alerts.policy
    scorer = Scorer(artifact, scoring, alerts)
    tables: dict[int, EntityTable] = {}
    ends = new_ends(settings.scoring.shards)
    scored = []
    for block in _blocks(events):
        for shard, part in cut(block, ends, settings.input.routing):
            if shard not in tables:
                tables[shard] = EntityTable(scorer.layout)
            scored.append(scorer.step(tables[shard], part))
    return scored


def _blocks(events: FrameEvents) -> Iterator[Block]:
    """The events as blocks of partition 0; the offset of an event is its row."""
    for first in range(0, len(events), BLOCK_EVENTS):
        rows = slice(first, first + BLOCK_EVENTS)
        time_us = events.event_time_us[rows]
        end = first + len(time_us)
        yield Block(
            partition=0,
            first_offset=first,
            end_offset=end,
            previous_end=NOTHING_BEFORE,
            offset=np.arange(first, end, dtype=np.int64),
            row=np.zeros(len(time_us), np.int32),
            event_time_us=time_us,
            entity_id=events.entity_id[rows],
            features=events.features[rows],
        )


def _result(events: FrameEvents, scored: list[ScoredBlock]) -> pa.Table:
    """The results in the order of the rows; null where an event was set aside."""
    count = len(events)
    is_scored = np.zeros(count, bool)
    score, rarity, confidence = np.zeros((3, count), np.float32)
    verdict = np.zeros(count, np.int8)
    for part in scored:
        rows = part.block.offset
        is_scored[rows] = True
        score[rows], rarity[rows] = part.score, part.rarity_1_in_n
        verdict[rows], confidence[rows] = part.verdict, part.confidence
    is_null = ~is_scored
    names = pa.array(VERDICTS, pa.string())
    return pa.table(
        {
            "entity_id": events.entity_id,
            events.time_name: events.time,
            "score": pa.array(score, mask=is_null),
            "rarity_1_in_n": pa.array(rarity, mask=is_null),
            "verdict": names.take(pa.array(verdict, mask=is_null)),
            "confidence": pa.array(confidence, mask=is_null),
        }
    )
