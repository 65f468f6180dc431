"""The table of the fault matrix: one row per fault, printed at the end and written to files."""

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
    """The effects of one fault."""

    fault: str
    #: From each fault, or its end if it lasts, to the first new score that a reader sees.
    recovery_s: list[float] = field(default_factory=list)
    limit_s: float | None = None
    events: int = 0
    #: Scores and dead letters that were written more than once.
    repeats: int = 0
    #: Events without a score or dead letter, and scores that differ in any bit.
    missing: int = 0
    differing: int = 0
    alerts_equal: bool = True
    #: How often the job restarted from a checkpoint.
    restarts: int = 0
    note: str = ""
    verdict: str = "ok"

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of `HEAD`."""
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
        #: Whether the current test has added its row.
        self.is_settled = False

    def add(self, row: Row) -> None:
        """Add a row and rewrite the files, so that an interrupted run leaves its rows."""
        self.rows.append(row)
        self.is_settled = True
        FOLDER.mkdir(parents=True, exist_ok=True)
        rows = [asdict(row) for row in self.rows]
        (FOLDER / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
        (FOLDER / "table.md").write_text("\n".join(self.lines()) + "\n")

    def lines(self) -> list[str]:
        """Return the table in Markdown, with aligned columns."""
        cells = [HEAD, *(row.cells() for row in self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
        lines = [
            "| " + " | ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)) + " |"
            for line in cells
        ]
        return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]
