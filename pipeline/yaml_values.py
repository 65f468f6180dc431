"""Reads YAML so that a value of a text key is the text in the file.

YAML 1.1 makes 105 of `1:45`, a date of `2024-01-17T00:00:00Z`, False of `no` and 8 of `010`.
Base 60, octal numbers and dates are not read here. A text key, and every value of a map of texts,
gets the characters that were written, quoted or not.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.overrides import KeysOf, path_of

_INTEGER, _FLOAT, _TIME = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))


class _Loader(yaml.SafeLoader):
    """YAML without dates, numbers of base 60 and octal numbers."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in (_INTEGER, _FLOAT, _TIME)]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _INTEGER, re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$|0x[0-9a-fA-F]+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
               r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"),
    list("-+0123456789."),
)  # fmt: skip


class YamlValues:
    """A YAML file of sections, and values set over it."""

    def __init__(self, text: str, where: str) -> None:
        """Read the text of a file.

        Raises:
            ConfigError: it is no YAML, or no map; `where` names the file.
        """
        try:
            self._values, self._texts = _read(text)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"{where} must be YAML; {' '.join(str(error).split())}") from None
        if not isinstance(self._values, dict):
            raise ConfigError(f"{where} must hold sections; got {type(self._values).__name__}")

    def override(self, setting: str, section: type, keys_of: KeysOf) -> None:
        """Apply `section.key=value`; the value is read as YAML.

        Raises:
            ConfigError: it has another form, or `section` has no such key.
        """
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set: must be section.key=value; got {setting!r}")
        *sections, key = path_of(name, section, keys_of)
        try:
            new = _read(value)
        except (yaml.YAMLError, ValueError):  # its text repeats the value, which may be a secret
            raise ConfigError(
                f"--set: {name}: the value must be YAML, with matching quotes"
            ) from None
        for data, leaf in zip((self._values, self._texts), new, strict=True):
            for each in sections:
                data = data.setdefault(each, {})
                if not isinstance(data, dict):
                    raise ConfigError(f"--set: {each!r} in {name!r} is not a section")
            data[key] = leaf

    def typed(self, section: type, keys_of: KeysOf) -> dict[str, Any]:
        """The values, with the written text where a key of `section` is a text."""
        typed: dict[str, Any] = _typed(self._values, self._texts, section, keys_of)
        return typed


def _read(text: str) -> tuple[Any, Any]:
    """The values of a YAML text, and the same with each single value as it was written."""
    return _Loader(text).get_single_data(), yaml.BaseLoader(text).get_single_data()


def _typed(values: Any, texts: Any, kind: Any, keys_of: KeysOf) -> Any:
    if isinstance(values, dict) and isinstance(texts, dict):
        if kind == dict[str, str]:
            return {key: _text(value, texts.get(key)) for key, value in values.items()}
        keys = keys_of(kind) if isinstance(kind, type) and hasattr(kind, "__slots__") else {}
        return {
            key: _typed(value, texts.get(key), keys.get(key), keys_of)
            for key, value in values.items()
        }
    return _text(values, texts) if kind in (str, str | None) else values


def _text(value: Any, text: Any) -> Any:
    """The text of a single value; null, lists and maps stay what they are."""
    return text if isinstance(value, (int, float)) and isinstance(text, str) else value
