"""Reads alerts and scores from their topics, up to the end at the time of the call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaException, Message

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline import config
from streamgauge.pipeline.alerts.tail import decoded, unrepeated
from streamgauge.pipeline.jobs import broker
from streamgauge.transforms.kafka.access import KafkaAccess
from streamgauge.transforms.kafka.topic_log import TopicLog, headers_of
from streamgauge.transforms.messages import scores
from streamgauge.transforms.messages.alerts import AlertMessage

GROUP = "streamgauge-api"  # nothing is committed under it
ALERTS, SCORES = config.Alerts().topic, str(config.Scores().topic)
#: What `read_scores` returns: the columns of a score message, and where the score came from.
SCORE_SCHEMA = pa.schema(
    [
        *(
            pa.field(field.name, pa.string()) if field.name == "verdict" else field
            for field in scores.SCHEMA
        ),
        ("topic", pa.string()),
        ("model", pa.string()),
    ]
)

Settings = Mapping[str, Any]
Start = str | datetime | None


def read_alerts(
    bootstrap_servers: str,
    topic: str = ALERTS,
    *,
    settings: Settings | None = None,
    start: Start = None,
) -> Iterator[dict[str, Any]]:
    """Read the alerts of a topic up to its current end, each once.

    Args:
        bootstrap_servers: `host:port`, several separated by commas.
        topic: the alert topic.
        settings: further librdkafka properties, for instance `security.protocol`.
        start: only alerts about events at or after this time: a datetime or ISO 8601 text, UTC
            if it has no zone. None for all.

    Returns:
        An iterator over alert records (docs/messages.md), in the order of each partition.

    Raises:
        ConfigError: broker or topic cannot be read, or a message is not an alert.
    """
    start_us = _start_us(start)
    log = _open(bootstrap_servers, topic, settings)
    return _alerts(log, start_us)


def read_scores(
    bootstrap_servers: str,
    topic: str = SCORES,
    *,
    settings: Settings | None = None,
    start: Start = None,
) -> pa.Table:
    """Read the scores of a topic up to its current end, each once.

    Args:
        bootstrap_servers: `host:port`, several separated by commas.
        topic: the score topic, in either of its formats.
        settings: further librdkafka properties, for instance `security.protocol`.
        start: as in `read_alerts`.

    Returns:
        A table with the columns of `SCORE_SCHEMA`; `topic` and `model` are those of the events
        and of the artifact. `to_pandas()` and `polars.from_arrow` convert it.

    Raises:
        ConfigError: broker or topic cannot be read, or a message does not hold scores.
    """
    start_us = _start_us(start)
    log = _open(bootstrap_servers, topic, settings)
    parts = [SCORE_SCHEMA.empty_table()]
    for messages in _messages(log):
        arrow = [m for m in messages if scores.is_arrow(m.value() or b"")]
        single = [m for m in messages if not scores.is_arrow(m.value() or b"")]
        parts += [_arrow_scores(message) for message in arrow]
        if single:
            parts.append(_json_scores(single))
        if start_us is not None:
            parts = [part.filter(pc.field("event_time_us") >= start_us) for part in parts]
    return _first_of_each(pa.concat_tables(parts))


def _alerts(log: TopicLog, start_us: int | None) -> Iterator[dict[str, Any]]:
    def received() -> Iterator[AlertMessage]:
        for messages in _messages(log):
            yield from map(_alert, messages)

    for message in unrepeated(received()):
        alert = dict(message.alert or {})
        if start_us is None or alert["event"]["time_us"] >= start_us:
            yield alert


def _alert(message: Message) -> AlertMessage:
    partition, offset = _position(message)
    read = decoded(
        message.topic() or "",
        partition,
        offset,
        headers=((name, value or b"") for name, value in headers_of(message)),
        value=message.value() or b"",
    )
    if read.alert is None:
        raise ConfigError(f"topic: {_name(message)} must be an alert as the job writes it")
    return read


def _arrow_scores(message: Message) -> pa.Table:
    try:
        with pa.ipc.open_stream(pa.py_buffer(message.value())) as reader:
            table = reader.read_all()
        table.validate(full=True)
        return _with_origin(table, [message] * len(table))
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise _not_scores(message, error) from error


def _json_scores(messages: Sequence[Message]) -> pa.Table:
    rows = []
    for message in messages:
        try:
            rows.append(msgspec.json.decode(message.value() or b"", type=scores.JsonScore))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _not_scores(message, error) from error
    columns = {
        field.name: pa.array([getattr(row, field.name) for row in rows], field.type)
        for field in SCORE_SCHEMA
        if field.name in scores.JsonScore.__struct_fields__
    }
    return _with_origin(pa.table(columns), messages)


def _with_origin(table: pa.Table, messages: Sequence[Message]) -> pa.Table:
    """Add the columns `topic` and `model` from the headers of each row's message."""
    origins: dict[int, tuple[str, str]] = {}
    for message in {id(m): m for m in messages}.values():
        headers = {name: (value or b"").decode() for name, value in headers_of(message)}
        topic, model = headers.get(scores.TOPIC_HEADER, ""), headers.get(scores.MODEL_HEADER, "")
        origins[id(message)] = (topic, model)
    both = [origins[id(message)] for message in messages]
    columns = [
        table.column(field.name).cast(field.type)
        for field in SCORE_SCHEMA
        if field.name not in ("topic", "model")
    ]
    for i in (0, 1):
        columns.append(pa.chunked_array([pa.array([origin[i] for origin in both], pa.string())]))
    return pa.table(columns, schema=SCORE_SCHEMA)


def _first_of_each(table: pa.Table) -> pa.Table:
    """The first score of each event by each model: a job repeats scores after a failover."""
    key = [*scores.EVENT_KEY, "topic", "model"]
    numbered = table.select(key).append_column("index", pa.array(range(len(table)), pa.int64()))
    first = numbered.group_by(key).aggregate([("index", "min")]).column("index_min")
    return table.take(first.combine_chunks().sort()).combine_chunks()


def _open(bootstrap_servers: str, topic: str, settings: Settings | None) -> TopicLog:
    broker.resolve(bootstrap_servers)
    broker.connect(bootstrap_servers)
    try:
        log = TopicLog(KafkaAccess(bootstrap_servers, settings or {}), GROUP, topic)
    except KafkaException as error:
        raise _unreadable(topic, error) from error
    if not log.exists:
        log.close()
        raise ConfigError(f"topic: {topic!r} must exist on {bootstrap_servers}; it does not")
    return log


def _messages(log: TopicLog) -> Iterator[list[Message]]:
    """All messages up to the current end; the log is closed afterwards."""
    with closing(log):
        try:
            yield from log.read()
        except KafkaException as error:
            raise _unreadable(log.topic, error) from error


def _unreadable(topic: str, error: KafkaException) -> ConfigError:
    return ConfigError(f"topic: {topic!r} must be readable; {error.args[0].str()}")


def _not_scores(message: Message, error: Exception) -> ConfigError:
    text = " ".join(str(error).split())
    return ConfigError(f"topic: {_name(message)} must be scores as the job writes them; {text}")


def _position(message: Message) -> tuple[int, int]:
    partition, offset = message.partition(), message.offset()
    assert partition is not None and offset is not None
    return partition, offset


def _name(message: Message) -> str:
    return "/".join(map(str, (message.topic(), *_position(message))))


def _start_us(start: Start) -> int | None:
    """A start as microseconds since 1970."""
    if start is None:
        return None
    try:
        moment = datetime.fromisoformat(start) if isinstance(start, str) else start
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (AttributeError, ValueError):
        raise ConfigError(f"start: must be a datetime or an ISO 8601 time; got {start!r}") from None
    return round(zoned.timestamp() * 1e6)
