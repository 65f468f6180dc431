"""Shows how far a long command is: a bar on a terminal, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_INTERVAL_S = 10.0
BAR_INTERVAL_S = 0.1

Narrate = Callable[[str], None]
Advance = Callable[[int], None]


def to_stderr(line: str) -> None:
    """Narrate on stderr; stdout is for data."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(
    title: str, total: int, narrate: Narrate = to_stderr, unit: str = "events"
) -> Iterator[Advance]:
    """Count `total` things; call what it yields with each number done.

    Cheap enough to be called per event: what is drawn is bounded by time.
    """
    if sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _lines(title, total, narrate, unit)


def _lines(title: str, total: int, narrate: Narrate, unit: str) -> Advance:
    began = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= LINE_INTERVAL_S:
            last = now
            rate = done / (now - began)
            narrate(f"{title}: {done:,} of {total:,} {unit} ({done / total:.0%}), {rate:,.0f}/s")

    return advance


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        waiting, last = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal waiting, last
            waiting += count
            now = time.monotonic()
            if now - last >= BAR_INTERVAL_S:
                bar.advance(task, waiting)
                waiting, last = 0, now

        yield advance
        bar.advance(task, waiting)
