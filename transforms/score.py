"""Scores blocks against the entity tables of their shards."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.transforms.window import GlobalWindow
from apache_beam.typehints import with_output_types
from apache_beam.utils.timestamp import Duration, Timestamp

from models import artifact as artifacts
from models.alerting import AlertPolicy
from models.block import decode_block
from models.drift_windows import DriftWindows, WindowReport
from models.epoch import TOKEN_BYTES
from models.scorer import ScoredBlock, Scorer, ScoringPolicy
from models.shard import Cells, Outcome, ShardPolicy, ShardScorer
from transforms.dead_letters import encode_dead_letter, set_aside
from transforms.drift import encode_drift_report
from transforms.keys import slot_of
from transforms.scores import encode_scores

TRANSITIONS, DRIFT, DEAD_LETTERS = "transitions", "drift", "dead_letters"
_TRANSITION = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """Which artifact to load: where it lies, and what it must be."""

    directory: str
    digest: str


@dataclass(frozen=True, slots=True)
class ScoringSpec:
    """Everything the scoring step is told."""

    artifact: ArtifactRef
    topic: str
    scoring: ScoringPolicy
    alerts: AlertPolicy
    shard: ShardPolicy
    drift_window_s: int
    #: "arrow", "json", or None to write no scores.
    score_format: str | None
    #: A live job reports idle drift windows by the clock; a replay only at the end of input.
    is_live: bool


class ScoreEntities(beam.PTransform):
    """(shard key, block) -> scores; under tags: transitions, drift reports, dead letters."""

    def __init__(self, spec: ScoringSpec) -> None:
        super().__init__()
        self._spec = spec

    def expand(self, blocks: Any) -> Any:
        tags = (TRANSITIONS, DRIFT, DEAD_LETTERS)
        scored = blocks | "ScoreBlocks" >> beam.ParDo(ScoreBlocks(self._spec)).with_outputs(
            *tags, main="scores"
        )
        for tag in tags:
            scored[tag].element_type = bytes
        return scored


@with_output_types(bytes)
class ScoreBlocks(beam.DoFn):
    """Takes the state, calls the core, stores what changed, yields."""

    EPOCH = ReadModifyWriteStateSpec("epoch", BytesCoder())
    LOG = BagStateSpec("log", BytesCoder())
    HELD = BagStateSpec("held", BytesCoder())
    DRIFT_STATE = ReadModifyWriteStateSpec("drift", BytesCoder())
    END = TimerSpec("end", TimeDomain.WATERMARK)
    IDLE = TimerSpec("idle", TimeDomain.REAL_TIME)

    def __init__(self, spec: ScoringSpec) -> None:
        self._spec = spec
        self._counters = {
            name: Metrics.counter("streamgauge", name)
            for name in ("events_scored", "late", "duplicate_blocks", "held_blocks", "desyncs")
        }

    def setup(self) -> None:
        spec = self._spec
        artifact = artifacts.load(Path(spec.artifact.directory), expect_digest=spec.artifact.digest)
        self._artifact = artifact
        self._shards = ShardScorer(
            Scorer(artifact, spec.scoring, spec.alerts),
            DriftWindows(artifact.drift_reference, spec.drift_window_s),
            spec.shard,
        )
        self._quiet: dict[int, bytes] = {}  # shard -> its epoch when the idle timer last fired

    def process(
        self,
        element: tuple[bytes, bytes],
        epoch: Any = beam.DoFn.StateParam(EPOCH),
        log: Any = beam.DoFn.StateParam(LOG),
        held: Any = beam.DoFn.StateParam(HELD),
        drift: Any = beam.DoFn.StateParam(DRIFT_STATE),
        end: Any = beam.DoFn.TimerParam(END),
        idle: Any = beam.DoFn.TimerParam(IDLE),
    ) -> Iterator[Any]:
        key, data = element
        if epoch.read() is None:
            end.set(GlobalWindow().max_timestamp())
            self._arm(idle)
        cells = Cells(epoch, log, held, drift)
        outcome = self._shards.process(slot_of(key), decode_block(data), cells, _token())
        self._count(outcome)
        for scored in outcome.scored:
            yield from self._outputs(scored)
        yield from self._reports(outcome.drift)

    @on_timer(END)
    def at_end_of_input(
        self,
        key: Any = beam.DoFn.KeyParam,
        epoch: Any = beam.DoFn.StateParam(EPOCH),
        log: Any = beam.DoFn.StateParam(LOG),
        held: Any = beam.DoFn.StateParam(HELD),
        drift: Any = beam.DoFn.StateParam(DRIFT_STATE),
    ) -> Iterator[Any]:
        cells = Cells(epoch, log, held, drift)
        yield from self._reports(self._shards.flush_drift(slot_of(key), cells, _token()))

    @on_timer(IDLE)
    def when_idle(
        self,
        key: Any = beam.DoFn.KeyParam,
        epoch: Any = beam.DoFn.StateParam(EPOCH),
        log: Any = beam.DoFn.StateParam(LOG),
        held: Any = beam.DoFn.StateParam(HELD),
        drift: Any = beam.DoFn.StateParam(DRIFT_STATE),
        idle: Any = beam.DoFn.TimerParam(IDLE),
    ) -> Iterator[Any]:
        shard, now = slot_of(key), epoch.read()
        if self._quiet.get(shard) == now:
            cells = Cells(epoch, log, held, drift)
            yield from self._reports(self._shards.flush_drift(shard, cells, _token()))
            now = epoch.read()
        self._quiet[shard] = now
        self._arm(idle)

    def _arm(self, idle: Any) -> None:
        if self._spec.is_live:
            idle.set(Timestamp.now() + Duration(self._spec.drift_window_s))

    def _outputs(self, scored: ScoredBlock) -> Iterator[Any]:
        spec = self._spec
        if spec.score_format and len(scored.block):
            yield from encode_scores(spec.topic, self._artifact.digest, scored, spec.score_format)
        for transition in scored.transitions:
            yield TaggedOutput(TRANSITIONS, _TRANSITION.encode(transition))
        for reason, block in scored.set_aside.items():
            for letter in set_aside(block, reason):
                yield TaggedOutput(DEAD_LETTERS, encode_dead_letter(spec.topic, letter))

    def _reports(self, reports: list[WindowReport]) -> Iterator[Any]:
        for report in reports:
            message = encode_drift_report(self._spec.topic, self._artifact, report)
            yield TaggedOutput(DRIFT, message)

    def _count(self, outcome: Outcome) -> None:
        count = self._counters
        count["events_scored"].inc(sum(len(scored.block) for scored in outcome.scored))
        count["late"].inc(sum(scored.late for scored in outcome.scored))
        count["duplicate_blocks"].inc(outcome.duplicates)
        count["held_blocks"].inc(outcome.held)
        count["desyncs"].inc(outcome.desyncs)


def _token() -> bytes:
    return os.urandom(TOKEN_BYTES)
