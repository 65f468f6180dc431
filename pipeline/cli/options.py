"""Options that several commands share, and how they load configuration and broker access.

Large libraries are imported inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamgauge.models.errors import ConfigError

if TYPE_CHECKING:
    from streamgauge.pipeline.config import Config

PROGRAM = "streamgauge"

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="YAML file that describes the job.", metavar="FILE")
]
AnyConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Take address and credentials of the broker from this file.",
        metavar="FILE",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one setting, as section.key=value; repeatable."),
]
ServersOption = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers",
        help="host:port of brokers. [default: that of the file, or 127.0.0.1:9092]",
    ),
]
FolderOption = Annotated[
    Path | None,
    typer.Option("--dir", help="Folder of the cluster. [default: in the user's state folder]"),
]
StateOption = Annotated[
    str | None,
    typer.Option("--state", help="Start from this exported state, at the offset where it ends."),
]


def cluster_folder() -> Path:
    """The default folder of the local cluster; it does not depend on the current folder."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / PROGRAM / "cluster"


def load(path: Path, overrides: list[str] | None) -> Config:
    """The configuration of a file, with the overrides of `--set`."""
    from streamgauge.pipeline import config as configs

    return configs.load(path, tuple(overrides or ()))


#: Settings of commands that take options for Beam, behind `--`.
BEHIND_DASHES = {"allow_extra_args": True}


def beam_arguments(extra: list[str]) -> list[str]:
    """The options for Beam, which stood behind `--`.

    Raises:
        ConfigError: there is a stray word, or an option that neither Beam nor Flink knows.
    """
    if extra and not extra[0].startswith("--"):
        raise ConfigError(f"arguments for Beam must start with --; got {extra[0]!r}")
    if extra:
        from streamgauge.pipeline.jobs.beam_arguments import check

        check(extra)
    return extra


def access(path: Path | None, bootstrap_servers: str | None) -> tuple[str, dict[str, Any]]:
    """Broker address and librdkafka properties, from the configuration file if there is one."""
    from streamgauge.pipeline import config as configs
    from streamgauge.transforms.kafka.access import KafkaAccess

    kafka = configs.Kafka() if path is None else configs.load(path).kafka
    servers = bootstrap_servers or kafka.bootstrap_servers
    properties = KafkaAccess(servers, kafka.settings, kafka.secrets_file).properties()
    return servers, {name: v for name, v in properties.items() if name != "bootstrap.servers"}
