"""Creates an environment for each peer under `build/bench/env`, from exact pins."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from streamgauge.infra.local.downloads import MAVEN_GOAL

PEERS = Path(__file__).parent / "peers"
INSTALL_S_MAX = 900.0


def prepare(peer: str, root: Path) -> Path:
    """Create the environment of a peer if it is missing; returns its folder.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be created.
    """
    source, folder = PEERS / peer, root / peer
    pins = [path for name in ("requirements.txt", "pom.xml") if (path := source / name).exists()]
    wanted = "".join(path.read_text() for path in (*pins, *sorted(source.rglob("*.java"))))
    recorded = folder / "made-from"
    if recorded.exists() and recorded.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if (source / "requirements.txt").exists():
        uv = str(Path(sys.executable).with_name("uv"))
        _run(uv, "venv", "-q", "--allow-existing", "--python", sys.executable, str(folder))
        python = str(folder / "bin" / "python")
        _run(uv, "pip", "install", "-q", "--python", python, "-r", str(source / "requirements.txt"))
    if (source / "pom.xml").exists():
        # A copy, because Maven writes beside what it reads.
        pom = shutil.copy(source / "pom.xml", folder / "pom.xml")
        jars = f"-DoutputDirectory={folder / 'jars'}"
        _run("mvn", "-q", "-B", "-f", str(pom), MAVEN_GOAL, "-DincludeScope=runtime", jars)
    if sources := [str(path) for path in source.rglob("*.java")]:
        classes = str(folder / "classes")
        _run("javac", "-nowarn", "-cp", f"{folder}/jars/*", "-d", classes, *sources)
    recorded.write_text(wanted)
    return folder


def _run(*command: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S_MAX)
    if ran.returncode:
        tail = " | ".join((ran.stderr or ran.stdout).strip().splitlines()[-3:])
        raise OSError(f"{command[0]} ended with {ran.returncode}: {tail}")
