"""Makes the pictures of the README from a real run of the demo: `python docs/pictures/make.py`.

It needs Chromium (or the browser that `BROWSER` names) for the report. The terminal is an SVG that
rich draws from what `streamgauge demo` printed.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEMO = ROOT / "build" / "demo"
BYTES_MAX = 300_000
#: Alerts shown in the terminal, and the width of the longest line.
ALERTS_SHOWN, COLUMNS = 9, 120
BROWSER = os.environ.get("BROWSER", "chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def main() -> None:
    """Run the demo, draw the terminal, photograph the report at two widths."""
    terminal(HERE / "terminal.svg", demo())
    report(HERE / "report.png", width=1100, height=900)
    report(HERE / "report-phone.png", width=390, height=900)
    for picture in HERE.glob("*.[ps][nv]g"):
        assert picture.stat().st_size < BYTES_MAX, picture


def demo() -> list[str]:
    """The lines that the demo prints, in order."""
    command = [sys.executable, "-m", "streamgauge.pipeline.cli.main", "demo", "--out", str(DEMO)]
    run = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return run.stdout.splitlines()


def terminal(out: Path, lines: list[str]) -> None:
    """Draw the first alerts and everything after the last one."""
    alert = re.compile(r"\d{4}-\d\d-\d\d ")
    is_alert = [bool(alert.match(line)) for line in lines]
    first, last = is_alert.index(True), len(lines) - 1 - is_alert[::-1].index(True)
    shown = [line for line in lines[: first + ALERTS_SHOWN] if not line.startswith("scoring")]
    shown += ["…", *lines[last + 1 :]]
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, color_system="truecolor")
        console.print(Text("$ make demo", style="bold"))
        for line in shown:
            text = line.replace(str(ROOT) + os.sep, "")
            styled = Text(text, overflow="ellipsis", no_wrap=True)
            styled.highlight_regex(r"\bwarning\b", "yellow")
            styled.highlight_regex(r"\bcritical\b", "bold red")
            styled.highlight_regex(r"machine-\d-\d", "cyan")
            console.print(styled, no_wrap=True, overflow="ellipsis")
    svg = console.export_svg(title="streamgauge demo")
    # Fonts are not fetched: the reader's own monospaced font is used.
    out.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")


def report(out: Path, width: int, height: int) -> None:
    """Photograph the top of the report; a frame gives a width below the browser's least one."""
    page = (DEMO / "report.html").as_uri()
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder, "frame.html")
        frame.write_text(
            f'<body style="margin:0"><iframe src="{page}" '
            f'style="border:0;width:{width}px;height:{height}px"></iframe>'
        )
        profile = f"--user-data-dir={folder}/profile"
        size = f"--window-size={width},{height}"
        picture = f"--screenshot={out}"
        subprocess.run(
            [BROWSER, *FLAGS, profile, size, picture, frame.as_uri()],
            check=True, timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


if __name__ == "__main__":
    main()
