"""Looks for events that an artifact can score in the input, from the newest backwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from streamgauge.models.events.decoder import Decoder
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.jobs.ranges import Retained, retained

NEWEST_OFFSETS = 8  # of each partition
#: By how much the next look reaches further back than the last one.
REACH_FACTOR = 8
# 16 MB of junk in 8-byte messages take about this long; a start should not wait longer.
LOOK_BACK_S_MAX = 15.0
READ_BYTES, READ_MESSAGES_MAX, READ_WAIT_S = 1_048_576, 10_000, 3.0


@dataclass(slots=True)
class Sample:
    """What was found in a topic."""

    #: Whether one of the newest messages is an event that can be decoded.
    newest_fit: bool = False
    #: Whether an older one is; looked for only if none of the newest is.
    older_fit: bool = False
    #: Why the newest messages cannot be decoded: details of their dead letters.
    details: list[str] = field(default_factory=list)


def take_sample(config: Config, decoder: Decoder, partitions: int) -> Sample:
    """Look at the newest messages of each partition; if none fits, at older ones.

    The look back goes through all messages, newest first, for `LOOK_BACK_S_MAX` seconds. The
    oldest messages of each partition are looked at in any case.
    """
    sample = Sample()
    for partition in range(partitions):
        with retained(config, partition) as log:
            start = max(log.first, log.end - NEWEST_OFFSETS)
            for events, details in _decode(log, decoder, start, log.end):
                sample.details += details
                if events:
                    sample.newest_fit = True
                    return sample
    sample.older_fit = bool(sample.details) and _older_fit(config, decoder, partitions)
    return sample


def _older_fit(config: Config, decoder: Decoder, partitions: int) -> bool:
    deadline_s = time.monotonic() + LOOK_BACK_S_MAX
    near, unfinished = NEWEST_OFFSETS, set(range(partitions))
    while unfinished and time.monotonic() < deadline_s:
        far = near * REACH_FACTOR
        for partition in sorted(unfinished):
            with retained(config, partition) as log:
                start, stop = max(log.first, log.end - far), log.end - near
                for events, _ in _decode(log, decoder, start, stop):
                    if events:
                        return True
                    if time.monotonic() >= deadline_s:
                        break
                else:
                    if start == log.first:
                        unfinished.discard(partition)
        near = far
    for partition in sorted(unfinished):
        with retained(config, partition) as log:
            stop = min(log.end, log.first + NEWEST_OFFSETS)
            if any(events for events, _ in _decode(log, decoder, log.first, stop)):
                return True
    return False


def _decode(
    log: Retained, decoder: Decoder, start: int, stop: int
) -> Iterator[tuple[int, list[str]]]:
    """Number of events, and details of dead letters, in portions of `[start, stop)`."""
    while start < stop:
        count = min(stop - start, READ_MESSAGES_MAX)
        messages, following = log.reader.read(start, READ_BYTES, READ_WAIT_S, count)
        if not messages:  # gaps of markers and compaction, or an open transaction
            return
        block, dead_letters = decoder.decode(log.partition, messages, start, following)
        yield len(block), [letter.detail for letter in dead_letters]
        start = following
