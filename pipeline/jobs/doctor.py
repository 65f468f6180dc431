"""Checks everything that a job needs, step by step, and names the first thing that is wrong.

A check either returns a description of what is right, or raises an error that says how to fix
it. A check that depends on a failed one is skipped, so that each fault is reported once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from streamgauge.infra.errors import InfraError
from streamgauge.infra.flink_rest import FlinkRest
from streamgauge.models.artifacts import artifact
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError, StreamgaugeError
from streamgauge.pipeline import config
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.console.progress import Narrate
from streamgauge.pipeline.graph import access, state_folder
from streamgauge.pipeline.jobs import broker, preflight
from streamgauge.transforms.kafka.admin import message_bytes_max
from streamgauge.transforms.messages.drift import drift_report_bytes_max

OK, WARNING, WRONG, SKIPPED = "ok", "warning", "WRONG", "skipped"
# An alert or a dead letter about an entity and features with long names.
MESSAGE_BYTES_NEEDED = 65_536
REST_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    name: str
    #: "ok", "warning", "WRONG" or "skipped".
    state: str
    #: What is right, or what is wrong and how to fix it.
    detail: str


@dataclass(slots=True)
class _Context:
    """The arguments of `examine`, and results of checks that later checks need."""

    path: Path
    overrides: tuple[str, ...] = ()
    config: Config | None = None
    artifact: Artifact | None = None
    partitions: dict[str, int] = field(default_factory=dict)
    #: Warnings of the check that runs.
    warnings: list[str] = field(default_factory=list)

    def warn(self, line: str) -> None:
        """Note what does not keep a job from running."""
        self.warnings.append(line.removeprefix("warning: "))


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    #: Checks that must be ok before this one can run.
    needs: tuple[str, ...]
    run: Callable[[_Context], str]


def examine(
    path: Path,
    overrides: tuple[str, ...] = (),
    is_embedded: bool = False,
    *,
    narrate: Narrate = print,
) -> list[Finding]:
    """Run all checks on the configuration at `path`; prints one line per check.

    Args:
        path: the YAML file of the job.
        overrides: `section.key=value`, as for a run.
        is_embedded: the job will start its own Flink; the checks of the cluster are skipped.
        narrate: receives the lines.
    """
    context = _Context(path, overrides)
    findings: list[Finding] = []
    for check in _CHECKS:
        states = {finding.name: finding.state for finding in findings}
        missing = [name for name in check.needs if states[name] not in (OK, WARNING)]
        if missing:
            finding = Finding(check.name, SKIPPED, f"needs {missing[0]}")
        elif is_embedded and check.name in _CLUSTER_CHECKS:
            finding = Finding(check.name, SKIPPED, "an embedded run starts its own")
        else:
            finding = _run(check, context)
        findings.append(finding)
        narrate(f"{finding.state:<8} {finding.name:<9} {finding.detail}")
    return findings


def first_wrong(findings: list[Finding]) -> Finding | None:
    """The first finding that is wrong; None if nothing is."""
    return next((finding for finding in findings if finding.state == WRONG), None)


def exit_code(findings: list[Finding]) -> int:
    """0 if nothing is wrong, else 2."""
    return 0 if first_wrong(findings) is None else 2


def _run(check: _Check, context: _Context) -> Finding:
    context.warnings.clear()
    try:
        detail = check.run(context)
        if context.warnings:
            return Finding(check.name, WARNING, "; ".join(context.warnings))
        return Finding(check.name, OK, detail)
    except (StreamgaugeError, InfraError) as error:
        return Finding(check.name, WRONG, " ".join(str(error).split()))


def _check_config(context: _Context) -> str:
    context.config = config.load(context.path, context.overrides)
    return f"{context.path}: job {context.config.name!r}"


def _check_artifact(context: _Context) -> str:
    folder = Path(_config(context).artifact)
    context.artifact = artifact.load(folder)
    return f"{context.artifact.digest[:12]}: files intact, self-test passed bit for bit"


def _check_schema(context: _Context) -> str:
    assert context.artifact is not None
    schema = context.artifact.schema
    preflight.check_features(_config(context), schema)
    first = ", ".join(schema.names[:3]) + (", …" if schema.size > 3 else "")
    return f"{schema.size} features ({first}), fingerprint {schema.fingerprint()}"


def _check_state(context: _Context) -> str:
    config = _config(context)
    preflight.check_state_folder(config)
    return f"{state_folder(config) or 'no state.folder: the job writes no snapshots'}"


def _check_address(context: _Context) -> str:
    kafka = _config(context).kafka
    broker.resolve(kafka.bootstrap_servers)
    broker.connect(kafka.bootstrap_servers)
    return f"{kafka.bootstrap_servers}: a port answers"


def _check_broker(context: _Context) -> str:
    kafka = _config(context).kafka
    properties = access(_config(context)).properties()
    with broker.admin(kafka.bootstrap_servers, properties) as client:
        context.partitions = broker.partition_counts(client)
    return f"{len(context.partitions)} topics"


def _check_input(context: _Context) -> str:
    topic = _config(context).input.topic
    count = context.partitions.get(topic)
    if count is None:
        existing = ", ".join(sorted(context.partitions)[:5]) or "none"
        raise ConfigError(
            f"input.topic: {topic!r} must exist; the broker has {existing}. Correct the name, or "
            f"`streamgauge produce --topic {topic} --partitions 4 …` creates and fills it"
        )
    return f"{topic}: {count} partitions"


def _check_outputs(context: _Context) -> str:
    topics = _config(context).output_topics()
    absent = [topic for topic in topics if topic not in context.partitions]
    if absent:
        return f"{', '.join(absent)}: missing; `streamgauge run` creates them"
    return ", ".join(f"{topic}: {context.partitions[topic]}" for topic in topics)


def _check_sample(context: _Context) -> str:
    assert context.artifact is not None
    preflight.check_input(_config(context), context.artifact, context.warn)
    return "the newest events can be decoded, or there are none yet"


def _check_limits(context: _Context) -> str:
    """Compare what the output topics take with what the job writes."""
    assert context.artifact is not None
    config, artifact = _config(context), context.artifact
    kafka = access(config)
    by_default = message_bytes_max(kafka)
    limits = {
        topic: message_bytes_max(kafka, topic) if topic in context.partitions else by_default
        for topic in config.output_topics()
    }
    needed = dict.fromkeys(limits, MESSAGE_BYTES_NEEDED)
    needed[config.drift.topic] = max(MESSAGE_BYTES_NEEDED, drift_report_bytes_max(artifact))
    for topic, limit in limits.items():
        if limit is not None and limit < needed[topic]:
            context.warn(
                f"warning: {topic}: max.message.bytes should be at least {needed[topic]:,}; it is "
                f"{limit:,}. Larger messages are not written; outputs_set_aside counts them"
            )
    known = [limit for limit in limits.values() if limit is not None]
    if not known:
        return "the broker does not say what its topics take; scores are split at 1,000,000 bytes"
    return f"messages up to {min(known):,} bytes; scores of more are split"


def _check_jobs(context: _Context) -> str:
    flink = _config(context).flink
    broker.connect_to(flink.job_endpoint, "flink.job_endpoint", "a Beam job server")
    return f"{flink.job_endpoint}: Beam job server answers"


def _check_flink(context: _Context) -> str:
    flink = _config(context).flink
    cluster = FlinkRest(flink.rest_url, REST_TIMEOUT_S).overview()
    managers, slots = cluster["taskmanagers"], cluster["slots-total"]
    if slots < flink.parallelism:
        raise ConfigError(
            f"flink.parallelism: must be at most the cluster's {slots} slots; got "
            f"{flink.parallelism}. Lower it, or start more TaskManagers"
        )
    free = cluster["slots-available"]
    return f"{flink.rest_url}: {managers} TaskManagers, {slots} slots, {free} of them free"


def _check_workers(context: _Context) -> str:
    endpoint = _config(context).flink.worker_endpoint
    broker.connect_to(endpoint, "flink.worker_endpoint", "a Python worker pool")
    return f"{endpoint}: worker pool answers"


def _config(context: _Context) -> Config:
    assert context.config is not None
    return context.config


_CLUSTER_CHECKS = ("jobs", "flink", "workers")
_CHECKS: tuple[_Check, ...] = (
    _Check("config", (), _check_config),
    _Check("artifact", ("config",), _check_artifact),
    _Check("schema", ("artifact",), _check_schema),
    _Check("state", ("config",), _check_state),
    _Check("address", ("config",), _check_address),
    _Check("broker", ("address",), _check_broker),
    _Check("input", ("broker",), _check_input),
    _Check("outputs", ("broker",), _check_outputs),
    _Check("limits", ("schema", "broker"), _check_limits),
    _Check("sample", ("schema", "input"), _check_sample),
    _Check("jobs", ("config",), _check_jobs),
    _Check("flink", ("config",), _check_flink),
    _Check("workers", ("config",), _check_workers),
)
