"""Follows the alert topic: a line per alert for people, or JSON for programs."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

import msgspec

from streamgauge.models.blocks.scored_block import NEW_NORMAL
from streamgauge.pipeline.console import formatting
from streamgauge.pipeline.console.progress import Narrate, to_stderr
from streamgauge.pipeline.jobs import broker
from streamgauge.pipeline.report.summary import rarity_1_in_n
from streamgauge.transforms.kafka.access import KafkaAccess, new_python_consumer
from streamgauge.transforms.messages.alerts import AlertMessage, decode_alert, decode_headers

# Repeats follow a restart closely; the job re-emits at most what one checkpoint covers.
REPEATS_REMEMBERED = 100_000
POLL_TIMEOUT_MS = 500
FEATURES_SHOWN = 3
_COLOURS = {"critical": "\x1b[1;31m", "warning": "\x1b[33m", "closed": "\x1b[32m"}
_PLAIN = "\x1b[0m"


def tail(
    bootstrap_servers: str,
    topic: str,
    as_json: bool = False,
    from_beginning: bool = False,
    limit: int | None = None,
    idle_s: float | None = None,
    settings: broker.Settings | None = None,
    out: TextIO | None = None,
    narrate: Narrate = to_stderr,
) -> int:
    """Write alerts to `out` as they come, each once; returns how many.

    Args:
        bootstrap_servers: `host:port`, several separated by commas.
        topic: the alert topic, which must exist.
        as_json: one JSON object per line instead of a readable line.
        from_beginning: start with the oldest alert that is kept, not with the next one.
        limit: stop after this many alerts.
        idle_s: stop when none came for so long; None goes on until interrupted.
        settings: more librdkafka properties, for instance `security.protocol`.
        out: None for standard output.
        narrate: takes the lines of narration.

    Raises:
        ConfigError: the broker or the topic is not there.
    """
    out = out or sys.stdout
    partitions = broker.require_topic(bootstrap_servers, topic, None, settings or {})
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
                place = f"{message.topic}/{message.partition}/{message.offset}"
                narrate(f"{place} is not an alert and is left out")
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
    """Whether colour is welcome: a terminal, and none of the usual ways to decline."""
    declined = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return out.isatty() and not declined


def unrepeated(
    messages: Iterable[AlertMessage], remembered: int = REPEATS_REMEMBERED
) -> Iterator[AlertMessage]:
    """Messages without those whose id was among the last `remembered` ids."""
    seen: OrderedDict[str, None] = OrderedDict()
    for message in messages:
        if message.event_id in seen:
            seen.move_to_end(message.event_id)
            continue
        seen[message.event_id] = None
        if len(seen) > remembered:
            seen.popitem(last=False)
        yield message


def line(alert: Mapping[str, Any], colour: bool = False) -> str:
    """An alert as one line; what came from outside cannot steer the terminal."""
    entity = formatting.plain(alert["entity_id"])
    time_us, opened_us = alert["event"]["time_us"], alert["window"]["opened_time_us"]
    lasted = (
        f"{formatting.duration(max(0, time_us - opened_us))}, {alert['window']['events']} events"
    )
    features = alert["features"][:FEATURES_SHOWN]
    if alert["status"] == "closed":
        word = "closed"
        told = f"back to normal after {lasted}"
        if alert.get("reason") == NEW_NORMAL:
            told = f"new normal after {lasted}: {', '.join(map(_moved, features))}"
    else:
        word = str(alert["severity"])
        told = f"{formatting.rarity(rarity_1_in_n(alert))}: {', '.join(map(_feature, features))}"
        if alert["status"] == "updated":
            told = f"still, after {lasted}, {told}"
    mark = f"{formatting.plain(word):<8}"
    if colour:
        mark = f"{_COLOURS.get(word, '')}{mark}{_PLAIN}"
    return f"{formatting.moment(time_us)}  {mark}  {entity}  {told}"


def as_json_line(message: AlertMessage) -> str:
    """The alert record with the place of its message and its CloudEvent attributes."""
    place = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "headers": dict(message.headers),
    }
    return msgspec.json.encode({**(message.alert or {}), "kafka": place}).decode()


def decoded(
    topic: str, partition: int, offset: int, headers: Iterable[tuple[str, bytes]], value: bytes
) -> AlertMessage:
    """A message as read from Kafka."""
    alert: dict[str, Any] | None
    try:
        alert = decode_alert(value or b"")
        line(alert)  # what can be shown is an alert, also one of a later version
    except (LookupError, TypeError, ValueError):
        alert = None
    return AlertMessage(topic, partition, offset, decode_headers(headers), alert)


def _feature(record: Mapping[str, Any]) -> str:
    name = formatting.plain(record["name"])
    value, expected = formatting.number(record["value"]), formatting.number(record["expected"])
    return f"{name} {value} (expected {expected})"


def _moved(record: Mapping[str, Any]) -> str:
    name = formatting.plain(record["name"])
    return f"{name} {formatting.number(record['expected'])} -> {formatting.number(record['value'])}"


def _messages(consumer: Any, idle_s: float | None) -> Iterator[AlertMessage]:
    last = time.monotonic()
    while idle_s is None or time.monotonic() - last < idle_s:
        for records in consumer.poll(timeout_ms=POLL_TIMEOUT_MS).values():
            for one in records:
                last = time.monotonic()
                yield decoded(one.topic, one.partition, one.offset, one.headers, one.value)
