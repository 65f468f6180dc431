"""The configuration of a job: one YAML file, then `--set` flags, checked before anything runs.

Every key has a default but `artifact`. Unknown keys are errors; each error names the
field, the rule and what came. Parts receive only their branch of the tree.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.scoring.policy import DAMAGE_POLICIES, ScoringPolicy

#: librdkafka properties that are secrets; job graphs are visible in runners' web pages.
SECRET_PROPERTIES = ("sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem")
MISSING_OFFSET_POLICIES = ("fail", "earliest", "latest")
ROUTINGS = ("entity", "partition")
SCORE_FORMATS = ("arrow", "json")


@dataclass(frozen=True, slots=True)
class Kafka:
    """How to reach the broker."""

    bootstrap_servers: str = "127.0.0.1:9092"
    #: More librdkafka properties, e.g. `security.protocol`; no secrets.
    settings: dict[str, str] = field(default_factory=dict)
    #: YAML file with secret librdkafka properties; every worker reads it at its own start.
    secrets_file: str | None = None

    def __post_init__(self) -> None:
        if not self.bootstrap_servers:
            raise ConfigError("kafka.bootstrap_servers: must name at least one host:port; got ''")
        for name in SECRET_PROPERTIES:
            if name in self.settings:
                raise ConfigError(
                    f"kafka.settings: {name} is a secret and would show in the job graph; "
                    "put it into the file that kafka.secrets_file names"
                )


@dataclass(frozen=True, slots=True)
class Input:
    """What is read, and from where on."""

    topic: str = "telemetry.events.v1"
    #: "earliest", "latest", an ISO 8601 time, or offsets as "0:120,1:85"; used only without state.
    start: str = "earliest"
    #: An offset that the broker no longer has: "fail", or jump to "earliest" or "latest".
    on_missing_offset: str = "fail"
    #: "entity": a shard is a hash of the entity; "partition": of the partition, for topics
    #: whose producers key by entity.
    routing: str = "entity"
    #: How often to look for new partitions, seconds.
    discovery_interval_s: float = 30.0
    #: How long a partition that was read to its end rests before the next poll, milliseconds.
    poll_interval_ms: int = 20
    #: About the most events taken in one block: larger ones leave the processor's caches,
    #: smaller ones pay more per block.
    block_events_max: int = 20_000
    #: Feature names in order that the artifact must have; None takes whatever it has.
    features: list[str] | None = None
    limits: DecodeLimits = field(default_factory=DecodeLimits)

    def __post_init__(self) -> None:
        _one_of("input.on_missing_offset", self.on_missing_offset, MISSING_OFFSET_POLICIES)
        _one_of("input.routing", self.routing, ROUTINGS)
        _at_least("input.discovery_interval_s", self.discovery_interval_s, 1)
        _at_least("input.poll_interval_ms", self.poll_interval_ms, 1)
        _at_least("input.block_events_max", self.block_events_max, 1)
        parse_start(self.start)


@dataclass(frozen=True, slots=True)
class Scoring(ScoringPolicy):
    """How events are scored; `shards` is fixed for the life of a job's state."""

    #: IncrementalSnapshot of the entities; a small multiple of the parallelism keeps blocks large.
    shards: int = 8
    #: Blocks held back behind a gap before it is given up and counted.
    held_blocks_max: int = 64

    def __post_init__(self) -> None:
        ScoringPolicy.__post_init__(self)
        _at_least("scoring.shards", self.shards, 1)
        _at_least("scoring.held_blocks_max", self.held_blocks_max, 1)


@dataclass(frozen=True, slots=True)
class Alerts(AlertPolicy):
    """How many messages people get, and where they go."""

    topic: str = "anomaly.alerts.v1"


@dataclass(frozen=True, slots=True)
class Scores:
    """The score of every event."""

    #: None writes no scores.
    topic: str | None = "anomaly.scores.v1"
    #: "arrow": one record batch per block; "json": one message per event, for low rates.
    format: str = "arrow"

    def __post_init__(self) -> None:
        _one_of("scores.format", self.format, SCORE_FORMATS)


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Events that could not be processed."""

    topic: str = "anomaly.dlq.v1"


@dataclass(frozen=True, slots=True)
class Drift:
    """Statistics of inputs, scores and loss per window."""

    topic: str = "anomaly.drift.v1"
    #: Length of a window, event time, seconds.
    window_s: int = 3_600

    def __post_init__(self) -> None:
        _at_least("drift.window_s", self.window_s, 1)


@dataclass(frozen=True, slots=True)
class Health:
    """How far each shard is, and what went otherwise than planned: gaps, resets, stale tables."""

    topic: str = "anomaly.health.v1"
    #: Seconds between two reports of a shard.
    interval_s: float = 60.0

    def __post_init__(self) -> None:
        _at_least("health.interval_s", self.interval_s, 1)


@dataclass(frozen=True, slots=True)
class State:
    """Snapshots of what entities remember, outside the runner."""

    #: Folder that all workers reach (a path, s3://…, gs://…); None keeps no snapshots.
    folder: str | None = None
    #: Seconds between two snapshots of a shard; kept at the beat of its health reports.
    snapshot_interval_s: float = 300.0
    #: State that is damaged: "fail", or "reset" the shard, whose entities start anew.
    on_damage: str = "fail"

    def __post_init__(self) -> None:
        _at_least("state.snapshot_interval_s", self.snapshot_interval_s, 1)
        _one_of("state.on_damage", self.on_damage, DAMAGE_POLICIES)


@dataclass(frozen=True, slots=True)
class Flink:
    """The cluster that runs the job; the defaults are those of `streamgauge up`."""

    job_endpoint: str = "127.0.0.1:8099"
    rest_url: str = "http://127.0.0.1:8081"
    #: Where the Python worker pool listens, as the TaskManagers see it.
    worker_endpoint: str = "127.0.0.1:50000"
    parallelism: int = 2
    #: Fixed for the life of a job's state; the most a job can ever be scaled out to.
    max_parallelism: int = 128
    checkpoint_interval_s: float = 10.0
    #: A checkpoint that takes longer fails, and the job starts again from the one before: so a
    #: worker that is stuck is noticed.
    checkpoint_timeout_s: float = 120.0
    #: A bundle of blocks ends after this time or size; latency against overhead.
    bundle_time_ms: int = 20
    bundle_size: int = 16

    def __post_init__(self) -> None:
        for name in ("job_endpoint", "worker_endpoint"):
            if not getattr(self, name).rpartition(":")[2].isdecimal():
                raise ConfigError(f"flink.{name}: must be host:port; got {getattr(self, name)!r}")
        _at_least("flink.parallelism", self.parallelism, 1)
        _at_least("flink.max_parallelism", self.max_parallelism, self.parallelism)
        _at_least("flink.checkpoint_interval_s", self.checkpoint_interval_s, 0.1)
        _at_least("flink.checkpoint_timeout_s", self.checkpoint_timeout_s, 1)
        _at_least("flink.bundle_time_ms", self.bundle_time_ms, 1)
        _at_least("flink.bundle_size", self.bundle_size, 1)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a job needs to know."""

    #: Directory of the artifact that scores.
    artifact: str
    #: Name of the job, and of the consumer group it shows up as.
    name: str = "streamgauge"
    kafka: Kafka = field(default_factory=Kafka)
    input: Input = field(default_factory=Input)
    scoring: Scoring = field(default_factory=Scoring)
    alerts: Alerts = field(default_factory=Alerts)
    scores: Scores = field(default_factory=Scores)
    dead_letters: DeadLetters = field(default_factory=DeadLetters)
    drift: Drift = field(default_factory=Drift)
    health: Health = field(default_factory=Health)
    state: State = field(default_factory=State)
    flink: Flink = field(default_factory=Flink)

    def __post_init__(self) -> None:
        if self.input.topic in self.output_topics():
            raise ConfigError(f"input.topic: must not be an output topic; got {self.input.topic!r}")

    def output_topics(self) -> tuple[str, ...]:
        """The topics that the job writes."""
        sections = (self.alerts, self.scores, self.dead_letters, self.drift, self.health)
        return tuple(section.topic for section in sections if section.topic is not None)


def load(path: Path | str, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a YAML file and `section.key=value` overrides into a checked configuration.

    A relative `artifact`, `kafka.secrets_file` or `state.folder` is taken from the file's own
    folder.

    Raises:
        ConfigError: naming the file, the field, the rule and what was found.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"config: no file at {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"config: {path} must be YAML; {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"config: {path} must hold sections; got {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    config = from_dict(data, where=str(path))
    home = path.resolve().parent
    kafka = config.kafka
    if kafka.secrets_file:
        kafka = dataclasses.replace(kafka, secrets_file=str(home / kafka.secrets_file))
    state = config.state
    if state.folder and "://" not in state.folder:
        state = dataclasses.replace(state, folder=str(home / state.folder))
    return dataclasses.replace(
        config, artifact=str(home / config.artifact), kafka=kafka, state=state
    )


def from_dict(data: dict[str, Any], where: str = "config") -> Config:
    """A configuration from plain types; see `load`."""
    _refuse_unknown(data, Config, where, "")
    try:
        return msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$")
        name = at.strip("`.") or "top level"
        raise ConfigError(f"{where}: {name}: {text[0].lower()}{text[1:]}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def parse_start(text: str) -> str | int | dict[int, int]:
    """What a start or end says: "earliest", "latest", epoch milliseconds, or offsets.

    >>> parse_start("0:120,1:85")
    {0: 120, 1: 85}
    >>> parse_start("2024-01-01T00:00:00Z")
    1704067200000
    """
    if text in ("earliest", "latest"):
        return text
    try:
        if ":" in text and "-" not in text:
            pairs = (item.split(":") for item in text.split(","))
            return {int(partition): int(offset) for partition, offset in pairs}
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "start or end: must be earliest, latest, an ISO 8601 time or "
            f"partition:offset,…; got {text!r}"
        ) from None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(zoned.timestamp() * 1000)


def _refuse_unknown(data: Any, into: type, where: str, at: str) -> None:
    if not isinstance(data, dict):
        return  # a wrong type: the conversion says so
    hints = typing.get_type_hints(into)
    for key, value in data.items():
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, 1)
            meant = f"; did you mean {close[0]!r}?" if close else f"; known are {sorted(hints)}"
            raise ConfigError(f"{where}: {at}{key}: unknown key{meant}")
        if dataclasses.is_dataclass(hints[key]):
            _refuse_unknown(value, hints[key], where, f"{at}{key}.")


def _apply(data: dict[str, Any], override: str) -> None:
    """Set `section.key=value` in `data`; the value is read as YAML."""
    name, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"--set: must be section.key=value; got {override!r}")
    *sections, key = name.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set: {section!r} in {name!r} is not a section")
    data[key] = yaml.safe_load(value)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: must be one of {', '.join(allowed)}; got {value!r}")


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise ConfigError(f"{name}: must be at least {least:g}; got {value:g}")
