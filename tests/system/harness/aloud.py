"""Lines that a long test says while it runs, past what pytest captures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Narrate = Callable[[str], None]


def narrator(config: pytest.Config) -> Narrate:
    """A function that writes a line to the terminal."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    capture = config.pluginmanager.getplugin("capturemanager")

    def narrate(line: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(line)

    return narrate
