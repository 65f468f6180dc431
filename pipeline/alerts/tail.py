"""Follows the alert topic: prints a line of text or a JSON object per alert."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

import msgspec

from streamgauge.pipeline.alerts.filters import AlertFilter
from streamgauge.pipeline.console import formatting
from streamgauge.pipeline.console.progress import Narrate, to_stderr
from streamgauge.pipeline.jobs import broker
from streamgauge.transforms.kafka.access import KafkaAccess, new_python_consumer
from streamgauge.transforms.messages.alerts import AlertMessage, decode_alert, decode_headers

# After a restart the job repeats at most the alerts since the last checkpoint.
REPEATS_REMEMBERED = 100_000
POLL_TIMEOUT_MS = 500
ALL = AlertFilter()
_COLOURS = {"critical": "\x1b[1;31m", "warning": "\x1b[33m", "closed": "\x1b[32m"}
_PLAIN = "\x1b[0m"


def tail(
    bootstrap_servers: str,
    topic: str,
    *,
    as_json: bool = False,
    from_beginning: bool = False,
    limit: int | None = None,
    idle_s: float | None = None,
    wanted: AlertFilter = ALL,
    settings: broker.Settings | None = None,
    out: TextIO | None = None,
    narrate: Narrate = to_stderr,
) -> int:
    """Write each alert to `out` once, as soon as it arrives; returns the number of alerts.

    Args:
        bootstrap_servers: `host:port`, several separated by commas.
        topic: the alert topic, which must exist.
        as_json: write a JSON object per line instead of text.
        from_beginning: start with the oldest alert of the topic instead of the next new one.
        limit: stop after this many alerts were written.
        idle_s: stop when no alert arrived for this time, seconds; None never stops.
        wanted: the alerts to write; others are passed over.
        settings: further librdkafka properties, for instance `security.protocol`.
        out: None for standard output.
        narrate: receives the lines of progress.

    Raises:
        ConfigError: the broker or the topic is missing.
    """
    out = out or sys.stdout
    partitions = broker.require_topic(bootstrap_servers, topic, None, settings=settings or {})
    narrate(f"following {topic!r} ({partitions} partitions) on {bootstrap_servers}; Ctrl-C stops")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    consumer = new_python_consumer(
        KafkaAccess(bootstrap_servers, settings or {}),
        topic,
        client_id="streamgauge-alerts-tail",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest" if from_beginning else "latest",
        isolation_level="read_committed",
    )
    colour = wants_colour(out)
    shown = 0
    try:
        for message in unrepeated(_messages(consumer, idle_s)):
            if message.alert is None:
                name = f"{message.topic}/{message.partition}/{message.offset}"
                narrate(f"{name} is not an alert and is left out")
                continue
            if not wanted.takes(message.alert):
                continue
            print(as_json_line(message) if as_json else line(message.alert, colour), file=out)
            out.flush()
            shown += 1
            if shown == limit:
                break
    finally:
        consumer.close()
    return shown


def wants_colour(out: TextIO) -> bool:
    """Whether `out` is a terminal, and neither NO_COLOR nor TERM=dumb is set."""
    declined = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return out.isatty() and not declined


def unrepeated(
    messages: Iterable[AlertMessage], remembered: int = REPEATS_REMEMBERED
) -> Iterator[AlertMessage]:
    """The messages whose id is not among the last `remembered` ids."""
    recent: OrderedDict[str, None] = OrderedDict()
    for message in messages:
        if message.event_id in recent:
            recent.move_to_end(message.event_id)
            continue
        recent[message.event_id] = None
        if len(recent) > remembered:
            recent.popitem(last=False)
        yield message


def line(alert: Mapping[str, Any], colour: bool = False) -> str:
    """An alert as one line: time, severity, entity, and the explanation in the record.

    Text from outside is made safe for the terminal.
    """
    is_closed = alert["status"] == "closed"
    word = "closed" if is_closed else str(alert["severity"])
    mark = f"{formatting.plain(word):<8}"
    if colour:
        mark = f"{_COLOURS.get(word, '')}{mark}{_PLAIN}"
    moment, entity = formatting.moment(alert["event"]["time_us"]), alert["entity_id"]
    explanation = formatting.plain(alert["explanation"], formatting.SENTENCE_CHARACTERS_MAX)
    return f"{moment}  {mark}  {formatting.plain(entity)}  {explanation}"


def as_json_line(message: AlertMessage) -> str:
    """The alert record, with topic, partition, offset and headers of its message."""
    position = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "headers": dict(message.headers),
    }
    return msgspec.json.encode({**(message.alert or {}), "kafka": position}).decode()


def decoded(
    topic: str,
    partition: int,
    offset: int,
    *,
    headers: Iterable[tuple[str, bytes]],
    value: bytes,
) -> AlertMessage:
    """Decode a message of the alert topic."""
    alert: dict[str, Any] | None
    try:
        alert = decode_alert(value or b"")
        line(alert)  # a record that can be shown is accepted, also one of a later version
    except (LookupError, TypeError, ValueError):
        alert = None
    return AlertMessage(topic, partition, offset, decode_headers(headers), alert)


def _messages(consumer: Any, idle_s: float | None) -> Iterator[AlertMessage]:
    last = time.monotonic()
    while idle_s is None or time.monotonic() - last < idle_s:
        for records in consumer.poll(timeout_ms=POLL_TIMEOUT_MS).values():
            for record in records:
                last = time.monotonic()
                yield decoded(
                    record.topic,
                    record.partition,
                    record.offset,
                    headers=record.headers,
                    value=record.value,
                )
