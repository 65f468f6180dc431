"""Reads the scores of a sample of entities from a scores topic, and the progress of the job.

The sample consists of the entities with the smallest hashes, so one pass over the topic both
chooses and reads it: an entity joins the sample at its first score or never, and only scores of
the current sample are stored. The same seed gives the same sample.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from numpy.typing import NDArray

from streamgauge.models.alerts.policy import VERDICTS
from streamgauge.models.blocks.chain import shard_of
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.arrow_decoder import STREAM_MAGIC
from streamgauge.models.scoring.scorer import TOO_MANY_ENTITIES
from streamgauge.pipeline.console.progress import Advance
from streamgauge.transforms.kafka.client import METADATA_S_MAX, KafkaAccess
from streamgauge.transforms.messages.dead_letters import PREFIX

STALLED_S_MAX = 60.0
PORTION_BYTES, PORTION_MESSAGES_MAX = 8_000_000, 2_000
WAIT_S = 0.2

#: A score as bits: NaN equals itself and 0 is not -0.
SCORE = np.dtype(
    [
        ("partition", "<i4"),
        ("offset", "<i8"),
        ("row", "<i4"),
        ("event_time_us", "<i8"),
        ("score", "<u4"),
        ("rarity_1_in_n", "<u4"),
        ("verdict", "u1"),
    ]
)
_UNKNOWN_VERDICT = 255
_PLACE = {name: i for i, name in enumerate(VERDICTS)}


class _JsonScore(msgspec.Struct):
    entity_id: str
    event_time_us: int
    partition: int
    offset: int
    row: int
    score: float
    rarity_1_in_n: float
    verdict: str


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


class TopicLog:
    """All messages of a topic up to now, with their headers; can be read on later."""

    def __init__(self, access: KafkaAccess, group: str, topic: str) -> None:
        self.topic = topic
        self._consumer = Consumer(
            {
                "group.id": group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.queue.backoff.ms": 5,
                "queued.max.messages.kbytes": 32_768,
                "allow.auto.create.topics": False,
                **access.properties(),
            }
        )
        found = self._consumer.list_topics(topic, timeout=METADATA_S_MAX).topics[topic]
        #: False if there is no such topic, which then reads as an empty one.
        self.exists = found.error is None
        marks = {partition: self._marks(partition) for partition in found.partitions}
        #: Whether the topic still has its first message.
        self.is_whole = all(low == 0 for low, _ in marks.values())
        self._next = {partition: low for partition, (low, _) in marks.items()}
        self._bytes_per_message = 0.0
        self._consumer.assign([TopicPartition(topic, p, low) for p, low in self._next.items()])

    def messages_left(self) -> int:
        """Offsets between what was read and the end, as of now."""
        return sum(max(0, self._marks(p)[1] - at) for p, at in self._next.items())

    def read(self) -> Iterator[list[Message]]:
        """Messages in portions, each partition in order, up to where the topic ends now.

        Raises:
            ConfigError: the broker has more by its own word but does not send it.
            KafkaException: an error that waiting does not mend.
        """
        ends = {partition: self._marks(partition)[1] for partition in self._next}
        deadline = time.monotonic() + STALLED_S_MAX
        while any(self._next[partition] < end for partition, end in ends.items()):
            read = self._consumer.consume(self._portion(), WAIT_S)
            messages = [message for message in read if not self._is_end(message)]
            if read:
                deadline = time.monotonic() + STALLED_S_MAX
            elif time.monotonic() > deadline:
                raise ConfigError(
                    f"topic {self.topic!r}: must be readable to its end; nothing came for "
                    f"{STALLED_S_MAX:.0f} s"
                )
            if messages:
                size = sum(len(message.value() or b"") for message in messages)
                self._bytes_per_message = size / len(messages)
                yield messages

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _marks(self, partition: int) -> tuple[int, int]:
        at = TopicPartition(self.topic, partition)
        return self._consumer.get_watermark_offsets(at, timeout=METADATA_S_MAX)

    def _portion(self) -> int:
        """Messages per call, so that a call holds about as many bytes whatever their size."""
        wanted = PORTION_BYTES / max(1.0, self._bytes_per_message or PORTION_BYTES / 16)
        return int(min(max(wanted, 1), PORTION_MESSAGES_MAX))

    def _is_end(self, message: Message) -> bool:
        """Note how far `message` takes its partition; True if it holds nothing else."""
        error, partition, offset = message.error(), message.partition(), message.offset()
        is_end = error is not None and error.code() == KafkaError._PARTITION_EOF
        if error is not None and not is_end:
            raise KafkaException(error)
        assert partition is not None and offset is not None
        self._next[partition] = offset + (not is_end)
        return is_end


class ScoreLog:
    """The scores of a sample of entities, and the highest scored offset of every chain.

    Args:
        log: the scores topic.
        sample: chosen while the topic is read.
        about: headers that a message of the audited job has.
        shards: number of shards of the job.
        routing: "entity" or "partition", as in `input.routing`.
    """

    def __init__(
        self, log: TopicLog, sample: Sample, about: Mapping[str, str], *, shards: int, routing: str
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
        self._about = {(name, value.encode()) for name, value in about.items()}
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
        return np.concatenate([np.empty(0, SCORE), *self.scores.get(name, [])])

    def reached_by(self, name: str, partition: int) -> int:
        """The highest scored offset of an entity's chain; -1 if none was scored."""
        return self.reached.get((partition, self._shard(name, partition)), -1)

    def _take_all(self, messages: Sequence[Message], is_progress: bool) -> None:
        single: list[Message] = []
        for message in messages:
            if not self._about <= set(message.headers() or ()):
                self.foreign += 1
            elif (message.value() or b"")[:4] == STREAM_MAGIC:
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
            if message.value() not in wanted or not about <= set(message.headers() or ()):
                continue
            headers = dict(message.headers() or ())
            partition, offset, row = (int(headers[PREFIX + key] or b"") for key in KEY)
            refused.add((partition, offset, row))
    return refused


#: The fields that identify an event of a topic.
KEY = ("partition", "offset", "row")


def _arrow_scores(message: Message) -> tuple[pa.StringArray, NDArray[Any]]:
    try:
        with pa.ipc.open_stream(pa.py_buffer(message.value())) as reader:
            table = pa.Table.from_batches(list(reader), reader.schema)
        table.validate(full=True)
        rows = np.empty(len(table), SCORE)
        for name in (*KEY, "event_time_us"):
            rows[name] = table[name].to_numpy()
        for name in ("score", "rarity_1_in_n"):
            rows[name] = table[name].cast(pa.float32()).to_numpy().view(np.uint32)
        encoded = table["verdict"].combine_chunks().cast(pa.string()).dictionary_encode()
        known = [_PLACE.get(text, _UNKNOWN_VERDICT) for text in encoded.dictionary.to_pylist()]
        rows["verdict"] = np.array([*known, _UNKNOWN_VERDICT], np.uint8)[encoded.indices.to_numpy()]
        return table["entity_id"].combine_chunks().cast(pa.string()), rows
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise _unreadable(message, error) from error


def _json_scores(messages: Sequence[Message]) -> tuple[pa.StringArray, NDArray[Any]]:
    rows, names = np.empty(len(messages), SCORE), []
    for i, message in enumerate(messages):
        try:
            one = msgspec.json.decode(message.value() or b"", type=_JsonScore)
        except msgspec.MsgspecError as error:
            raise _unreadable(message, error) from error
        names.append(one.entity_id)
        bits = np.array([one.score, one.rarity_1_in_n], np.float32).view(np.uint32)
        verdict = _PLACE.get(one.verdict, _UNKNOWN_VERDICT)
        rows[i] = (one.partition, one.offset, one.row, one.event_time_us, *bits, verdict)
    return pa.array(names, pa.string()), rows


def _unreadable(message: Message, error: Exception) -> ConfigError:
    at = f"{message.topic()}/{message.partition()}/{message.offset()}"
    return ConfigError(f"scores.topic: {at} must be scores as the job writes them; {error}")
