"""Scores the events of a sample of entities again, from the blocks of a log.

The scores of an entity depend on its own events only, so one table serves entities of all
shards. There is one exception: with a TTL, an entity also expires by the clock of its partition
in its shard. That clock is computed from all events of the shard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.chain import shard_of
from streamgauge.models.blocks.event_clock import PartitionClock
from streamgauge.models.blocks.scored_block import ScoredBlock
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline.config import Scoring
from streamgauge.transforms.messages.scores import SCORE_BITS


class Rescorer:
    """Computes the scores of `sample` from the events of the log.

    Args:
        artifact: the model of the job.
        scoring: the settings of the job. The limit of entities concerns a whole shard and
            cannot be applied to a sample; `refused` replaces it.
        alerts: the settings of the job.
        routing: "entity" or "partition", as in `input.routing`.
        sample: ids of the entities.
        refused: events (partition, offset, row) of the sample that a full shard refused.
    """

    def __init__(
        self,
        artifact: Artifact,
        scoring: Scoring,
        alerts: AlertPolicy,
        *,
        routing: str,
        sample: Collection[str],
        refused: Collection[tuple[int, int, int]] = (),
    ) -> None:
        policy = dataclasses.replace(scoring.policy, entities_per_shard_max=0)
        self._scorer = Scorer(artifact, policy, alerts)
        self._table = EntityTable(self._scorer.layout)
        self._sample = pa.array(list(sample), pa.string())
        self._shards = scoring.shards
        self._is_by_entity = routing == "entity"
        # With routing by partition, all events of a partition are in one shard.
        self._sampled_shards = {
            shard_of(name, self._shards) if self._is_by_entity else 0 for name in sample
        }
        self._has_ttl = scoring.policy.entity_ttl_s > 0
        self._clocks: dict[tuple[int, int], PartitionClock] = {}
        self._refused = refused
        self._scores: dict[str, list[NDArray[Any]]] = {}
        #: The partition of each entity's events.
        self.partition: dict[str, int] = {}
        #: Entities with events in several partitions; the log does not define their order.
        self.scattered: set[str] = set()
        #: How many events of each entity a full shard refused.
        self.refusals: dict[str, int] = {}

    def take(self, block: Block) -> None:
        """Score the sample's events of `block`, which holds all events of its offsets."""
        is_mine = pc.is_in(block.entity_id, value_set=self._sample).to_numpy(zero_copy_only=False)
        clock_us = self._clock_of(block) if self._has_ttl else None
        rows = np.flatnonzero(is_mine & ~self._are_refused(block, is_mine))
        if not len(rows):
            return
        sampled = block.take(rows, block.previous_end)
        clock_us = None if clock_us is None else clock_us[rows]
        self._note(self._scorer.step(self._table, sampled, clock_us))

    def scores_of(self, name: str) -> NDArray[Any]:
        """The scores (N,) `SCORE_BITS` of an entity in log order."""
        return np.concatenate([np.empty(0, SCORE_BITS), *self._scores.get(name, [])])

    def _clock_of(self, block: Block) -> NDArray[Any]:
        """(N,) int64: the clock of each event's shard; 0 in shards without a sampled entity."""
        clock_us = np.zeros(len(block), np.int64)
        if not len(block):
            return clock_us
        names, codes = block.entities()
        if self._is_by_entity:
            shard = np.array([shard_of(name, self._shards) for name in names])[codes]
        else:
            shard = np.zeros(len(block), np.int64)
        for sampled in self._sampled_shards:
            clock = self._clocks.setdefault((block.partition, sampled), PartitionClock())
            events = np.flatnonzero(shard == sampled)
            if len(events):
                clock_us[events] = clock.advance(block.event_time_us[events], names, codes[events])
        return clock_us

    def _are_refused(self, block: Block, is_mine: NDArray[Any]) -> NDArray[Any]:
        """(N,) bool: True for events that a full shard refused; they are counted."""
        refused = np.zeros(len(block), bool)
        if self._refused:
            for i in np.flatnonzero(is_mine).tolist():
                event = (block.partition, int(block.offset[i]), int(block.row[i]))
                refused[i] = event in self._refused
            for name in block.entity_id.filter(pa.array(refused)).to_pylist():
                self.refusals[name] = self.refusals.get(name, 0) + 1
        return refused

    def _note(self, scored: ScoredBlock) -> None:
        """Store the scores of a block by entity."""
        block = scored.block
        rows = np.empty(len(block), SCORE_BITS)
        for name in ("partition", "offset", "row", "event_time_us"):
            rows[name] = getattr(block, name)
        for name in ("score", "rarity_1_in_n"):
            rows[name] = getattr(scored, name).view(np.uint32)
        rows["verdict"] = scored.verdict
        names, codes = block.entities()
        for i, name in enumerate(names):
            if self.partition.setdefault(name, block.partition) != block.partition:
                self.scattered.add(name)
            self._scores.setdefault(name, []).append(rows[codes == i])
