"""Pages whose tables are written by a command, between two markers."""

from __future__ import annotations

from collections.abc import Iterable

from streamgauge.models.errors import ConfigError


def filled_in(page: str, begin: str, end: str, lines: Iterable[str]) -> str:
    r"""`page` with `lines` in place of what stood between its markers.

    >>> filled_in("a <b> old <e> z", "<b>", "<e>", ["new"])
    'a <b>\nnew\n<e> z'

    Raises:
        ConfigError: a marker is missing.
    """
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ConfigError(f"page: it must hold {begin} and {end}, each once")
    return "\n".join([head + begin, *lines, end]) + tail
