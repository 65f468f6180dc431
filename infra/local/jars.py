"""The jars of broker, Flink and job server: fetched once, then found in a cache folder.

Each set is a folder named after the digest of what describes it, so a changed version is
a new folder and an old release goes on using its own. A set is staged beside its place
and renamed, under a lock: a reader sees all of it or nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamgauge.infra.errors import DownloadError, MissingToolError
from streamgauge.infra.patches.java_classes import add_patch_jar

Narrate = Callable[[str], None]

JAVA_VERSION_MIN = 17
FLINK_PACKAGE = "apache-flink-libraries==1.19.3"
#: What a session cluster needs of Flink's lib folder; the rest is SQL.
FLINK_JARS = ("flink-dist-", "log4j-1.2-api-", "log4j-api-", "log4j-core-", "log4j-slf4j-impl-")
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"
DOWNLOAD_DEADLINE_S = 1800.0


@dataclass(frozen=True, slots=True)
class Jars:
    """Where the three sets of jars lie, and the Java to run them with."""

    java: str
    kafka: Path
    flink: Path
    beam: Path


def resolve(narrate: Narrate = lambda text: None, cache: Path | None = None) -> Jars:
    """Find the jars, fetching what is missing.

    Args:
        narrate: told one line per step, only when there is something to fetch.
        cache: folder to keep the jars in; `None` is `default_cache()`.

    Raises:
        MissingToolError: no Java 17, or a download is needed and its tool is missing.
        DownloadError: a download failed.
    """
    java = find_java()
    cache = cache or default_cache()
    return Jars(
        java=java,
        kafka=_jar_set(cache, "kafka", _settings("kafka.xml"), _fetch_kafka, narrate),
        flink=_jar_set(
            cache, "flink", " ".join((FLINK_PACKAGE, *FLINK_JARS)), _fetch_flink, narrate
        ),
        beam=_jar_set(cache, "beam", _settings("beam.xml", "beam_patch.py"), _fetch_beam, narrate),
    )


def default_cache() -> Path:
    """Return the cache folder, by the XDG rule."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "streamgauge"


def find_java() -> str:
    """Return the path of a Java that is new enough: `JAVA_HOME` first, then PATH."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    wanted = f"the local cluster needs Java {JAVA_VERSION_MIN} or newer"
    mend = f"install a JDK or JRE {JAVA_VERSION_MIN} and put it on PATH, or set JAVA_HOME to it"
    if java is None:
        place = f"JAVA_HOME={home}" if home else "PATH"
        raise MissingToolError(f"{wanted}; found no java in {place}: {mend}")
    ran = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    version = java_version(ran.stderr)
    if version is None or version < JAVA_VERSION_MIN:
        raise MissingToolError(f"{wanted}; {java} is version {version or 'unknown'}: {mend}")
    return java


def java_version(text: str) -> int | None:
    """Read the major version out of `java -version`.

    >>> java_version('openjdk version "17.0.15" 2025-04-15')
    17
    >>> java_version('java version "1.8.0_402"')
    8
    """
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else None


def classpath(*folders: Path) -> str:
    """Join the jars of folders in a fixed order (`*` leaves the order to the JVM)."""
    return os.pathsep.join(str(jar) for folder in folders for jar in sorted(folder.glob("*.jar")))


def _settings(*names: str) -> str:
    return "".join(Path(__file__).with_name(name).read_text() for name in names)


def _jar_set(
    cache: Path,
    name: str,
    description: str,
    fetch: Callable[[Path, Narrate], None],
    narrate: Narrate,
) -> Path:
    folder = cache / f"{name}-{hashlib.sha256(description.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{name}.lock", narrate), tempfile.TemporaryDirectory(dir=cache) as work:
        if not folder.is_dir():  # another process may have made it while we waited
            staged = Path(work) / "jars"
            staged.mkdir()
            fetch(staged, narrate)
            staged.rename(folder)
    return folder


@contextmanager
def _locked(path: Path, narrate: Narrate) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            narrate(f"waiting for another streamgauge that downloads ({path.stem})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch_kafka(staged: Path, narrate: Narrate) -> None:
    _fetch_maven("kafka", staged, narrate)


def _fetch_beam(staged: Path, narrate: Narrate) -> None:
    _fetch_maven("beam", staged, narrate)
    add_patch_jar(staged)


def _fetch_maven(name: str, staged: Path, narrate: Narrate) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingToolError(
            f"the jars of {name} come through Maven once; found no mvn on PATH: install Maven 3"
        )
    narrate(f"{name}: fetching jars through Maven (once)")
    # A copy: Maven must not write beside the installed package.
    pom = Path(shutil.copy(Path(__file__).with_name(f"{name}.xml"), staged.with_name("pom.xml")))
    command = [maven, "-B", "-f", str(pom), MAVEN_GOAL]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={staged}"]
    _run_download(command, name, narrate)


def _fetch_flink(staged: Path, narrate: Narrate) -> None:
    narrate("flink: fetching jars from the Python package index, 230 MB (once)")
    downloads = staged.with_name("flink")
    command = [*_pip(), "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    command += ["--no-deps", "--no-binary", ":all:", "--dest", str(downloads), FLINK_PACKAGE]
    _run_download(command, "flink", narrate)
    (archive,) = downloads.iterdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if path.parent.name == "lib" and path.name.startswith(FLINK_JARS):
                member.name = path.name
                tar.extract(member, staged, filter="data")


def _pip() -> list[str]:
    """Return a command that runs pip: this environment's, or one that uv lends."""
    ran = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True)
    if ran.returncode == 0:
        return [sys.executable, "-m", "pip"]
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise MissingToolError(
            "Flink's jars come as a Python package; found neither pip in this environment nor uv"
            f" on PATH: run `{sys.executable} -m ensurepip`"
        )
    lend = [uv, "run", "--quiet", "--no-project", "--python", sys.executable, "--with", "pip"]
    return [*lend, "python", "-m", "pip"]


def _run_download(command: list[str], name: str, narrate: Narrate) -> None:
    """Run a download to its end, saying how far it is."""
    lines: list[str] = []
    fetched = 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        timer = threading.Timer(DOWNLOAD_DEADLINE_S, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines = [*lines[-14:], line.rstrip()]
                if line.startswith("Downloaded from") and ".jar " in line:
                    fetched += 1
                    if fetched % 25 == 0:
                        narrate(f"{name}: {fetched} jars")
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
    if process.returncode != 0:
        tail = "\n".join(f"    {line}" for line in lines)
        raise DownloadError(
            f"{name}: fetching jars failed (exit {process.returncode}); check the network and run"
            f" `streamgauge up` again, what came so far is kept. The last lines were:\n{tail}"
        )
