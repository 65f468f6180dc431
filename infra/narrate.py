"""How long-running functions report progress: they call a function with one line of text."""

from __future__ import annotations

from collections.abc import Callable

Narrate = Callable[[str], None]


def silent(text: str) -> None:
    """Report nothing."""
