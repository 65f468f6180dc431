"""`streamgauge deploy`: what a Flink cluster of one's own needs from streamgauge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamgauge.pipeline.cli.options import Commands
from streamgauge.pipeline.console.progress import to_stderr

deploy_app = Commands(help="Prepare a Flink cluster of your own.")


@deploy_app.callback()
def deploy() -> None:
    """Prepare a Flink cluster of your own."""


@deploy_app.command(epilog="Example: streamgauge deploy patch-jar --out 00-streamgauge.jar")
def patch_jar(
    out: Annotated[Path, typer.Option(help="The jar to write.")],
) -> None:
    """Write the jar of patched Beam and Flink classes, to be first on Flink's class path.

    It is for Beam 2.70 and Flink 1.19. The original classes come from Maven, once.
    """
    from streamgauge.infra.local import jars
    from streamgauge.infra.patches.java_classes import write_patch_jar

    out.parent.mkdir(parents=True, exist_ok=True)
    write_patch_jar(jars.resolve(to_stderr).beam, out)
    print(out)
