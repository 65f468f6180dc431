"""Finds the key that `--set section.key=value` names, and near names for a mistyped one."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from streamgauge.models.errors import ConfigError

#: The keys of a section, and their types.
KeysOf = Callable[[type], Mapping[str, Any]]


def did_you_mean(key: str, known: typing.Iterable[str]) -> str:
    """The end of a message about an unknown key.

    >>> did_you_mean("shrads", ["shards", "late"])
    "; did you mean 'shards'?"
    """
    known = sorted(known)
    close = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {known}"


def path_of(name: str, root: type, keys_of: KeysOf) -> list[str]:
    """The sections on the way to a key, and the key.

    In a map, such as `kafka.settings`, everything after the name of the map is the key.

    Args:
        name: the text before the equals sign, with dots.
        root: the section at the top.
        keys_of: returns the keys of a section.

    Raises:
        ConfigError: there is no such key; a near one is named.
    """
    parts, section = name.split("."), root
    for depth, part in enumerate(parts):
        keys = keys_of(section)
        if part not in keys:
            raise ConfigError(f"--set: {name}: unknown key{_near(parts, depth, root, keys_of)}")
        hint = keys[part]
        origin: Any = typing.get_origin(hint)
        if origin is dict:
            key = ".".join(parts[depth + 1 :])
            return [*parts[: depth + 1], key] if key else parts
        if not dataclasses.is_dataclass(hint):
            if depth + 1 < len(parts):
                raise ConfigError(f"--set: {part!r} in {name!r} is not a section")
            return parts
        section = typing.cast(type, hint)
    return parts


def _near(parts: list[str], depth: int, root: type, keys_of: KeysOf) -> str:
    """A near name: the section may be mistyped, missing, or another one."""
    names = list(_names(root, keys_of, ""))
    before = "".join(f"{part}." for part in parts[:depth])
    siblings = [each for each in names if each.startswith(before)]
    level = [each for each in siblings if "." not in each.removeprefix(before)]
    close = difflib.get_close_matches(before + parts[depth], level, 1)
    if close:
        rest = [close[0], *parts[depth + 1 :]]
        close = difflib.get_close_matches(".".join(rest), siblings, 1) or [".".join(rest)]
    else:
        same = [each for each in names if each.rpartition(".")[2] == parts[-1]]
        close = same if len(same) == 1 else difflib.get_close_matches(".".join(parts), siblings, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {sorted(level)}"


def _names(section: type, keys_of: KeysOf, before: str) -> Iterator[str]:
    for key, hint in keys_of(section).items():
        yield before + key
        if dataclasses.is_dataclass(hint):
            yield from _names(typing.cast(type, hint), keys_of, f"{before}{key}.")
