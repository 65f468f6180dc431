"""The generated pages say what the code says, and name every setting and every command."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fixtures.paths import DOCS
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline import config
from streamgauge.pipeline.cli import reference


@pytest.mark.parametrize("name", [reference.CONFIGURATION, reference.COMMANDS])
def test_generated_pages_are_up_to_date(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == reference.pages(DOCS)[name], "run: make docs"


def _settings() -> list[reference.Setting]:
    return [setting for section in reference.sections() for setting in section.settings]


@pytest.mark.parametrize(
    "key", ["artifact", "alerts.per_entity_day", "scoring.shards", "input.limits.future_s_max"]
)
def test_the_page_has_settings_of_every_depth(key: str) -> None:
    assert key in {setting.key for setting in _settings()}


@pytest.mark.parametrize("setting", _settings(), ids=lambda setting: setting.key)
def test_every_documented_key_is_read_from_a_file(setting: reference.Setting) -> None:
    *sections, key = setting.key.split(".")
    tree: dict[str, Any] = {key: {"no such": ["type"]}}
    for name in reversed(sections):
        tree = {name: tree}

    with pytest.raises(ConfigError) as refused:
        config.from_dict({"artifact": "artifact", **tree})

    assert "unknown key" not in str(refused.value)


def test_a_setting_without_a_meaning_is_refused() -> None:
    with pytest.raises(ConfigError, match="Bare.size must have a #: line"):
        list(reference._settings(Bare, ""))


def test_a_part_that_is_no_section_is_flattened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_is_section", lambda key: False)

    keys = [setting.key for setting in reference._settings(Whole, "whole.")]

    assert keys == ["whole.size", "whole.name"]


@dataclasses.dataclass
class Bare:
    """A setting without a meaning."""

    size: int = 1


@dataclasses.dataclass
class Part:
    """Settings of a part."""

    #: Size in events.
    size: int = 1


@dataclasses.dataclass
class Whole:
    """A part and a setting."""

    part: Part
    #: Name
    #: in two lines.
    name: str = "whole"
