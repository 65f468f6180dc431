"""The scoring settings of an operator.

Configuration imports this module, so it imports neither a compiler nor the scorer.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamgauge.models.errors import ConfigError

LATE_POLICIES = ("score", "set_aside")
DAMAGE_POLICIES = ("fail", "reset")

# Defaults that a configuration shares.
HELD_BLOCKS_MAX = 64
ON_DAMAGE = "fail"


@dataclass(frozen=True, slots=True)
class ScoringPolicy:
    """What the scorer does with late events, new entities and idle entities."""

    #: Events older than the latest event of their entity: "score" in offset order, or "set_aside".
    late: str = "score"
    #: Most entities per shard; 0 = no limit. At the limit, events of new entities are set aside.
    entities_per_shard_max: int = 100_000
    #: The state of an entity expires after this event time without an event, seconds; 0 = never.
    entity_ttl_s: int = 0
    #: Events before the verdicts of an entity count; None takes the washout of the artifact.
    warmup_events: int | None = None

    def __post_init__(self) -> None:
        if self.late not in LATE_POLICIES:
            raise ConfigError(f"scoring: late must be one of {LATE_POLICIES}; got {self.late!r}")
        for name in ("entities_per_shard_max", "entity_ttl_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"scoring: {name} must be >= 0; got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class ShardPolicy:
    """Bounds on what a shard holds, and what it does with damaged state."""

    #: Blocks held back after a gap before the gap is given up and counted.
    held_blocks_max: int = HELD_BLOCKS_MAX
    #: Tables that a worker caches; the least recently used one is rebuilt from state when needed.
    tables_max: int = 1_024
    #: A snapshot replaces the log when the blocks of the log are this many times as large as the
    #: table. A higher value makes writing cheaper and restoring longer: a restore steps all
    #: blocks of the log.
    log_factor: float = 1.0
    #: A log below this size is never replaced: small shards would be rewritten at each block.
    log_bytes_min: int = 1 << 20
    #: Approximate size of a snapshot segment, and least size of a full cell of the log. Beam sends
    #: the writes of a bundle in pieces of 10 MB but never cuts a value.
    segment_bytes_max: int = 1 << 20
    #: A stored block writes one segment of an incremental snapshot, or up to this many bytes of
    #: segments if the worker stores blocks faster.
    slice_bytes_max: int = 8 << 20
    #: State that is damaged: "fail" the job, or "reset" the shard, whose entities warm up again.
    on_damage: str = ON_DAMAGE

    def __post_init__(self) -> None:
        for name in ("held_blocks_max", "tables_max", "segment_bytes_max", "slice_bytes_max"):
            if getattr(self, name) < 1:
                raise ConfigError(f"scoring: {name} must be >= 1; got {getattr(self, name)}")
        if self.on_damage not in DAMAGE_POLICIES:
            raise ConfigError(
                f"state: on_damage must be one of {DAMAGE_POLICIES}; got {self.on_damage!r}"
            )
