"""The jars of broker, Flink and job server: fetched once, checked, and kept in a cache folder.

The name of a set's folder contains a digest of its POM, of the recorded checksums and of the
patched classes. A new version therefore gets a new folder, and an older release of streamgauge
keeps using its own. A set is prepared in a temporary folder and renamed under a lock, so a
reader sees all of it or nothing.

    python -m streamgauge.infra.local.jars          fetches what is missing
    python -m streamgauge.infra.local.jars --lock   records the checksums in infra/locks/jars.txt
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from streamgauge.infra.errors import DownloadError, InfraError, MissingToolError
from streamgauge.infra.local import downloads
from streamgauge.infra.narrate import Narrate, silent
from streamgauge.infra.patches import java_classes

JAVA_VERSION_MIN = 17
#: Recorded SHA-256 sums: "<sum> <set>/<file>" per line.
LOCK = Path(__file__).parents[1] / "locks" / "jars.txt"
SETS = ("kafka", "flink", "beam")


@dataclass(frozen=True, slots=True)
class Jars:
    """The folders of the three sets of jars, and the Java to run them with."""

    java: str
    kafka: Path
    flink: Path
    beam: Path


def resolve(narrate: Narrate = silent, cache: Path | None = None) -> Jars:
    """Find the jars, fetching what is missing.

    Args:
        narrate: receives one line per step, only when something must be fetched.
        cache: folder to keep the jars in; `None` is `default_cache()`.

    Raises:
        MissingToolError: no Java 17, or a download is needed and its tool is missing.
        DownloadError: a download failed, or a jar is not the recorded one.
        PatchError: a class to patch is not the one that the patch was written for.
    """
    java = find_java()
    cache = cache or default_cache()
    folders = {
        name: _jar_set(cache, name, _description(name), _fetch_and_check(name), narrate)
        for name in SETS
    }
    return Jars(java=java, **folders)


def default_cache() -> Path:
    """Return the cache folder, by the XDG rule."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "streamgauge"


def find_java() -> str:
    """Return the path of a Java that is new enough: `JAVA_HOME` first, then PATH."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    wanted = f"the local cluster needs Java {JAVA_VERSION_MIN} or newer"
    fix = f"install a JDK or JRE {JAVA_VERSION_MIN} and put it on PATH, or set JAVA_HOME to it"
    if java is None:
        searched = f"JAVA_HOME={home}" if home else "PATH"
        raise MissingToolError(f"{wanted}; found no java in {searched}: {fix}")
    ran = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    version = java_version(ran.stderr)
    if version is None or version < JAVA_VERSION_MIN:
        raise MissingToolError(f"{wanted}; {java} is version {version or 'unknown'}: {fix}")
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


def recorded_sums(name: str) -> dict[str, str]:
    """Read the recorded SHA-256 sum of every jar of a set, by file name."""
    lines = (line.split() for line in LOCK.read_text().splitlines() if not line.startswith("#"))
    pairs = ((path.partition("/"), digest) for digest, path in lines)
    return {file: digest for (owner, _, file), digest in pairs if owner == name}


def check_sums(name: str, folder: Path, recorded: Mapping[str, str]) -> None:
    """Compare the jars in a folder with their recorded sums.

    Raises:
        DownloadError: a jar is missing, unexpected, or differs.
    """
    fetched = _sums(folder)
    for file in sorted(fetched.keys() | recorded.keys()):
        wanted, digest = recorded.get(file), fetched.get(file)
        if wanted != digest:
            raise DownloadError(
                f"{name}: {file} must have the SHA-256 recorded in infra/locks/jars.txt,"
                f" {wanted or 'which has no such jar'}; got {digest or 'no such file'}: a broken"
                " or altered download; clear it from Maven's repository and try again. After a"
                " change of versions run `make lock-jars`"
            )


def lock(narrate: Narrate = silent) -> None:
    """Fetch all jars and record their sums; needed after a change of versions."""
    lines = ["# SHA-256 of every jar that the local cluster runs; `make lock-jars` writes this."]
    for name in SETS:
        with tempfile.TemporaryDirectory() as work:
            staged = Path(work) / "jars"
            staged.mkdir()
            _fetch(name, staged, narrate)
            lines += [f"{digest} {name}/{file}" for file, digest in sorted(_sums(staged).items())]
    LOCK.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Fetch the jars, or record their sums."""
    parser = argparse.ArgumentParser(prog="streamgauge.infra.local.jars")
    parser.add_argument("--lock", action="store_true", help="record the sums of all jars")
    arguments = parser.parse_args()
    try:
        if arguments.lock:
            lock(_to_stderr)
        else:
            resolve(_to_stderr)
    except InfraError as error:
        sys.exit(f"jars: {error}")


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _description(name: str) -> str:
    """Describe what a set contains; comments and source text are no part of it."""
    sums = "".join(f"{file} {digest}\n" for file, digest in sorted(recorded_sums(name).items()))
    if name == "flink":
        return f"{downloads.FLINK_PACKAGE}\n{sums}"
    pom = ElementTree.canonicalize(from_file=str(_pom(name)), strip_text=True)
    patches = java_classes.fingerprint() if name == "beam" else ""
    return f"{pom}\n{sums}{patches}"


def _pom(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.xml")


def _fetch(name: str, staged: Path, narrate: Narrate) -> None:
    if name == "flink":
        downloads.fetch_flink(staged, narrate)
    else:
        downloads.fetch_maven(name, _pom(name), staged, narrate)


def _fetch_and_check(name: str) -> Callable[[Path, Narrate], None]:
    def fetch(staged: Path, narrate: Narrate) -> None:
        _fetch(name, staged, narrate)
        check_sums(name, staged, recorded_sums(name))
        if name == "beam":
            java_classes.write_patch_jar(staged, staged / java_classes.JAR_NAME)

    return fetch


def _sums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.jar")
    }


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


if __name__ == "__main__":
    main()
