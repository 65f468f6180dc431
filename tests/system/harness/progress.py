"""Progress lines of a long test, printed although pytest captures output."""

from __future__ import annotations

import pytest

from streamgauge.infra.narrate import Narrate


def narrator(config: pytest.Config) -> Narrate:
    """Return a function that writes a line to the terminal."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    capture = config.pluginmanager.getplugin("capturemanager")

    def narrate(line: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(line)

    return narrate
