"""The table of the fault matrix: one row per fault, printed in the end and written to files."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

FOLDER = Path("build/faults")
HEAD = (
    "fault",
    "times",
    "recovery s, median",
    "worst",
    "limit",
    "repeats",
    "missing",
    "differing bits",
    "alerts",
    "restarts",
    "verdict",
    "note",
)


@dataclass(slots=True)
class Row:
    """What a fault did, and what it left."""

    fault: str
    #: Fault (or its end, where it lasts) to the first new score that a reader sees, each time.
    recovery_s: list[float] = field(default_factory=list)
    limit_s: float | None = None
    events: int = 0
    #: Scores that were written again.
    repeats: int = 0
    #: Events without a score or dead letter, and scores that differ in any bit.
    missing: int = 0
    differing: int = 0
    alerts_equal: bool = True
    #: Times the job began anew from a checkpoint.
    restarts: int = 0
    note: str = ""
    verdict: str = "ok"

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `HEAD`."""
        times = self.recovery_s
        return (
            self.fault,
            str(len(times)) if times else "",
            f"{statistics.median(times):.1f}" if times else "",
            f"{max(times):.1f}" if times else "",
            "" if self.limit_s is None else f"{self.limit_s:g}",
            *(str(count) for count in (self.repeats, self.missing, self.differing)),
            "equal" if self.alerts_equal else "DIFFER",
            *(str(self.restarts), self.verdict, self.note),
        )


class Table:
    """All rows of this run."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        #: Whether the test that runs has added its row, good or bad.
        self.is_settled = False

    def add(self, row: Row) -> None:
        """Keep a row, and write the files anew: a run that is broken off leaves its rows."""
        self.rows.append(row)
        self.is_settled = True
        FOLDER.mkdir(parents=True, exist_ok=True)
        found = [asdict(one) for one in self.rows]
        (FOLDER / "results.json").write_text(json.dumps(found, indent=2) + "\n")
        (FOLDER / "table.md").write_text("\n".join(self.lines()) + "\n")

    def lines(self) -> list[str]:
        """The table in Markdown, its columns aligned."""
        cells = [HEAD, *(row.cells() for row in self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
        lines = [
            "| " + " | ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)) + " |"
            for line in cells
        ]
        return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]
