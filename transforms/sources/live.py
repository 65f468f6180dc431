"""Reads a telemetry topic live: encoded blocks keyed by shard, and dead letters.

    KeepAlive                one element that never ends; keeps the timers after it alive
      └ DiscoverPartitions   on a timer: names every partition, new ones too
          └ PollPartitions   keyed by partition, on a timer: reads, decodes, cuts into blocks

The usual source is a splittable DoFn per partition. On portable Flink each deferral of such a
DoFn leaves a state name that is never freed (apache/beam#27648), so timers, whose state has a
constant size, do the reading. Decoding is part of the reader's step for two reasons: the links
between blocks depend on the entities, and raw payloads never leave the process.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.typehints import with_output_types
from apache_beam.utils.timestamp import Duration, Timestamp
from confluent_kafka import KafkaException

from streamgauge.models.blocks.chain import new_ends
from streamgauge.models.blocks.position import (
    NO_TOPIC_ID,
    Position,
    decode_position,
    encode_position,
)
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.validation import Message
from streamgauge.transforms import metrics
from streamgauge.transforms.kafka.admin import partition_count, topic_identity
from streamgauge.transforms.kafka.client import MissingOffsetError, PartitionReader
from streamgauge.transforms.runner.keys import partition_key, slot_of
from streamgauge.transforms.sources.keep_alive import KeepAlive
from streamgauge.transforms.sources.source import DEAD_LETTERS, Source

# Blocks read in one firing of the poll timer while more messages are available.
BLOCKS_PER_POLL = 4
# librdkafka has already fetched what is available; waiting would delay the other partitions.
POLL_WAIT_S = 0.0
# Assumed size of an event of a partition of which nothing has been decoded yet.
EVENT_BYTES = 512
FROM_CONFIGURED, FROM_BEGINNING = b"c", b"b"
_COUNT = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """When to poll, and where to start without state."""

    #: "earliest", "latest", milliseconds since 1970, or offsets by partition.
    start: str | int | dict[int, int]
    #: "fail", "earliest" or "latest": what follows if the next offset is no longer in the log.
    on_missing_offset: str
    #: Time between two looks for new partitions, seconds.
    discovery_interval_s: float
    #: Time until the next poll of a partition that was read to its end, milliseconds.
    poll_interval_ms: int


class ReadTelemetry(beam.PTransform[Any, Any]):
    """Live blocks of a topic, keyed by shard; dead letters under `DEAD_LETTERS`."""

    def __init__(self, source: Source, polling: Polling) -> None:
        super().__init__()
        self._source = source
        self._polling = polling

    def expand(self, root: Any) -> Any:
        outputs = (
            root
            | "Impulse" >> beam.Impulse()
            | "KeepAlive" >> beam.ParDo(KeepAlive())  # type: ignore[no-untyped-call]
            | "DiscoverPartitions" >> beam.ParDo(DiscoverPartitions(self._source, self._polling))
            | "PollPartitions"
            >> beam.ParDo(PollPartitions(self._source, self._polling)).with_outputs(
                DEAD_LETTERS, main="blocks"
            )
        )
        outputs[DEAD_LETTERS].element_type = bytes
        return outputs


@with_output_types(tuple[bytes, bytes])
class DiscoverPartitions(beam.DoFn):
    """Names every partition of the topic at intervals, so that new partitions are read.

    A partition that appears while the job runs is read from its beginning, whatever the
    configured start: all its events are newer than the job.
    """

    KNOWN = ReadModifyWriteStateSpec("known", BytesCoder())
    AGAIN = TimerSpec("again", TimeDomain.REAL_TIME)

    def __init__(self, source: Source, polling: Polling) -> None:
        self._source = source
        self._polling = polling
        self._unreachable = metrics.counter(metrics.DISCOVERY_UNREACHABLE)

    def process(
        self,
        element: tuple[bytes, bytes],
        known: Any = beam.DoFn.StateParam(KNOWN),
        again: Any = beam.DoFn.TimerParam(AGAIN),
    ) -> Iterator[tuple[bytes, bytes]]:
        yield from self._discover(known, again)

    @on_timer(AGAIN)
    def rediscover(
        self,
        known: Any = beam.DoFn.StateParam(KNOWN),
        again: Any = beam.DoFn.TimerParam(AGAIN),
    ) -> Iterator[tuple[bytes, bytes]]:
        yield from self._discover(known, again)

    def _discover(self, known: Any, again: Any) -> Iterator[tuple[bytes, bytes]]:
        again.set(Timestamp.now() + Duration(self._polling.discovery_interval_s))
        try:
            count = partition_count(self._source.access, self._source.topic)
            topic_id = topic_identity(self._source.access, self._source.topic)
        except KafkaException:
            self._unreachable.inc()  # the timers of the known partitions stay set
            return
        known_count = known.read()
        first_new = _COUNT.unpack(known_count)[0] if known_count else count
        known.write(_COUNT.pack(max(count, first_new)))
        for partition in range(count):
            start = FROM_CONFIGURED if partition < first_new else FROM_BEGINNING
            yield partition_key(partition, self._source.max_parallelism), start + topic_id


@with_output_types(tuple[bytes, bytes])
class PollPartitions(beam.DoFn):
    """Reads one partition on a timer; position and chain ends commit with the outputs."""

    POSITION = ReadModifyWriteStateSpec("position", BytesCoder())
    POLL = TimerSpec("poll", TimeDomain.REAL_TIME)

    def __init__(self, source: Source, polling: Polling) -> None:
        self._source = source
        self._polling = polling
        self._offset_resets = metrics.counter(metrics.OFFSET_RESETS)
        self._messages_read = metrics.counter(metrics.MESSAGES_READ)

    def setup(self) -> None:
        self._decoder = Decoder(self._source.schema, self._source.limits)
        self._readers: dict[int, PartitionReader] = {}
        self._event_bytes: dict[int, float] = {}  # partition -> mean size in its last block
        self._topic_id: bytes | None = None  # at the start of this worker

    def teardown(self) -> None:
        for reader in self._readers.values():
            reader.close()

    def process(
        self,
        element: tuple[bytes, bytes],
        position: Any = beam.DoFn.StateParam(POSITION),
        poll: Any = beam.DoFn.TimerParam(POLL),
    ) -> None:
        key, (start, topic_id) = element[0], (element[1][:1], element[1][1:])
        partition, stored = slot_of(key), position.read()
        if stored is None:
            offset = self._start_offset(partition, start)
            ends = new_ends(self._source.shards)
            position.write(encode_position(Position(offset, ends, topic_id=topic_id)))
        else:
            current = decode_position(stored, self._source.shards)
            if self._follow_topic_id(partition, current, topic_id):
                position.write(encode_position(current))
        poll.set(Timestamp.now())  # also replaces a lost timer

    @on_timer(POLL)
    def poll(
        self,
        key: Any = beam.DoFn.KeyParam,
        position: Any = beam.DoFn.StateParam(POSITION),
        poll: Any = beam.DoFn.TimerParam(POLL),
    ) -> Iterator[Any]:
        partition = slot_of(key)
        current = decode_position(position.read(), self._source.shards)
        is_changed = partition not in self._readers and self._check_topic(partition, current)
        first_offset = current.next_offset
        has_more = False
        for _ in range(BLOCKS_PER_POLL):
            messages, end, has_more = self._read_next(partition, current)
            if not messages:
                break
            yield from self._blocks(partition, (messages, end), current)
            if not has_more:
                break
        if is_changed or current.next_offset != first_offset:
            position.write(encode_position(current))
        rest_s = 0.0 if has_more else self._polling.poll_interval_ms / 1000
        poll.set(Timestamp.now() + Duration(rest_s))

    def _blocks(
        self, partition: int, read: tuple[list[Message], int], current: Position
    ) -> Iterator[Any]:
        """Blocks and dead letters of messages just read; remembers the mean size of an event."""
        messages, _ = read
        self._messages_read.inc(len(messages))
        yield from self._source.decode_and_cut(self._decoder, partition, read, current)
        size = sum(len(message.payload) for message in messages)
        self._event_bytes[partition] = size / max(1, self._decoder.events_decoded)

    def _read_next(self, partition: int, current: Position) -> tuple[list[Message], int, bool]:
        """The next messages, the offset after them, and whether more may be available.

        More may be available if the messages fill a block. A missing offset is handled as
        `on_missing_offset` says.
        """
        reader = self._reader(partition)
        wanted = self._source.block_events_max * self._event_bytes.get(partition, EVENT_BYTES)
        try:
            messages, end = reader.read(current.next_offset, int(wanted), POLL_WAIT_S)
        except MissingOffsetError:
            if self._polling.on_missing_offset == "fail":
                raise
            self._reset_offset(partition, current)
            return [], current.next_offset, True
        return messages, end, sum(len(message.payload) for message in messages) >= wanted

    def _check_topic(self, partition: int, current: Position) -> bool:
        """Compare the topic with the one in `current`, once per worker; True if it is another."""
        if self._topic_id is None:
            try:
                self._topic_id = topic_identity(self._source.access, self._source.topic)
            except KafkaException:
                return False  # the broker is down; discovery checks again
        return self._follow_topic_id(partition, current, self._topic_id)

    def _follow_topic_id(self, partition: int, current: Position, topic_id: bytes) -> bool:
        """Whether the topic was deleted and created again; `current` then restarts in the new one.

        Offsets of the new topic start again at zero; those in state would name other events.

        Raises:
            MissingOffsetError: it was, and `on_missing_offset` is "fail".
        """
        if NO_TOPIC_ID in (topic_id, current.topic_id) or topic_id == current.topic_id:
            current.topic_id = current.topic_id if topic_id == NO_TOPIC_ID else topic_id
            return False
        if self._polling.on_missing_offset == "fail":
            raise MissingOffsetError(
                f"topic {self._source.topic}, partition {partition}: must be the topic that was "
                f"read up to offset {current.next_offset}; it was deleted and created again. "
                "Decide with input.on_missing_offset: earliest or latest"
            )
        current.topic_id = topic_id
        self._reset_offset(partition, current)
        return True

    def _reset_offset(self, partition: int, current: Position) -> None:
        current.offset_reset(self._reader(partition).offset_at(self._polling.on_missing_offset))
        self._offset_resets.inc()

    def _start_offset(self, partition: int, start: bytes) -> int:
        configured = "earliest" if start == FROM_BEGINNING else self._polling.start
        if isinstance(configured, dict):
            if partition in configured:
                return configured[partition]
            configured = "earliest"
        return self._reader(partition).offset_at(configured)

    def _reader(self, partition: int) -> PartitionReader:
        if partition not in self._readers:
            self._readers[partition] = self._source.reader(partition)
        return self._readers[partition]
