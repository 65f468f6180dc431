"""Planting bugs: each breaks one thing in the core for as long as its context is open.

A simulator that never finds anything proves nothing. Each entry of `BUGS` is a mistake
that could be made, and the simulator must find it within few seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

BUGS: dict[str, Callable[[], AbstractContextManager[None]]] = {}


def bug(plant: Callable[[], tuple[Any, str, Any]]) -> Callable[[], tuple[Any, str, Any]]:
    """Register a function that names what to replace: (owner, attribute, by what)."""

    @contextmanager
    def planted() -> Iterator[None]:
        owner, name, instead = plant()
        before = owner.__dict__[name]
        setattr(owner, name, instead)
        try:
            yield
        finally:
            setattr(owner, name, before)

    BUGS[plant.__name__] = planted
    return plant
