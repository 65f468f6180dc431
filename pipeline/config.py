"""The configuration of a job: one YAML file, then `--set` flags, checked before anything runs.

Every key except `artifact` has a default. Unknown keys are errors. Each error names the
field, the rule and the value. Parts of the job receive only their branch of the tree.

A field `policy` holds settings that the core defines. In YAML they stand among the other keys of
their section: `alerts.cooldown_s` is `config.alerts.policy.cooldown_s`.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.limits import DecodeLimits
from streamgauge.models.scoring.policy import (
    HELD_BLOCKS_MAX,
    ON_DAMAGE,
    ScoringPolicy,
    ShardPolicy,
)
from streamgauge.pipeline.overrides import did_you_mean
from streamgauge.pipeline.yaml_values import YamlValues

#: Field of a section whose settings stand among the other keys of the section.
POLICY = "policy"

#: librdkafka properties that are secrets. Job graphs are visible on the web pages of runners.
SECRET_PROPERTIES = ("sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem")
MISSING_OFFSET_POLICIES = ("fail", "earliest", "latest")
ROUTINGS = ("entity", "partition")
SCORE_FORMATS = ("arrow", "json")


@dataclass(frozen=True, slots=True)
class Kafka:
    """How to reach the broker."""

    #: Addresses of brokers, host:port, separated by commas.
    bootstrap_servers: str = "127.0.0.1:9092"
    #: More librdkafka properties, e.g. `security.protocol`; no secrets.
    settings: dict[str, str] = field(default_factory=dict)
    #: YAML file with secret librdkafka properties. Every worker reads it when it starts.
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
    """What the job reads, and where it begins."""

    #: Topic of the telemetry.
    topic: str = "telemetry.events.v1"
    #: "earliest", "latest", a Kafka record time (ISO 8601, UTC if it has no offset), or offsets as
    #: "0:120,1:85". Only used without state.
    start: str = "earliest"
    #: If the broker no longer has an offset: "fail", or continue at "earliest" or "latest".
    on_missing_offset: str = "fail"
    #: "entity" assigns shards by a hash of the entity, "partition" by the partition, for topics
    #: whose producers use the entity as key.
    routing: str = "entity"
    #: Interval at which the job looks for new partitions, seconds.
    discovery_interval_s: float = 30.0
    #: Pause before a partition that was read to its end is polled again, milliseconds.
    poll_interval_ms: int = 20
    #: Most events of a block, approximately. Larger blocks exceed the processor's caches, smaller
    #: ones cost more per event.
    block_events_max: int = 20_000
    #: Features in order that the artifact must have; null accepts any.
    features: list[str] | None = None
    #: Bounds on what a sender may send.
    limits: DecodeLimits = field(default_factory=DecodeLimits)

    def __post_init__(self) -> None:
        _one_of("input.on_missing_offset", self.on_missing_offset, MISSING_OFFSET_POLICIES)
        _one_of("input.routing", self.routing, ROUTINGS)
        _at_least("input.discovery_interval_s", self.discovery_interval_s, 1)
        _at_least("input.poll_interval_ms", self.poll_interval_ms, 1)
        _at_least("input.block_events_max", self.block_events_max, 1)
        parse_start(self.start)


@dataclass(frozen=True, slots=True)
class Scoring:
    """How events are scored."""

    #: Late events, limits and expiry of entities.
    policy: ScoringPolicy = field(default_factory=ScoringPolicy)
    #: Number of slices that entities are divided into; fixed for the life of the state. A small
    #: multiple of the parallelism keeps blocks large.
    shards: int = 8
    #: Blocks of a shard held back after a gap before the gap is given up and counted.
    held_blocks_max: int = HELD_BLOCKS_MAX

    def __post_init__(self) -> None:
        _at_least("scoring.shards", self.shards, 1)


@dataclass(frozen=True, slots=True)
class Alerts:
    """When alerts are raised, and where they are sent."""

    #: Budget, cool-down and severity.
    policy: AlertPolicy = field(default_factory=AlertPolicy)
    #: Topic of the alerts.
    topic: str = "anomaly.alerts.v1"


@dataclass(frozen=True, slots=True)
class Scores:
    """The score of every event."""

    #: Topic of the scores; null writes no scores.
    topic: str | None = "anomaly.scores.v1"
    #: "arrow": one record batch per block; "json": one message per event, for low event rates.
    format: str = "arrow"

    def __post_init__(self) -> None:
        _one_of("scores.format", self.format, SCORE_FORMATS)


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Events that could not be processed."""

    #: Topic of the dead letters.
    topic: str = "anomaly.dlq.v1"


@dataclass(frozen=True, slots=True)
class Drift:
    """Statistics of inputs, scores and loss per window."""

    #: Topic of the drift reports.
    topic: str = "anomaly.drift.v1"
    #: Length of a window in event time, seconds.
    window_s: int = 3_600

    def __post_init__(self) -> None:
        _at_least("drift.window_s", self.window_s, 1)


@dataclass(frozen=True, slots=True)
class Health:
    """Progress and fault counters of each shard: gaps, resets, stale tables."""

    #: Topic of the health reports.
    topic: str = "anomaly.health.v1"
    #: Interval between two reports of a shard, seconds.
    interval_s: float = 60.0

    def __post_init__(self) -> None:
        _at_least("health.interval_s", self.interval_s, 1)


@dataclass(frozen=True, slots=True)
class State:
    """Snapshots of entity state, outside the runner."""

    #: Folder that all workers reach (a path, s3://…, gs://…); null writes no snapshots.
    folder: str | None = None
    #: Least interval between two snapshots of a shard, seconds. A snapshot is taken together with
    #: a health report.
    snapshot_interval_s: float = 300.0
    #: If state is damaged: "fail" the job, or "reset" the shard, whose entities warm up again.
    on_damage: str = ON_DAMAGE

    def __post_init__(self) -> None:
        _at_least("state.snapshot_interval_s", self.snapshot_interval_s, 1)


@dataclass(frozen=True, slots=True)
class Flink:
    """The cluster that runs the job. The defaults are those of `streamgauge up`."""

    #: Address of Beam's job server, host:port.
    job_endpoint: str = "127.0.0.1:8099"
    #: Address of Flink's REST API.
    rest_url: str = "http://127.0.0.1:8081"
    #: Address of the Python worker pool as the TaskManagers reach it, host:port.
    worker_endpoint: str = "127.0.0.1:50000"
    #: Parallel instances of each step.
    parallelism: int = 2
    #: Highest parallelism that the job can be scaled to; fixed for the life of the state.
    max_parallelism: int = 128
    #: Interval between checkpoints, seconds.
    checkpoint_interval_s: float = 10.0
    #: A checkpoint that takes longer fails, and the job restarts from the previous one, seconds.
    #: This detects workers that are stuck.
    checkpoint_timeout_s: float = 120.0
    #: Longest time that a bundle collects blocks, milliseconds. Less lowers latency, more lowers
    #: overhead.
    bundle_time_ms: int = 20
    #: Most blocks of a bundle.
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
    """The settings of a job."""

    #: Directory of the artifact.
    artifact: str
    #: Name of the job and of its consumer group.
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
        _ = self.shard_policy  # checks its settings

    @property
    def shard_policy(self) -> ShardPolicy:
        """The settings of `scoring` and `state` that a single shard needs."""
        return ShardPolicy(self.scoring.held_blocks_max, on_damage=self.state.on_damage)

    def output_topics(self) -> tuple[str, ...]:
        """Return the topics that the job writes."""
        sections = (self.alerts, self.scores, self.dead_letters, self.drift, self.health)
        return tuple(section.topic for section in sections if section.topic is not None)


def load(path: Path | str, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a YAML file and `section.key=value` overrides into a checked configuration.

    A relative `artifact`, `kafka.secrets_file` or `state.folder` is relative to the folder of
    the file.

    Raises:
        ConfigError: the file cannot be read, or a setting breaks a rule.
    """
    path = Path(path)
    try:
        data = YamlValues(path.read_text(), f"config: {path}")
    except FileNotFoundError:
        raise ConfigError(f"config: no file at {path}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"config: {path} must be YAML; {error}") from None
    for setting in overrides:
        data.override(setting, Config, _keys)
    config = from_dict(data.typed(Config, _keys), where=str(path))
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
    """Return a configuration from plain types; see `load`."""
    _refuse_unknown(data, Config, where, "")
    try:
        return msgspec.convert(_nested(data, Config), Config)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$")
        name = at.replace(f".{POLICY}", "").strip("`.") or "top level"
        raise ConfigError(f"{where}: {name}: {text[0].lower()}{text[1:]}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def to_dict(config: Config) -> dict[str, Any]:
    """Return the settings in plain types, as `from_dict` takes them.

    >>> to_dict(from_dict({"artifact": "a", "scoring": {"late": "set_aside"}}))["scoring"]["late"]
    'set_aside'
    """
    sections = dataclasses.asdict(config)
    for section in sections.values():
        if isinstance(section, dict):
            section.update(section.pop(POLICY, {}))
    return sections


def parse_start(text: str) -> str | int | dict[int, int]:
    """Read a start or end: "earliest", "latest", epoch milliseconds, or offsets.

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


def _keys(section: type) -> dict[str, Any]:
    """Return the YAML keys of a section and their types."""
    hints = typing.get_type_hints(section)
    policy = hints.pop(POLICY, None)
    return hints if policy is None else {**typing.get_type_hints(policy), **hints}


def _nested(data: Any, section: type) -> Any:
    """Return `data` with the settings of each policy moved into its field."""
    if not isinstance(data, dict):
        return data  # the conversion reports the type
    hints = typing.get_type_hints(section)
    policy = typing.get_type_hints(hints[POLICY]) if POLICY in hints else {}
    nested = {key: value for key, value in data.items() if key not in policy}
    for key, value in nested.items():
        if dataclasses.is_dataclass(hints[key]):
            nested[key] = _nested(value, hints[key])
    if policy:
        nested[POLICY] = {key: value for key, value in data.items() if key in policy}
    return nested


def _refuse_unknown(data: Any, into: type, where: str, at: str) -> None:
    if not isinstance(data, dict):
        return  # the conversion reports the type
    hints = _keys(into)
    for key, value in data.items():
        if key not in hints:
            raise ConfigError(f"{where}: {at}{key}: unknown key{did_you_mean(str(key), hints)}")
        if dataclasses.is_dataclass(hints[key]):
            _refuse_unknown(value, hints[key], where, at=f"{at}{key}.")
        elif hints[key] == dict[str, str] and isinstance(value, dict):
            _refuse_other_than_texts(value, f"{where}: {at}{key}")


def _refuse_other_than_texts(data: dict[Any, Any], at: str) -> None:
    for key, value in data.items():
        for each, name in ((key, "a name"), (value, "the value")):
            if not isinstance(each, str):
                got = "null" if each is None else f"{type(each).__name__} {each!r}"
                raise ConfigError(f"{at}.{key}: {name} must be text; got {got}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: must be one of {', '.join(allowed)}; got {value!r}")


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise ConfigError(f"{name}: must be at least {least:g}; got {value:g}")
