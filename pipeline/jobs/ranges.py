"""Offset ranges: which part of the input a backtest, an audit or a restored job reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.config import Config, parse_start
from streamgauge.pipeline.graph import access
from streamgauge.transforms.kafka.client import PartitionReader
from streamgauge.transforms.sources.replay import Range, read_range
from streamgauge.transforms.sources.source import Source

#: "earliest", "latest", epoch milliseconds, or an offset per partition; see `parse_start`.
Boundary = str | int | dict[int, int]


@dataclass(frozen=True, slots=True)
class Retained:
    """The offsets that the broker still holds of one partition: `[first, end)`."""

    partition: int
    first: int
    end: int
    reader: PartitionReader

    def offset_of(self, boundary: Boundary, default: int) -> int:
        """The offset of `boundary`; `default` if it names offsets, but not of this partition."""
        if isinstance(boundary, dict):
            return boundary.get(self.partition, default)
        return self.reader.offset_at(boundary)


@contextmanager
def retained(config: Config, partition: int) -> Iterator[Retained]:
    """Ask the broker which offsets of a partition of the input it holds."""
    reader = PartitionReader(access(config), config.name, config.input.topic, partition)
    try:
        first, end = reader.offset_at("earliest"), reader.offset_at("latest")
        yield Retained(partition, first, end, reader)
    finally:
        reader.close()


def resolve_ranges(
    config: Config, partitions: int, start: str, end: str, *, source: Source | None = None
) -> list[Range]:
    """The offset range of each partition between `start` and `end`, without empty ranges.

    A time means the first message of a partition that holds an event at or after it.

    Args:
        config: names the broker and the input topic.
        partitions: number of partitions of the input.
        start: "earliest", "latest", an ISO time, or offsets as "0:120,1:85". A partition that
            the offsets do not name is read from its beginning.
        end: likewise. A partition that the offsets do not name is left out.
        source: how events are read, to find event times; None makes times record times.

    Raises:
        ConfigError: the range holds no event, `start` is no longer in the log, or an offset
            is of a partition that does not exist.
    """
    first, last = parse_start(start), parse_start(end)
    _check_partitions("--from", first, partitions)
    _check_partitions("--to", last, partitions)
    ranges = []
    for partition in range(partitions):
        with retained(config, partition) as log:
            begin = _offset_of(log, first, log.first, source)
            stop = min(log.end, _offset_of(log, last, begin, source))
        if begin < log.first:
            raise ConfigError(
                f"--from: partition {partition} begins at offset {log.first}; got {begin}. "
                "Older events are gone from the log"
            )
        if begin < stop:
            ranges.append(Range(partition, begin, stop))
    if not ranges:
        raise ConfigError(
            f"--from, --to: must hold at least one event of {config.input.topic!r}; "
            f"nothing is between {start} and {end}"
        )
    return ranges


def _offset_of(log: Retained, boundary: Boundary, default: int, source: Source | None) -> int:
    """The offset of a boundary; a time is an event time if there is a `source` to read events."""
    if source is None or not isinstance(boundary, int):
        return log.offset_of(boundary, default)
    # No event is further ahead of its record time than this, so none is missed before.
    record_time_ms = max(0, boundary - source.limits.future_s_max * 1_000)
    scanned = Range(log.partition, log.offset_of(record_time_ms, default), log.end)
    for block in read_range(source, scanned):
        reached = block.offset[block.event_time_us >= boundary * 1_000]
        if len(reached):
            return int(reached[0])
    return log.end


def processed_ranges(
    config: Config, partitions: int, start: Boundary, *, end: Boundary, scored_from: dict[int, int]
) -> tuple[dict[int, Range], list[int]]:
    """The offset range that a job has processed, by partition, as far as the log holds it.

    Args:
        config: names the broker and the input topic.
        partitions: number of partitions of the input.
        start: where the job began to read. "latest" cannot be asked of the broker any more; it
            is read from `scored_from`.
        end: where the range ends. A partition that offsets do not name is left out.
        scored_from: the lowest scored offset, by partition.

    Returns:
        The ranges, and the partitions whose events from before the range are gone.

    Raises:
        ConfigError: the range holds no event.
    """
    ranges, truncated = {}, []
    for partition in range(partitions):
        with retained(config, partition) as log:
            if start == "latest":
                begin = scored_from.get(partition, log.end)
            else:
                begin = log.offset_of(start, log.first)
            stop = min(log.end, log.offset_of(end, 0))
        if log.first and begin <= log.first:
            truncated.append(partition)
        begin = max(begin, log.first)
        if begin < stop:
            ranges[partition] = Range(partition, begin, stop)
    if not ranges:
        raise ConfigError(f"--from, --to: must hold at least one event of {config.input.topic!r}")
    return ranges, truncated


def check_retained(config: Config, offsets: dict[int, int]) -> None:
    """Refuse exported state whose continuation is not in the log.

    Args:
        config: names the broker and the input topic.
        offsets: by partition, the offset at which the state ends.

    Raises:
        ConfigError: the broker does not hold one of the offsets.
    """
    for partition, offset in offsets.items():
        with retained(config, partition) as log:
            if not log.first <= offset <= log.end:
                raise ConfigError(
                    f"state: partition {partition} of {config.input.topic!r} must hold offset "
                    f"{offset}, where the state ends; it holds {log.first} to {log.end}. "
                    "Export a newer state"
                )


def _check_partitions(option: str, boundary: Boundary, partitions: int) -> None:
    unknown = [p for p in boundary if p >= partitions] if isinstance(boundary, dict) else []
    if unknown:
        raise ConfigError(
            f"{option}: partitions must be below {partitions}; got {', '.join(map(str, unknown))}"
        )
