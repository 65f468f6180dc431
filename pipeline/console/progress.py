"""Shows the progress of a long command: a bar on a terminal, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_INTERVAL_S = 10.0
BAR_INTERVAL_S = 0.1

#: Receives lines of progress for people.
Narrate = Callable[[str], None]
#: Called with the number of things just done.
Advance = Callable[[int], None]


def to_stderr(line: str) -> None:
    """Print a line of progress on stderr; stdout is for data."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(
    title: str, total: int, narrate: Narrate = to_stderr, *, unit: str = "events"
) -> Iterator[Advance]:
    """Show the progress over `total` things; the context yields the function to advance it.

    The function may be called per event, because drawing is limited by time.
    """
    if sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _lines(title, total, narrate, unit=unit)


def _lines(title: str, total: int, narrate: Narrate, *, unit: str) -> Advance:
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
        pending, last = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal pending, last
            pending += count
            now = time.monotonic()
            if now - last >= BAR_INTERVAL_S:
                bar.advance(task, pending)
                pending, last = 0, now

        yield advance
        bar.advance(task, pending)
