"""Downloads jars through Maven and pip, with retries, progress lines and a time limit.

A download that breaks off is started again: Maven keeps the jars that are complete and resumes
the one that broke, and pip resumes where its release can.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from streamgauge.infra.errors import DownloadError, MissingToolError
from streamgauge.infra.narrate import Narrate

FLINK_PACKAGE = "apache-flink-libraries==1.19.3"
#: The jars of Flink's lib folder that a session cluster needs; the others are for SQL.
FLINK_JARS = ("flink-dist-", "log4j-1.2-api-", "log4j-api-", "log4j-core-", "log4j-slf4j-impl-")
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"
DEADLINE_S = 1800.0
ATTEMPTS = 4
#: The first release of pip that resumes a broken download.
_PIP_RESUMES = (25, 1)
_PAUSE_S = 3.0
_PROGRESS_EVERY_S = 10.0
_TAIL_LINES = 15


def fetch_maven(name: str, pom: Path, staged: Path, narrate: Narrate) -> None:
    """Fetch the runtime dependencies of a POM into the folder `staged`.

    Raises:
        MissingToolError: Maven is not installed.
        DownloadError: every attempt failed.
    """
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingToolError(
            f"Maven fetches the jars of {name} once; found no mvn on PATH: install Maven 3"
        )
    narrate(f"{name}: fetching jars through Maven (once)")
    # A copy, because Maven must not write beside the installed package.
    copy = Path(shutil.copy(pom, staged.with_name("pom.xml")))
    command = [maven, "-B", "-f", str(copy), MAVEN_GOAL, "-Dmaven.wagon.http.retryHandler.count=5"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={staged}"]
    _download(command, name, staged, narrate)


def fetch_flink(staged: Path, narrate: Narrate) -> None:
    """Fetch Flink's jars from the Python package index into the folder `staged`.

    Raises:
        MissingToolError: neither pip nor uv is installed.
        DownloadError: every attempt failed.
    """
    narrate("flink: fetching jars from the Python package index, 230 MB (once)")
    archives, scratch = staged.with_name("flink"), staged.with_name("scratch")
    scratch.mkdir()
    command = [*_pip(), "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    command += ["--retries", "10", "--timeout", "60", "--no-deps", "--no-binary", ":all:"]
    command += ["--dest", str(archives), FLINK_PACKAGE]
    _download(command, "flink", scratch, narrate, {"TMPDIR": str(scratch)})
    (archive,) = archives.iterdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if path.parent.name == "lib" and path.name.startswith(FLINK_JARS):
                member.name = path.name
                tar.extract(member, staged, filter="data")


def _pip() -> list[str]:
    """Return a command that runs pip: one that resumes downloads, if this machine has one."""
    own = [sys.executable, "-m", "pip"]
    version = _pip_version(own)
    if version is not None and version >= _PIP_RESUMES:
        return own
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is not None:
        newest = f"pip>={'.'.join(map(str, _PIP_RESUMES))}"
        lent = [uv, "run", "--quiet", "--no-project", "--python", sys.executable, "--with", newest]
        lent += ["python", "-m", "pip"]
        if version is None or _pip_version(lent) is not None:
            return lent
    if version is None:
        raise MissingToolError(
            "Flink's jars come as a Python package; found neither pip in this environment nor uv"
            f" on PATH: run `{sys.executable} -m ensurepip`"
        )
    return own


def _pip_version(pip: list[str]) -> tuple[int, int] | None:
    ran = subprocess.run([*pip, "--version"], capture_output=True, text=True)
    match = re.match(r"pip (\d+)\.(\d+)", ran.stdout)
    return (int(match.group(1)), int(match.group(2))) if match else None


def _download(
    command: list[str],
    name: str,
    folder: Path,
    narrate: Narrate,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a download command until it succeeds, `ATTEMPTS` times at most."""
    end = time.monotonic() + DEADLINE_S
    for attempt in range(1, ATTEMPTS + 1):
        code, lines = _run(command, name, folder, narrate, end=end, environment=environment or {})
        if code == 0:
            return
        if attempt < ATTEMPTS and time.monotonic() < end:
            narrate(f"{name}: the download failed; attempt {attempt + 1} of {ATTEMPTS} follows")
            time.sleep(_PAUSE_S)
    tail = "\n".join(f"    {line}" for line in lines)
    raise DownloadError(
        f"{name}: fetching jars failed (exit {code}); check the network and run `streamgauge up`"
        f" again, Maven keeps the jars that are complete. The last lines were:\n{tail}"
    )


def _run(
    command: list[str],
    name: str,
    folder: Path,
    narrate: Narrate,
    *,
    end: float,
    environment: Mapping[str, str],
) -> tuple[int, list[str]]:
    """Run one attempt; return its exit code and its last lines."""
    lines: list[str] = []
    progress, ended = _Progress(folder), threading.Event()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    ) as process:
        timer = threading.Timer(max(0.0, end - time.monotonic()), process.kill)
        watch = threading.Thread(target=_report, args=(name, progress, narrate, ended))
        timer.start()
        watch.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines = [*lines[1 - _TAIL_LINES :], line.rstrip()]
                progress.read(line)
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
            ended.set()
            watch.join()
    return process.returncode, lines


class _Progress:
    """How much of a download has arrived: jars if the tool names them, bytes if not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jars = 0

    def read(self, line: str) -> None:
        """Count the jars that Maven reports."""
        if line.removeprefix("[INFO] ").startswith("Downloaded from") and ".jar " in line:
            self._jars += 1

    def text(self) -> str:
        """Describe the progress in a few words."""
        return f"{self._jars} jars" if self._jars else f"{_size_bytes(self._folder) / 1e6:.0f} MB"


def _report(name: str, progress: _Progress, narrate: Narrate, ended: threading.Event) -> None:
    """Narrate how much of a download has arrived, until it has ended."""
    start = time.monotonic()
    while not ended.wait(_PROGRESS_EVERY_S):
        narrate(f"{name}: {progress.text()} after {time.monotonic() - start:.0f} s")


def _size_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # a temporary file that has been moved since
            continue
    return total
