"""What must be right before a job consumes anything: artifact, schema, broker, topics, input.

Each check raises one `ConfigError` or `ArtifactError` that names the part, what was
expected and what was found.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.decoder import Decoder
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.graph import access
from streamgauge.pipeline.jobs import broker
from streamgauge.transforms.kafka.admin import create_missing_topics, partition_count
from streamgauge.transforms.kafka.client import PartitionReader

SAMPLE_BYTES = 262_144
SAMPLE_WAIT_S = 3.0


def load_artifact(config: Config) -> Artifact:
    """The artifact the configuration names, verified and self-tested."""
    directory = Path(config.artifact)
    if not directory.is_dir():
        raise ConfigError(f"artifact: must be a directory with an artifact; nothing at {directory}")
    artifact = artifacts.load(directory)
    wanted = config.input.features
    if wanted is not None and tuple(wanted) != artifact.schema.names:
        raise ConfigError(
            f"input.features: must be the artifact's {artifact.schema.size} features in order, "
            f"{_shorten(artifact.schema.names)}; got {len(wanted)}: {_shorten(wanted)}"
        )
    return artifact


def check_input(config: Config, artifact: Artifact) -> int:
    """The number of partitions of the input, which must hold events the artifact can score.

    The newest events of each partition are looked at. An empty topic passes.

    Raises:
        ConfigError: broker, topic, or an input of which no event can be decoded.
    """
    broker.connect(config.kafka.bootstrap_servers)
    kafka = access(config)
    count = partition_count(kafka, config.input.topic)
    decoder = Decoder(artifact.schema, config.input.limits)
    reasons: Counter[str] = Counter()
    for partition in range(count):
        reader = PartitionReader(kafka, config.name, config.input.topic, partition)
        try:
            first, end = reader.offset_at("earliest"), reader.offset_at("latest")
            start = max(first, end - 8)
            if start >= end:
                continue
            messages, following = reader.read(start, SAMPLE_BYTES, SAMPLE_WAIT_S, end - start)
        finally:
            reader.close()
        block, dead = decoder.decode(partition, messages, start, following)
        if len(block):
            return count
        reasons.update(letter.detail for letter in dead)
    if reasons:
        worst = reasons.most_common(1)[0][0]
        raise ConfigError(
            f"input.topic: events of {config.input.topic!r} must fit the artifact's "
            f"{artifact.schema.size} features; none of the newest does: {worst}"
        )
    return count


def ensure_output_topics(config: Config, partitions: int) -> list[str]:
    """Create the output topics that are missing; returns their names."""
    return create_missing_topics(access(config), config.output_topics(), partitions)


def _shorten(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(names[:4])
    return f"[{shown}, …]" if len(names) > 4 else f"[{shown}]"
