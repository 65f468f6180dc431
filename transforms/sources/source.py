"""What to read and how to cut it into blocks: shared by the live source and the replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from apache_beam.pvalue import TaggedOutput

from streamgauge.models.blocks.block import encode_block
from streamgauge.models.blocks.chain import cut
from streamgauge.models.blocks.position import Position
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.schema import Schema
from streamgauge.models.events.validation import Message
from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.kafka.client import PartitionReader
from streamgauge.transforms.messages.dead_letters import encode_dead_letters
from streamgauge.transforms.runner.keys import shard_keys

#: Output tag of the dead letters of every source.
DEAD_LETTERS = "dead_letters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A telemetry topic, and how its messages become blocks."""

    access: KafkaAccess
    #: Consumer group that the reader shows up as; positions are kept in Beam state, not there.
    group: str
    topic: str
    #: The features that events must have.
    schema: Schema
    limits: DecodeLimits
    #: Number of shards, fixed for the life of a job's state.
    shards: int
    #: "entity" or "partition": what the shard is a hash of.
    routing: str
    #: Approximate largest number of events in a block.
    block_events_max: int
    #: Flink's number of key groups; shard keys are salted for it.
    max_parallelism: int

    def reader(self, partition: int) -> PartitionReader:
        """A consumer of one partition."""
        return PartitionReader(self.access, self.group, self.topic, partition)

    def decode_and_cut(
        self, decoder: Decoder, partition: int, read: tuple[list[Message], int], position: Position
    ) -> Iterator[Any]:
        """Yield (shard key, encoded block) pairs and dead letters; advances `position`.

        Args:
            decoder: decodes the messages.
            partition: the partition that the messages come from.
            read: messages just read at `position`, and the offset to read next.
            position: the partition's position and chain ends, changed in place.
        """
        messages, end = read
        block, dead = decoder.decode(partition, messages, position.next_offset, end)
        keys = shard_keys(self.shards, self.max_parallelism)
        if position.offset_resets:
            block = replace(block, offset_resets=position.offset_resets)
        for shard, piece in cut(block, position.ends, self.routing):
            yield keys[shard], encode_block(piece)
        if dead:
            yield TaggedOutput(DEAD_LETTERS, encode_dead_letters(self.topic, dead))
        position.next_offset = end
