"""The command `streamgauge`, also as `python -m streamgauge COMMAND`.

It imports the standard library only, so that an installation without extras reports in one line
which extra is missing.
"""

from __future__ import annotations

import sys

from streamgauge import __version__


def main() -> None:
    """Run one command and exit with its exit code."""
    if sys.argv[1:] == ["--version"]:
        print(f"streamgauge {__version__}")
        return
    try:
        from streamgauge.pipeline.cli.main import main as run
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "streamgauge"):
            raise
        print(
            f"streamgauge: needs {library}, which is not installed; "
            "`pip install 'streamgauge[run]'` installs it",
            file=sys.stderr,
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
