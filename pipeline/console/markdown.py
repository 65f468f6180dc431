"""Replaces the part of a Markdown page between two markers."""

from __future__ import annotations

from collections.abc import Iterable

from streamgauge.models.errors import ConfigError


def filled_in(page: str, begin: str, end: str, *, lines: Iterable[str]) -> str:
    r"""`page` with `lines` between its markers.

    >>> filled_in("a <b> old <e> z", "<b>", "<e>", lines=["new"])
    'a <b>\nnew\n<e> z'

    Raises:
        ConfigError: a marker is missing.
    """
    head, begin_marker, rest = page.partition(begin)
    _, end_marker, tail = rest.partition(end)
    if not begin_marker or not end_marker:
        raise ConfigError(f"page: it must hold {begin} and {end}, each once")
    return "\n".join([head + begin, *lines, end]) + tail
