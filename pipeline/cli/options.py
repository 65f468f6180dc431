"""Options that several commands share, and how they load configuration and broker access.

Large libraries are imported inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand
from typer.models import CommandFunctionType as Function

from streamgauge.models.errors import ConfigError

if TYPE_CHECKING:
    from streamgauge.pipeline.config import Config

PROGRAM = "streamgauge"
#: Python types -> how help shows the value of an option; choices are shown as they are.
VALUES = {
    "str": "TEXT",
    "list[str]": "TEXT",
    "int": "INTEGER",
    "int range": "INTEGER",
    "float": "NUMBER",
    "float range": "NUMBER",
    "path": "PATH",
}


class Command(TyperCommand):
    """A command whose help shows `TEXT`, not the Python type, as the value of an option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        context = self.context_class(self)
        options: list[Any] = self.params
        for option in options:
            if option.metavar is None and not getattr(option, "is_flag", False):
                kind = option.display_type(context).strip("<>")
                option.metavar = VALUES.get(kind, kind)


class Commands(typer.Typer):
    """A group of commands; see `Command`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, no_args_is_help=True, rich_markup_mode=None, **kwargs)

    def command(self, *args: Any, **kwargs: Any) -> Callable[[Function], Function]:
        """Add a command; the arguments are those of Typer."""
        return super().command(*args, **{"cls": Command, **kwargs})


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
        from streamgauge.pipeline.cli.beam_arguments import check

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
