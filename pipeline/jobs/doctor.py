"""Looks at everything a job needs, step by step, and names the first thing that is wrong.

Each check either says what it found or raises an error that says how to mend it. A check
whose ground is missing is skipped, not failed: what is broken is told once.
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
from streamgauge.pipeline.graph import access
from streamgauge.pipeline.jobs import broker, preflight

OK, WRONG, SKIPPED = "ok", "WRONG", "skipped"
REST_TIMEOUT_S = 3.0

Narrate = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    name: str
    #: "ok", "WRONG" or "skipped".
    state: str
    #: What was found, or what is wrong and how to mend it.
    detail: str


@dataclass(slots=True)
class _Known:
    """What checks learn for the ones after them."""

    path: Path
    overrides: tuple[str, ...] = ()
    config: Config | None = None
    artifact: Artifact | None = None
    partitions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    #: Checks that must have been ok for this one to make sense.
    needs: tuple[str, ...]
    run: Callable[[_Known], str]


def examine(
    path: Path,
    overrides: tuple[str, ...] = (),
    is_embedded: bool = False,
    narrate: Narrate = print,
) -> list[Finding]:
    """Run all checks on the configuration at `path`; tells one line per check.

    Args:
        path: the YAML file a job would be started with.
        overrides: `section.key=value`, as for a run.
        is_embedded: the job will bring its own Flink, so none is looked for.
        narrate: takes the lines.
    """
    known = _Known(path, overrides)
    findings: list[Finding] = []
    for check in _CHECKS:
        states = {finding.name: finding.state for finding in findings}
        missing = [name for name in check.needs if states[name] != OK]
        if missing:
            finding = Finding(check.name, SKIPPED, f"needs {missing[0]}")
        elif is_embedded and check.name in _CLUSTER_CHECKS:
            finding = Finding(check.name, SKIPPED, "an embedded run brings its own")
        else:
            finding = _run(check, known)
        findings.append(finding)
        narrate(f"{finding.state:<8} {finding.name:<9} {finding.detail}")
    return findings


def first_wrong(findings: list[Finding]) -> Finding | None:
    """What to mend first; None if nothing is wrong."""
    return next((finding for finding in findings if finding.state == WRONG), None)


def exit_code(findings: list[Finding]) -> int:
    """0 if nothing is wrong, else 2."""
    return 0 if first_wrong(findings) is None else 2


def _run(check: _Check, known: _Known) -> Finding:
    try:
        return Finding(check.name, OK, check.run(known))
    except (StreamgaugeError, InfraError) as error:
        return Finding(check.name, WRONG, " ".join(str(error).split()))


def _check_config(known: _Known) -> str:
    known.config = config.load(known.path, known.overrides)
    return f"{known.path}: job {known.config.name!r}"


def _check_artifact(known: _Known) -> str:
    folder = Path(_config(known).artifact)
    known.artifact = artifact.load(folder)
    return f"{known.artifact.digest[:12]}: files intact, self-test passed bit for bit"


def _check_schema(known: _Known) -> str:
    assert known.artifact is not None
    schema, wanted = known.artifact.schema, _config(known).input.features
    if wanted is not None and tuple(wanted) != schema.names:
        raise ConfigError(
            f"input.features: must be the artifact's {schema.size} features in their order; "
            f"{_differing(schema.names, tuple(wanted))}. Correct them, or point `artifact` at one "
            "that was trained on them"
        )
    first = ", ".join(schema.names[:3]) + (", …" if schema.size > 3 else "")
    return f"{schema.size} features ({first}), fingerprint {schema.fingerprint()}"


def _differing(expected: tuple[str, ...], found: tuple[str, ...]) -> str:
    if len(expected) != len(found):
        return f"got {len(found)}"
    at = next(i for i, pair in enumerate(zip(expected, found, strict=True)) if len(set(pair)) > 1)
    return f"at position {at} it has {expected[at]!r}; got {found[at]!r}"


def _check_address(known: _Known) -> str:
    kafka = _config(known).kafka
    broker.resolve(kafka.bootstrap_servers)
    broker.connect(kafka.bootstrap_servers)
    return f"{kafka.bootstrap_servers}: a port answers"


def _check_broker(known: _Known) -> str:
    kafka = _config(known).kafka
    properties = access(_config(known)).properties()
    with broker.admin(kafka.bootstrap_servers, properties) as client:
        known.partitions = broker.partition_counts(client)
    return f"{len(known.partitions)} topics"


def _check_input(known: _Known) -> str:
    topic = _config(known).input.topic
    count = known.partitions.get(topic)
    if count is None:
        near = ", ".join(sorted(known.partitions)[:5]) or "none"
        raise ConfigError(
            f"input.topic: {topic!r} must exist; the broker has {near}. Correct the name, or "
            f"`streamgauge produce --topic {topic} --partitions 4 …` creates and fills it"
        )
    return f"{topic}: {count} partitions"


def _check_outputs(known: _Known) -> str:
    topics = _config(known).output_topics()
    absent = [topic for topic in topics if topic not in known.partitions]
    if absent:
        return f"{', '.join(absent)}: not there yet; `streamgauge run` creates what is missing"
    return ", ".join(f"{topic}: {known.partitions[topic]}" for topic in topics)


def _check_sample(known: _Known) -> str:
    assert known.artifact is not None
    preflight.check_input(_config(known), known.artifact)
    return "the newest events decode, or there is none yet"


def _check_jobs(known: _Known) -> str:
    flink = _config(known).flink
    broker.connect_to(flink.job_endpoint, "flink.job_endpoint", "a Beam job server")
    return f"{flink.job_endpoint}: Beam job server answers"


def _check_flink(known: _Known) -> str:
    flink = _config(known).flink
    found = FlinkRest(flink.rest_url, REST_TIMEOUT_S).overview()
    managers, slots = found["taskmanagers"], found["slots-total"]
    if slots < flink.parallelism:
        raise ConfigError(
            f"flink.parallelism: must be at most the cluster's {slots} slots; got "
            f"{flink.parallelism}. Lower it, or start more TaskManagers"
        )
    free = found["slots-available"]
    return f"{flink.rest_url}: {managers} TaskManagers, {slots} slots, {free} of them free"


def _check_workers(known: _Known) -> str:
    endpoint = _config(known).flink.worker_endpoint
    broker.connect_to(endpoint, "flink.worker_endpoint", "a Python worker pool")
    return f"{endpoint}: worker pool answers"


def _config(known: _Known) -> Config:
    assert known.config is not None
    return known.config


_CLUSTER_CHECKS = ("jobs", "flink", "workers")
_CHECKS: tuple[_Check, ...] = (
    _Check("config", (), _check_config),
    _Check("artifact", ("config",), _check_artifact),
    _Check("schema", ("artifact",), _check_schema),
    _Check("address", ("config",), _check_address),
    _Check("broker", ("address",), _check_broker),
    _Check("input", ("broker",), _check_input),
    _Check("outputs", ("broker",), _check_outputs),
    _Check("sample", ("schema", "input"), _check_sample),
    _Check("jobs", ("config",), _check_jobs),
    _Check("flink", ("config",), _check_flink),
    _Check("workers", ("config",), _check_workers),
)
