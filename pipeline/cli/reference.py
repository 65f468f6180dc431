"""Writes `docs/configuration.md` and `docs/cli.md` from the code: the reference of every setting.

Run it as `python -m streamgauge.pipeline.cli.reference` in a checkout. Each page keeps the text
outside its two markers; everything between them is generated. Settings are read from the
dataclasses of `pipeline/config.py`, their meaning from the `#:` lines above each field. Commands
are read from the typer application.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline import config
from streamgauge.pipeline.cli.main import app
from streamgauge.pipeline.cli.options import PROGRAM
from streamgauge.pipeline.console.markdown import filled_in
from streamgauge.pipeline.console.progress import to_stderr

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
CONFIGURATION, COMMANDS = "configuration.md", "cli.md"
#: Names of types in the configuration page.
TYPE_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}
#: Value of a required key while its siblings are checked.
PLACEHOLDER = "artifact"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a configuration file."""

    #: Path in the YAML file, for instance "alerts.per_entity_day".
    key: str
    type_name: str
    #: As it would stand in YAML; None if the key is required.
    default: str | None
    #: Text of the `#:` lines above the field.
    meaning: str


@dataclass(frozen=True, slots=True)
class Section:
    """A group of settings with a heading of their own."""

    #: Path in the YAML file; empty for the top level.
    key: str
    meaning: str
    settings: tuple[Setting, ...]


def main(docs: Annotated[Path, typer.Argument(help="Folder of the pages.")] = Path("docs")) -> None:
    """Write both pages."""
    for name, text in pages(docs).items():
        (docs / name).write_text(text, encoding="utf-8")
        to_stderr(f"reference: {docs / name} is up to date")


def pages(docs: Path) -> dict[str, str]:
    """The content that each generated page must have, by file name.

    Raises:
        ConfigError: a page has no markers, or a setting has no `#:` line.
    """
    generated = {CONFIGURATION: configuration_lines(), COMMANDS: command_lines()}
    return {
        name: filled_in((docs / name).read_text(encoding="utf-8"), BEGIN, END, lines=lines)
        for name, lines in generated.items()
    }


def configuration_lines() -> Iterator[str]:
    """One table per section."""
    for section in sections():
        yield f"\n## {f'`{section.key}`' if section.key else 'Top level'}\n"
        if section.meaning:
            yield f"{section.meaning}\n"
        yield "| key | type | default | meaning |\n| --- | --- | --- | --- |"
        for setting in section.settings:
            default = "*required*" if setting.default is None else f"`{setting.default}`"
            yield (
                f"| `{setting.key}` | {setting.type_name} | {default} | {_cell(setting.meaning)} |"
            )


def sections() -> list[Section]:
    """All settings in the order of the dataclasses."""
    top = Section("", "", tuple(_settings(config.Config, "")))
    return [top, *_subsections(config.Config, "")]


def _subsections(kind: type[Any], path: str) -> Iterator[Section]:
    """The dataclass fields of `kind` that are sections of the file."""
    for name, hint in _fields(kind).items():
        if not _is_dataclass(hint):
            continue
        key = f"{path}{name}"
        if _is_section(key):
            meaning = inspect.cleandoc(hint.__doc__ or "").replace("\n", " ")
            settings = tuple(_settings(hint, f"{key}."))
            yield Section(key, meaning, settings)
            yield from _subsections(hint, f"{key}.")


def _settings(kind: type[Any], path: str) -> Iterator[Setting]:
    """Keys directly below `path`; fields of a part that is no section of its own included."""
    comments = _comments(kind)
    hints = _fields(kind)
    for field in dataclasses.fields(kind):
        hint, key = hints[field.name], f"{path}{field.name}"
        if _is_dataclass(hint):
            if not _is_section(key):
                yield from _settings(hint, path)
            continue
        meaning = comments.get(field.name, "")
        if not meaning:
            raise ConfigError(f"reference: {kind.__name__}.{field.name} must have a #: line")
        yield Setting(key, _type_name(hint), _default(field), meaning)


def _fields(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _is_dataclass(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _is_section(key: str) -> bool:
    """Whether a file may hold a mapping at `key`; a part that is flattened is no key."""
    *above, last = key.split(".")
    tree: dict[str, Any] = {last: {}}
    for name in reversed(above):
        tree = {name: tree}
    try:
        config.from_dict({"artifact": PLACEHOLDER, **tree})
    except ConfigError:
        return False
    return True


def _comments(kind: type[Any]) -> dict[str, str]:
    """Text of the `#:` lines above each field of `kind` and of its base classes."""
    comments: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            comments |= _comments_in(textwrap.dedent(inspect.getsource(base)))
    return comments


def _comments_in(source: str) -> dict[str, str]:
    lines = source.splitlines()
    comments = {}
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        first = node.lineno - 1
        while lines[first - 1].strip().startswith("#:"):
            first -= 1
        comment = [
            line.strip().removeprefix("#:").strip() for line in lines[first : node.lineno - 1]
        ]
        comments[node.target.id] = " ".join(comment)
    return comments


def _type_name(hint: Any) -> str:
    """A type in words.

    >>> _type_name(list[str] | None)
    'list of text, or null'
    """
    if isinstance(hint, types.UnionType):
        return ", or ".join(_type_name(part) for part in typing.get_args(hint))
    if hint is types.NoneType:
        return "null"
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return f"list of {_type_name(inner[0])}"
    if origin is dict:
        return f"map from {_type_name(inner[0])} to {_type_name(inner[1])}"
    return TYPE_NAMES[hint]


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default is not dataclasses.MISSING:
        return json.dumps(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return json.dumps(field.default_factory())
    return None


def command_lines() -> Iterator[str]:
    """A heading, the usage, the options and an example for each command."""
    root = typer.main.get_command(app)
    for words, command in _leaves(root, ()):
        context = command.context_class(command, info_name=" ".join((PROGRAM, *words)))
        yield f"\n## {' '.join((PROGRAM, *words))}\n"
        yield f"{inspect.cleandoc(command.help or '')}\n"
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"```\n{context.info_name} {usage}\n```\n"
        yield from _options(command, context)
        if command.epilog:
            label, _, example = command.epilog.partition(": ")
            yield f"{label}:\n\n```\n{example}\n```"


def _leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield words, command
        return
    for name, child in children.items():
        yield from _leaves(child, (*words, name))


def _options(command: Any, context: Any) -> Iterator[str]:
    rows = [_option(parameter, context) for parameter in command.params]
    if rows:
        yield "| option | value | default | meaning |\n| --- | --- | --- | --- |"
        yield from rows
        yield ""


def _option(parameter: Any, context: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    shown, _ = parameter.get_help_record(context)
    words = [word for word in shown.split() if word[0] not in "-/"]
    value = f"`{' '.join(words).strip('<>')}`" if words else ""
    meaning, _, stated = (parameter.help or "").partition(" [default: ")
    return f"| {names} | {_cell(value)} | {_option_default(parameter, stated)} | {_cell(meaning)} |"


def _option_default(parameter: Any, stated: str) -> str:
    """The default that the help text states, or the value, or nothing."""
    if stated:
        return _cell(stated.rstrip("]"))
    if parameter.required:
        return "*required*"
    if parameter.default is None or callable(parameter.default):
        return ""
    if isinstance(parameter.default, bool):
        return "on" if parameter.default and parameter.secondary_opts else ""
    return f"`{parameter.default}`"


def _cell(text: str) -> str:
    """Text that cannot end a cell of a table or open a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    typer.run(main)
