"""What lies on a scores topic about a sample of entities, and how far the job has come.

The sample is the entities with the smallest hashes, so it is chosen in the one pass that
reads it: an entity is in from its first score on or never, and only the scores of what is
in the sample so far are kept. The same seed takes the same entities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Message

from streamgauge.models.blocks.chain import shard_of
from streamgauge.models.blocks.scored_block import TOO_MANY_ENTITIES
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.console.progress import Advance
from streamgauge.transforms.kafka.topic_log import TopicLog, headers_of
from streamgauge.transforms.messages import scores
from streamgauge.transforms.messages.dead_letters import PREFIX, decode_dead_letter
from streamgauge.transforms.messages.scores import EVENT_KEY, SCORE_BITS


class Sample:
    """The `size` entities with the smallest hashes under `seed`, or the ones named."""

    def __init__(self, size: int, seed: int, named: Sequence[str] = ()) -> None:
        self._size = size
        self._salt = seed.to_bytes(8, "little", signed=True)
        self._named = frozenset(named)
        self._rank: dict[str, bytes] = {}
        self._last = ""  # of the sample, by rank

    def takes(self, name: str) -> str | None:
        """Whether `name` is in the sample: itself, or None.

        An entity that is in now may be out later, but never the other way round.
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
        """The sample as of now, in order of name."""
        return sorted(self._named or self._rank)


class ScoreLog:
    """The scores of a sample of entities, and the furthest score of every chain."""

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
        #: entity -> its scores in the order of the topic, repeats included.
        self.scores: dict[str, list[npt.NDArray[Any]]] = {}
        #: (partition, shard) -> highest scored offset when the audit began.
        self.reached: dict[tuple[int, int], int] = {}
        #: partition -> lowest scored offset.
        self.first: dict[int, int] = {}
        #: Scores of another topic or another model, which were left out.
        self.foreign = 0
        self.is_whole = log.is_whole
        self._log = log
        self._topic, self._digest = topic, digest
        self._shards = shards
        self._routing = routing

    def read(self, advance: Advance) -> None:
        """Read to the end; the sample and the job's progress are as of now."""
        for messages in self._log.read():
            self._take_all(messages, is_progress=True)
            advance(len(messages))
        self.scores = {name: self.scores.get(name, []) for name in self.sample.names()}

    def read_on(self) -> None:
        """Add scores that came since: those on their way when the first reading ended."""
        for messages in self._log.read():
            self._take_all(messages, is_progress=False)

    def of(self, name: str) -> npt.NDArray[Any]:
        """The scores (N,) of an entity in the order of the topic."""
        return np.concatenate([np.empty(0, SCORE_BITS), *self.scores.get(name, [])])

    def reached_by(self, name: str, partition: int) -> int:
        """The highest scored offset of an entity's chain; -1 if nothing of it was scored."""
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

    def _take(self, entity_id: pa.StringArray, rows: npt.NDArray[Any], is_progress: bool) -> None:
        encoded = entity_id.dictionary_encode()
        names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        if is_progress:
            self._note_progress(names, codes, rows)
            chosen = [i for i, name in enumerate(names) if self.sample.takes(name)]
            kept = set(self.sample.names())
            for name in self.scores.keys() - kept:
                del self.scores[name]
        else:
            kept = set(self.scores)
            chosen = [i for i, name in enumerate(names) if name in kept]
        for i in chosen:
            if names[i] in kept:
                self.scores.setdefault(names[i], []).append(rows[codes == i])

    def _note_progress(
        self, names: list[str], codes: npt.NDArray[Any], rows: npt.NDArray[Any]
    ) -> None:
        if self._routing == "partition":
            shard = rows["partition"] % self._shards
        else:
            shard = np.array([shard_of(name, self._shards) for name in names])[codes]
        chain = rows["partition"].astype(np.int64) * self._shards + shard
        for one in np.unique(chain).tolist():
            partition, which = divmod(one, self._shards)
            offset = rows["offset"][chain == one]
            key = (partition, which)
            self.reached[key] = max(self.reached.get(key, -1), int(offset.max()))
            lowest = int(offset.min())
            self.first[partition] = min(self.first.get(partition, lowest), lowest)

    def _shard(self, name: str, partition: int) -> int:
        if self._routing == "partition":
            return partition % self._shards
        return shard_of(name, self._shards)


def read_refused(log: TopicLog, topic: str, names: Sequence[str]) -> set[tuple[int, int, int]]:
    """Events (partition, offset, row) of `names` that a full shard refused: never stepped."""
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


def _arrow_scores(message: Message) -> tuple[pa.StringArray, npt.NDArray[Any]]:
    try:
        return scores.decode_arrow_scores(message.value() or b"")
    except ValueError as error:
        raise _unreadable(message, error) from error


def _json_scores(messages: Sequence[Message]) -> tuple[pa.StringArray, npt.NDArray[Any]]:
    try:
        return scores.decode_json_scores([message.value() or b"" for message in messages])
    except ValueError as error:
        reason, index = error.args
        raise _unreadable(messages[index], reason) from error


def _unreadable(message: Message, error: Exception | str) -> ConfigError:
    at = f"{message.topic()}/{message.partition()}/{message.offset()}"
    return ConfigError(f"scores.topic: {at} must be scores as the job writes them; {error}")
