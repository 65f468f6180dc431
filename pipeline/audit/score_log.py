"""Reads the scores of a sample of entities from a scores topic, and the progress of the job.

The sample consists of the entities with the smallest hashes, so one pass over the topic both
chooses and reads it: an entity joins the sample at its first score or never, and only scores of
the current sample are stored. The same seed gives the same sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import Message
from numpy.typing import NDArray

from streamgauge.models.blocks.chain import shard_of
from streamgauge.models.blocks.scored_block import TOO_MANY_ENTITIES
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.console.progress import Advance
from streamgauge.transforms.kafka.topic_log import TopicLog, headers_of
from streamgauge.transforms.messages import scores
from streamgauge.transforms.messages.dead_letters import PREFIX, decode_dead_letter
from streamgauge.transforms.messages.scores import EVENT_KEY, SCORE_BITS


class Sample:
    """The `size` entities with the smallest hashes under `seed`, or the entities `named`."""

    def __init__(self, size: int, seed: int, named: Sequence[str] = ()) -> None:
        self._size = size
        self._salt = seed.to_bytes(8, "little", signed=True)
        self._named = frozenset(named)
        self._rank: dict[str, bytes] = {}
        self._last = ""  # the member with the highest hash

    def takes(self, name: str) -> str | None:
        """`name` if it is in the sample now, else None.

        An entity may leave the sample later, but one that is not in it never joins.
        """
        if self._named:
            return name if name in self._named else None
        if name in self._rank:
            return name
        rank = hashlib.blake2b(name.encode(), digest_size=8, salt=self._salt).digest()
        if len(self._rank) == self._size:
            if rank >= self._rank[self._last]:
                return None
            del self._rank[self._last]
        self._rank[name] = rank
        self._last = max(self._rank, key=self._rank.__getitem__)
        return name

    def names(self) -> list[str]:
        """The current sample, ordered by name."""
        return sorted(self._named or self._rank)


class ScoreLog:
    """The scores of a sample of entities, and the highest scored offset of every chain.

    Args:
        log: the scores topic.
        sample: chosen while the topic is read.
        topic: the input topic of the audited job.
        digest: the model of the audited job.
        shards: number of shards of the job.
        routing: "entity" or "partition", as in `input.routing`.
    """

    def __init__(
        self,
        log: TopicLog,
        sample: Sample,
        *,
        topic: str,
        digest: str,
        shards: int,
        routing: str,
    ) -> None:
        self.sample = sample
        #: The scores of each entity in the order of the topic, repeats included.
        self.scores: dict[str, list[NDArray[Any]]] = {}
        #: The highest scored offset at the start of the audit, by partition and shard.
        self.reached: dict[tuple[int, int], int] = {}
        #: The lowest scored offset of each partition.
        self.first: dict[int, int] = {}
        #: Number of messages of another topic or model, which are left out.
        self.foreign = 0
        self.is_whole = log.is_whole
        self._log = log
        self._topic, self._digest = topic, digest
        self._shards = shards
        self._routing = routing

    def read(self, advance: Advance) -> None:
        """Read to the current end of the topic; this determines sample and progress."""
        for messages in self._log.read():
            self._take_all(messages, is_progress=True)
            advance(len(messages))
        self.scores = {name: self.scores.get(name, []) for name in self.sample.names()}

    def read_on(self) -> None:
        """Add the scores that were written to the topic since `read`."""
        for messages in self._log.read():
            self._take_all(messages, is_progress=False)

    def of(self, name: str) -> NDArray[Any]:
        """The scores (N,) of an entity in the order of the topic."""
        return np.concatenate([np.empty(0, SCORE_BITS), *self.scores.get(name, [])])

    def reached_by(self, name: str, partition: int) -> int:
        """The highest scored offset of an entity's chain; -1 if none was scored."""
        return self.reached.get((partition, self._shard(name, partition)), -1)

    def _take_all(self, messages: Sequence[Message], is_progress: bool) -> None:
        single: list[Message] = []
        for message in messages:
            if not scores.is_of(headers_of(message), self._topic, self._digest):
                self.foreign += 1
            elif scores.is_arrow(message.value() or b""):
                self._take(*_arrow_scores(message), is_progress)
            else:
                single.append(message)
        if single:
            self._take(*_json_scores(single), is_progress)

    def _take(self, entity_id: pa.StringArray, rows: NDArray[Any], is_progress: bool) -> None:
        encoded = entity_id.dictionary_encode()
        names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        if is_progress:
            self._note_progress(names, codes, rows)
            chosen = [i for i, name in enumerate(names) if self.sample.takes(name)]
            members = set(self.sample.names())
            for name in self.scores.keys() - members:
                del self.scores[name]
        else:
            members = set(self.scores)
            chosen = [i for i, name in enumerate(names) if name in members]
        for i in chosen:
            if names[i] in members:
                self.scores.setdefault(names[i], []).append(rows[codes == i])

    def _note_progress(self, names: list[str], codes: NDArray[Any], rows: NDArray[Any]) -> None:
        if self._routing == "partition":
            shard = rows["partition"] % self._shards
        else:
            shard = np.array([shard_of(name, self._shards) for name in names])[codes]
        chain = rows["partition"].astype(np.int64) * self._shards + shard
        for number in np.unique(chain).tolist():
            partition, shard_number = divmod(number, self._shards)
            offset = rows["offset"][chain == number]
            key = (partition, shard_number)
            self.reached[key] = max(self.reached.get(key, -1), int(offset.max()))
            lowest = int(offset.min())
            self.first[partition] = min(self.first.get(partition, lowest), lowest)

    def _shard(self, name: str, partition: int) -> int:
        if self._routing == "partition":
            return partition % self._shards
        return shard_of(name, self._shards)


def read_refused(log: TopicLog, topic: str, names: Sequence[str]) -> set[tuple[int, int, int]]:
    """Events (partition, offset, row) of `names` that were not scored because a shard was full."""
    wanted, refused = {name.encode() for name in names}, set()
    about = {(PREFIX + "topic", topic.encode()), (PREFIX + "reason", TOO_MANY_ENTITIES.encode())}
    for messages in log.read():
        for message in messages:
            if message.value() not in wanted or not about <= set(headers_of(message)):
                continue
            letter = decode_dead_letter(headers_of(message))
            partition, offset, row = (letter[name] for name in EVENT_KEY)
            refused.add((partition, offset, row))
    return refused


def _arrow_scores(message: Message) -> tuple[pa.StringArray, NDArray[Any]]:
    try:
        return scores.decode_arrow_scores(message.value() or b"")
    except ValueError as error:
        raise _unreadable(message, error) from error


def _json_scores(messages: Sequence[Message]) -> tuple[pa.StringArray, NDArray[Any]]:
    try:
        return scores.decode_json_scores([message.value() or b"" for message in messages])
    except ValueError as error:
        reason, index = error.args
        raise _unreadable(messages[index], reason) from error


def _unreadable(message: Message, error: Exception | str) -> ConfigError:
    at = f"{message.topic()}/{message.partition()}/{message.offset()}"
    return ConfigError(f"scores.topic: {at} must be scores as the job writes them; {error}")
