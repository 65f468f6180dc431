"""Scores blocks against the entity tables of their shards."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.typehints import with_output_types
from apache_beam.utils.timestamp import Duration, Timestamp

from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.scored_block import ScoredBlock
from streamgauge.models.drift.windows import DriftWindows, WindowReport
from streamgauge.models.scoring.policy import ScoringPolicy, ShardPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.scoring.shard import Outcome, ShardScorer
from streamgauge.models.state.cells import Cells
from streamgauge.models.state.epoch import TOKEN_BYTES
from streamgauge.models.state.snapshot_file import StateIdentity, decode_snapshot, encode_snapshot
from streamgauge.transforms import metrics
from streamgauge.transforms.messages.alerts import encode_transition
from streamgauge.transforms.messages.dead_letters import encode_dead_letters, set_aside
from streamgauge.transforms.messages.drift import encode_drift_report
from streamgauge.transforms.messages.health import encode_health
from streamgauge.transforms.messages.scores import encode_scores
from streamgauge.transforms.runner.checked_state import require_checked_state
from streamgauge.transforms.runner.keys import slot_of
from streamgauge.transforms.runner.snapshot_store import read_file, write_snapshot
from streamgauge.transforms.runner.state_cells import with_cells

# Delay of a snapshot while the shard's outputs have not been committed, seconds.
RETRY_S = 0.5
TRANSITIONS, DRIFT, DEAD_LETTERS, HEALTH = "transitions", "drift", "dead_letters", "health"


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """The artifact to load: its directory, and the digest that it must have."""

    directory: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSettings:
    """Where shards write snapshots of their state, and which snapshots they start from."""

    #: Topic and cut into shards; a snapshot of another one is refused.
    origin: StateIdentity
    #: Folder for snapshots; None writes none.
    snapshot_folder: str | None
    #: Shortest time between two snapshots of a shard, seconds.
    snapshot_interval_s: float
    #: shard -> path of the snapshot that it starts from; other shards start empty.
    start_from: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSpec:
    """Settings of the scoring step."""

    artifact: ArtifactRef
    state: SnapshotSettings
    scoring: ScoringPolicy
    alerts: AlertPolicy
    shard: ShardPolicy
    #: Length of a drift window in event time, seconds.
    drift_window_s: int
    #: "arrow", "json", or None to write no scores.
    score_format: str | None
    #: Time between two health reports of a shard, seconds; snapshots are due at the same moments.
    health_interval_s: float
    #: A live job reports and writes snapshots at intervals; a replay at the end of its input.
    is_live: bool

    @property
    def topic(self) -> str:
        """The telemetry topic."""
        return self.state.origin.topic


class ScoreEntities(beam.PTransform[Any, Any]):
    """(shard key, block) -> scores; tags: transitions, drift reports, health, dead letters."""

    def __init__(self, spec: ScoringSpec) -> None:
        super().__init__()
        self._spec = spec

    def expand(self, blocks: Any) -> Any:
        tags = (TRANSITIONS, DRIFT, DEAD_LETTERS, HEALTH)
        scored = blocks | "ScoreBlocks" >> beam.ParDo(ScoreBlocks(self._spec)).with_outputs(
            *tags, main="scores"
        )
        for tag in tags:
            scored[tag].element_type = bytes
        return scored


@with_output_types(bytes)
class ScoreBlocks(beam.DoFn):
    """Takes the shard's state, calls the core, stores what changed, yields."""

    END = TimerSpec("end", TimeDomain.WATERMARK)
    HEARTBEAT = TimerSpec("heartbeat", TimeDomain.REAL_TIME)

    def __init__(self, spec: ScoringSpec) -> None:
        self._spec = spec
        self._events_scored = metrics.counter(metrics.EVENTS_SCORED)
        self._late_events = metrics.counter(metrics.LATE_EVENTS)
        self._duplicate_blocks = metrics.counter(metrics.DUPLICATE_BLOCKS)
        self._held_blocks = metrics.counter(metrics.HELD_BLOCKS)
        self._desyncs = metrics.counter(metrics.DESYNCS)

    def setup(self) -> None:
        require_checked_state()
        spec = self._spec
        artifact = artifacts.load(Path(spec.artifact.directory), expect_digest=spec.artifact.digest)
        self._artifact = artifact
        self._shards = ShardScorer(
            Scorer(artifact, spec.scoring, spec.alerts),
            DriftWindows(artifact.drift_reference, spec.drift_window_s),
            spec.shard,
        )
        #: shard -> when its last snapshot was written, monotonic seconds, and its epoch then.
        self._last_snapshots: dict[int, tuple[float, bytes]] = {}

    def start_bundle(self) -> None:
        self._changed: set[int] = set()  # shards that this bundle has changed

    @with_cells
    def process(
        self,
        element: tuple[bytes, bytes],
        end: Any = beam.DoFn.TimerParam(END),
        heartbeat: Any = beam.DoFn.TimerParam(HEARTBEAT),
        *,
        cells: Cells,
    ) -> Iterator[Any]:
        key, data = element
        shard = slot_of(key)
        cells = replace(cells, epoch=_CachedCell(cells.epoch))
        if cells.epoch.read() is None:
            end.set(GlobalWindow().max_timestamp())
            self._schedule(heartbeat)
            self._start(shard, cells)
        self._changed.add(shard)
        outcome = self._shards.process(shard, data, cells, _token())
        self._count(outcome)
        for scored in outcome.scored:
            yield from self._outputs(scored)
        yield from self._drift_reports(outcome.drift)

    @on_timer(END)
    @with_cells
    def at_end_of_input(self, key: Any = beam.DoFn.KeyParam, *, cells: Cells) -> Iterator[Any]:
        shard = slot_of(key)
        if self._spec.state.snapshot_folder and not self._spec.is_live:
            self._write_snapshot(shard, cells)
        yield from self._drift_reports(self._shards.flush_drift(shard, cells, _token()))

    @on_timer(HEARTBEAT)
    @with_cells
    def on_heartbeat(
        self,
        key: Any = beam.DoFn.KeyParam,
        heartbeat: Any = beam.DoFn.TimerParam(HEARTBEAT),
        *,
        cells: Cells,
    ) -> Iterator[Any]:
        spec, shard = self._spec, slot_of(key)
        now_s = time.monotonic()
        yield from self._drift_reports(
            self._shards.flush_if_idle(
                shard, cells, _token(), now_s=now_s, idle_s=spec.drift_window_s
            )
        )
        if self._is_due(shard, cells.epoch.read() or b"", now_s):
            # A snapshot must not contain events whose outputs have not been committed.
            if shard in self._changed:
                self._schedule(heartbeat, RETRY_S)
                return
            self._write_snapshot(shard, cells)
            self._last_snapshots[shard] = now_s, cells.epoch.read() or b""
        snapshot = self._shards.take_snapshot(shard, cells)
        yield TaggedOutput(HEALTH, encode_health(spec.topic, snapshot, _now_ms()))
        self._schedule(heartbeat)

    def _schedule(self, heartbeat: Any, delay_s: float | None = None) -> None:
        """Set the next heartbeat of a live job; a replay has none."""
        if self._spec.is_live:
            heartbeat.set(Timestamp.now() + Duration(delay_s or self._spec.health_interval_s))

    def _is_due(self, shard: int, epoch: bytes, now_s: float) -> bool:
        """Whether the shard has changed since its last snapshot, and the interval has passed."""
        state = self._spec.state
        last_s, last_epoch = self._last_snapshots.get(shard, (-state.snapshot_interval_s, b""))
        return (
            state.snapshot_folder is not None
            and epoch != last_epoch
            and now_s - last_s >= state.snapshot_interval_s
        )

    def _start(self, shard: int, cells: Cells) -> None:
        """Give a shard without state the snapshot that the job was configured to start from."""
        state = self._spec.state
        if path := state.start_from.get(shard):
            snapshot = decode_snapshot(read_file(path), path, self._shards.layout, state.origin)
            self._shards.start_from(snapshot, cells, _token())

    def _write_snapshot(self, shard: int, cells: Cells) -> None:
        """Write the shard's snapshot; it is valid even if this attempt of the bundle fails.

        A snapshot is determined by the shard's positions in the log.
        """
        state = self._spec.state
        assert state.snapshot_folder
        data = encode_snapshot(self._shards.take_snapshot(shard, cells), state.origin)
        write_snapshot(state.snapshot_folder, shard, _now_ms(), data)

    def _outputs(self, scored: ScoredBlock) -> Iterator[Any]:
        spec = self._spec
        if spec.score_format and len(scored.block):
            yield from encode_scores(spec.topic, self._artifact.digest, scored, spec.score_format)
        for transition in scored.transitions:
            yield TaggedOutput(TRANSITIONS, encode_transition(transition))
        for reason, block in scored.set_aside.items():
            letters = encode_dead_letters(spec.topic, set_aside(block, reason))
            yield TaggedOutput(DEAD_LETTERS, letters)

    def _drift_reports(self, reports: list[WindowReport]) -> Iterator[Any]:
        for report in reports:
            message = encode_drift_report(self._spec.topic, self._artifact, report)
            yield TaggedOutput(DRIFT, message)

    def _count(self, outcome: Outcome) -> None:
        self._events_scored.inc(sum(len(scored.block) for scored in outcome.scored))
        self._late_events.inc(sum(scored.late for scored in outcome.scored))
        self._duplicate_blocks.inc(outcome.duplicates)
        self._held_blocks.inc(outcome.held)
        self._desyncs.inc(outcome.desyncs)


class _CachedCell:
    """A value cell that is read once: each read is a round trip to the runner."""

    def __init__(self, cell: Any) -> None:
        self._cell = cell
        self._value: bytes | None = cell.read()

    def read(self) -> bytes | None:
        return self._value

    def write(self, value: bytes) -> None:
        self._value = value
        self._cell.write(value)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _token() -> bytes:
    """A fresh token, by which a table in memory is recognised as that of the stored epoch."""
    return os.urandom(TOKEN_BYTES)
