"""Reads a telemetry topic live: decoded blocks, cut into shards, and dead letters.

    KeepAlive            one element, then sleeps for hours; keeps timers below it alive
      └ DiscoverPartitions   keyed, on a timer: names every partition, new ones too
          └ PollPartitions   keyed by partition, on a timer: polls, decodes, cuts

A splittable DoFn per partition would be the textbook source. On portable Flink each of
its deferrals leaves a state name behind for ever (apache/beam#27648), so the reading is
done by timers, whose state is flat. Decoding happens in the reader's step because the
chain links depend on the entities, and raw payloads then never leave the process.
"""

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.typehints import with_output_types
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration, Timestamp
from confluent_kafka import KafkaException

from streamgauge.models.blocks.block import encode_block
from streamgauge.models.blocks.chain import cut, new_ends
from streamgauge.models.blocks.position import (
    NO_TOPIC_ID,
    Position,
    decode_position,
    encode_position,
)
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.events.schema import Schema
from streamgauge.transforms.kafka.client import (
    KafkaAccess,
    MissingOffsetError,
    PartitionReader,
    partition_count,
    topic_identity,
)
from streamgauge.transforms.messages.dead_letters import encode_dead_letters
from streamgauge.transforms.runner.keys import partition_key, shard_keys, slot_of

DEAD_LETTERS = "dead_letters"

# Each awakening costs the portable Flink runner one leaked state name of about 38 kB.
KEEP_ALIVE_S = 6 * 3600
# Blocks taken in one firing of the poll timer while there is more to read.
BLOCKS_PER_POLL = 4
# What there is librdkafka has fetched already, and who waits holds up the other partitions.
POLL_WAIT_S = 0.0
# Taken for an event of a partition of which nothing was decoded yet.
EVENT_BYTES = 512
FROM_CONFIGURED, FROM_BEGINNING = b"c", b"b"
_COUNT = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Source:
    """What to read and how to turn it into blocks."""

    access: KafkaAccess
    group: str
    topic: str
    schema: Schema
    limits: DecodeLimits
    shards: int
    routing: str
    block_events_max: int
    max_parallelism: int

    def decode_and_cut(
        self, decoder: Decoder, partition: int, read: tuple[list, int], position: Position
    ) -> Iterator[Any]:
        """Outputs for messages just read at `position`, which is advanced past them."""
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


@dataclass(frozen=True, slots=True)
class Polling:
    """When to poll, and where to begin without state."""

    start: Any
    on_missing_offset: str
    discovery_interval_s: float
    poll_interval_ms: int


class ReadTelemetry(beam.PTransform):
    """Live blocks of a topic, keyed by shard; dead letters under `DEAD_LETTERS`."""

    def __init__(self, source: Source, polling: Polling) -> None:
        super().__init__()
        self._source = source
        self._polling = polling

    def expand(self, root: Any) -> Any:
        outputs = (
            root
            | "Impulse" >> beam.Impulse()
            | "KeepAlive" >> beam.ParDo(KeepAlive())
            | "DiscoverPartitions" >> beam.ParDo(DiscoverPartitions(self._source, self._polling))
            | "PollPartitions"
            >> beam.ParDo(PollPartitions(self._source, self._polling)).with_outputs(
                DEAD_LETTERS, main="blocks"
            )
        )
        outputs[DEAD_LETTERS].element_type = bytes
        return outputs


class _Endless(RestrictionProvider):
    """One restriction that never ends and is never split."""

    def initial_restriction(self, element: bytes) -> OffsetRange:
        return OffsetRange(0, sys.maxsize)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element: bytes, restriction: OffsetRange) -> int:
        return 1

    def split(self, element: bytes, restriction: OffsetRange) -> Iterator[OffsetRange]:
        yield restriction

    def truncate(self, element: bytes, restriction: OffsetRange) -> None:
        return None  # on drain nothing is left to do


@with_output_types(tuple[bytes, bytes])
class KeepAlive(beam.DoFn):
    """Wakes discovery every few hours, and holds the watermark in the past for ever."""

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: bytes,
        tracker: Any = beam.DoFn.RestrictionParam(_Endless()),
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(
            ManualWatermarkEstimator.default_provider()
        ),
    ) -> Iterator[tuple[bytes, bytes]]:
        if tracker.try_claim(tracker.current_restriction().start):
            watermark.set_watermark(MIN_TIMESTAMP)
            yield (b"discover", b"")
            tracker.defer_remainder(Duration(KEEP_ALIVE_S))


@with_output_types(tuple[bytes, bytes])
class DiscoverPartitions(beam.DoFn):
    """Names every partition of the topic, again and again, so that new ones are picked up.

    A partition that appears while the job runs is read from its beginning whatever the
    configured start: events in it are news, not history.
    """

    KNOWN = ReadModifyWriteStateSpec("known", BytesCoder())
    AGAIN = TimerSpec("again", TimeDomain.REAL_TIME)

    def __init__(self, source: Source, polling: Polling) -> None:
        self._source = source
        self._polling = polling
        self._unreachable = Metrics.counter("streamgauge", "discovery_unreachable")

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
            self._unreachable.inc()  # the broker is away: partitions known so far stay armed
            return
        before = known.read()
        first_new = _COUNT.unpack(before)[0] if before else count
        known.write(_COUNT.pack(max(count, first_new)))
        for partition in range(count):
            start = FROM_CONFIGURED if partition < first_new else FROM_BEGINNING
            yield partition_key(partition, self._source.max_parallelism), start + topic_id


@with_output_types(tuple[bytes, bytes])
class PollPartitions(beam.DoFn):
    """Polls one partition on a timer; position and chain ends commit with the outputs."""

    POSITION = ReadModifyWriteStateSpec("position", BytesCoder())
    POLL = TimerSpec("poll", TimeDomain.REAL_TIME)

    def __init__(self, source: Source, polling: Polling) -> None:
        self._source = source
        self._polling = polling
        self._jumped = Metrics.counter("streamgauge", "missing_offsets_jumped")
        self._read = Metrics.counter("streamgauge", "messages_read")

    def setup(self) -> None:
        self._decoder = Decoder(self._source.schema, self._source.limits)
        self._readers: dict[int, PartitionReader] = {}
        self._event_bytes: dict[int, float] = {}  # of each partition, as last seen
        self._topic_id: bytes | None = None  # when this worker began

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
        partition, found = slot_of(key), position.read()
        if found is None:
            offset = self._start_offset(partition, start)
            ends = new_ends(self._source.shards)
            position.write(encode_position(Position(offset, ends, topic_id=topic_id)))
        else:
            at = decode_position(found, self._source.shards)
            if self._is_another_topic(partition, at, topic_id):
                position.write(encode_position(at))
        poll.set(Timestamp.now())  # also heals a lost timer

    @on_timer(POLL)
    def poll(
        self,
        key: Any = beam.DoFn.KeyParam,
        position: Any = beam.DoFn.StateParam(POSITION),
        poll: Any = beam.DoFn.TimerParam(POLL),
    ) -> Iterator[Any]:
        source, partition = self._source, slot_of(key)
        at = decode_position(position.read(), source.shards)
        began = at.next_offset
        if partition not in self._readers:
            began = self._begin(partition, at)
        is_behind = False
        for _ in range(BLOCKS_PER_POLL):
            messages, end, is_behind = self._read_next(partition, at)
            if not messages:
                break
            self._read.inc(len(messages))
            yield from source.decode_and_cut(self._decoder, partition, (messages, end), at)
            size = sum(len(message.payload) for message in messages)
            self._event_bytes[partition] = size / max(1, self._decoder.events_decoded)
            if not is_behind:
                break
        if at.next_offset != began:
            position.write(encode_position(at))
        rest_s = 0.0 if is_behind else self._polling.poll_interval_ms / 1000
        poll.set(Timestamp.now() + Duration(rest_s))

    def _read_next(self, partition: int, at: Position) -> tuple[list, int, bool]:
        """The next messages, where they end, and whether they fill a block: then more may wait.

        Settles a missing offset as the operator decided.
        """
        reader = self._reader(partition)
        wanted = self._source.block_events_max * self._event_bytes.get(partition, EVENT_BYTES)
        try:
            messages, end = reader.read(at.next_offset, int(wanted), POLL_WAIT_S)
        except MissingOffsetError:
            if self._polling.on_missing_offset == "fail":
                raise
            self._jump(partition, at)
            return [], at.next_offset, True
        return messages, end, sum(len(message.payload) for message in messages) >= wanted

    def _begin(self, partition: int, at: Position) -> int:
        """The offset this worker goes on from; -1 if the topic is another one than before."""
        if self._topic_id is None:
            try:
                self._topic_id = topic_identity(self._source.access, self._source.topic)
            except KafkaException:
                return at.next_offset  # the broker is away; discovery will tell
        return -1 if self._is_another_topic(partition, at, self._topic_id) else at.next_offset

    def _is_another_topic(self, partition: int, at: Position, now: bytes) -> bool:
        """Tell whether the topic was deleted and made anew since `at`; if so, `at` has jumped.

        Its offsets begin again, and those in state would name other events.
        """
        if NO_TOPIC_ID in (now, at.topic_id) or now == at.topic_id:
            at.topic_id = at.topic_id if now == NO_TOPIC_ID else now
            return False
        if self._polling.on_missing_offset == "fail":
            raise MissingOffsetError(
                f"topic {self._source.topic}, partition {partition}: must be the topic that was "
                f"read up to offset {at.next_offset}; it was deleted and made anew. Decide with "
                "input.on_missing_offset: earliest or latest"
            )
        at.topic_id = now
        self._jump(partition, at)
        return True

    def _jump(self, partition: int, at: Position) -> None:
        at.offset_reset(self._reader(partition).offset_at(self._polling.on_missing_offset))
        self._jumped.inc()

    def _start_offset(self, partition: int, start: bytes) -> int:
        configured = self._polling.start
        if start == FROM_BEGINNING:
            configured = "earliest"
        if isinstance(configured, dict):
            if partition in configured:
                return configured[partition]
            configured = "earliest"
        return self._reader(partition).offset_at(configured)

    def _reader(self, partition: int) -> PartitionReader:
        if partition not in self._readers:
            source = self._source
            self._readers[partition] = PartitionReader(
                source.access, source.group, source.topic, partition
            )
        return self._readers[partition]
