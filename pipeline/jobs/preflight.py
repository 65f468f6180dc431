"""Checks before a job reads any event: artifact, features, state folder, broker and input.

Each check raises a `ConfigError` or `ArtifactError` that names the setting, the rule and the
value. Output topics are created by `ensure_output_topics`, after all checks.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.errors import ConfigError
from streamgauge.models.events.decoder import Decoder
from streamgauge.models.events.schema import Schema
from streamgauge.pipeline.config import Config
from streamgauge.pipeline.console.progress import Narrate, to_stderr
from streamgauge.pipeline.graph import access, state_folder
from streamgauge.pipeline.jobs import broker
from streamgauge.pipeline.jobs.sample import take_sample
from streamgauge.transforms.kafka.admin import create_missing_topics, partition_count
from streamgauge.transforms.runner.snapshot_store import newest_snapshots

FEATURES_SHOWN = 5


def load_artifact(config: Config) -> Artifact:
    """The artifact of the configuration, verified and self-tested.

    Raises:
        ConfigError: there is none, or `input.features` differs from its features.
        ArtifactError: it is damaged, or this machine cannot score with it.
    """
    directory = Path(config.artifact)
    if not directory.is_dir():
        raise ConfigError(f"artifact: must be a directory with an artifact; nothing at {directory}")
    artifact = artifacts.load(directory)
    check_features(config, artifact.schema)
    return artifact


def check_features(config: Config, schema: Schema) -> None:
    """Check that `input.features`, if set, names the artifact's features in their order.

    Raises:
        ConfigError: it does not; the first difference is named.
    """
    features = config.input.features
    if features is None or tuple(features) == schema.names:
        return
    raise ConfigError(
        f"input.features: must be the artifact's {schema.size} features in their order; "
        f"{_first_difference(schema.names, features)}. Correct them, or set `artifact` to one "
        "that was trained on them"
    )


def check_state_folder(config: Config) -> None:
    """Check that snapshots can be read from and written to `state.folder`, if it is set.

    Nothing is created. The workers of a cluster may still see other files than this machine.

    Raises:
        ConfigError: the folder cannot be opened.
    """
    folder = state_folder(config)
    if folder is None:
        return
    snapshots_in(folder, "state.folder")
    if "://" not in folder:
        parent = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
        if not parent.is_dir():
            raise ConfigError(f"state.folder: must be a folder; {parent} is a file")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise ConfigError(f"state.folder: must be writable; {parent} is not")


def snapshots_in(folder: str, setting: str) -> dict[int, str]:
    """The newest snapshot of each shard in `folder`, by shard; an absent folder has none.

    Args:
        folder: a path or a URI.
        setting: the option or setting that names the folder.

    Raises:
        ConfigError: the folder cannot be opened.
    """
    try:
        return newest_snapshots(folder)
    except (OSError, ValueError) as error:  # Beam: no such file system, or it refuses access
        raise ConfigError(
            f"{setting}: must be a folder that can be opened; {folder}: {error}"
        ) from error


def check_input(config: Config, artifact: Artifact, narrate: Narrate = to_stderr) -> int:
    """Check that the artifact can score events of the input.

    Messages that cannot be decoded become dead letters, so it is enough that some events can be,
    the newest ones or older ones. An empty topic passes.

    Args:
        config: names the broker and the topic.
        artifact: what is to score the events.
        narrate: receives a warning if older events can be decoded and the newest cannot.

    Returns:
        The number of partitions of the input.

    Raises:
        ConfigError: the broker or the topic is missing, or none of the events can be decoded.
    """
    broker.connect(config.kafka.bootstrap_servers)
    topic = config.input.topic
    count = partition_count(access(config), topic)
    sample = take_sample(config, Decoder(artifact.schema, config.input.limits), count)
    if sample.newest_fit or not sample.details:
        return count
    most_common = Counter(sample.details).most_common(1)[0][0]
    if not sample.older_fit:
        raise ConfigError(
            f"input.topic: events of {topic!r} must have the artifact's {artifact.schema.size} "
            f"features; none of the newest does: {most_common}"
        )
    narrate(
        f"warning: input.topic: the newest messages of {topic!r} cannot be decoded and become "
        f"dead letters: {most_common}"
    )
    return count


def ensure_output_topics(config: Config, partitions: int) -> list[str]:
    """Create the output topics that are missing; returns their names."""
    return create_missing_topics(access(config), config.output_topics(), partitions)


def _first_difference(expected: Sequence[str], actual: Sequence[str]) -> str:
    if len(expected) != len(actual):
        more = ", …" if len(actual) > FEATURES_SHOWN else ""
        return f"got {len(actual)}: {', '.join(actual[:FEATURES_SHOWN])}{more}"
    index = next(i for i, (a, b) in enumerate(zip(expected, actual, strict=True)) if a != b)
    return f"at position {index} it has {expected[index]!r}; got {actual[index]!r}"
