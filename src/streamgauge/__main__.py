"""Runs the command line: `python -m streamgauge COMMAND`."""

from streamgauge.pipeline.cli.main import main

main()
