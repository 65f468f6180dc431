"""Finding Java, and fetching jars: once, checked, and again after a failure."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.deadlines import deadline
from streamgauge.infra.errors import DownloadError, MissingToolError
from streamgauge.infra.local import downloads, jars


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "1.8.0_402"', 8),
        ("no such thing", None),
    ],
)
def test_the_java_version_is_read(text: str, version: int | None) -> None:
    assert jars.java_version(text) == version


def test_an_old_java_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "java", "echo 'openjdk version \"11.0.2\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    with pytest.raises(MissingToolError, match=r"Java 17 or newer; .*java is version 11: install"):
        jars.find_java()


def test_a_missing_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingToolError, match="found no java in PATH"):
        jars.find_java()


def test_a_missing_maven_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "java", "echo 'openjdk version \"17.0.2\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingToolError, match="found no mvn on PATH: install Maven 3"):
        jars.resolve(cache=tmp_path / "cache")


def test_a_failed_download_shows_its_last_lines_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "java", "echo 'openjdk version \"17.0.2\"' >&2")
    program(tmp_path / "bin", "mvn", "echo 'host unreachable'; exit 1")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setattr(downloads, "_PAUSE_S", 0.0)

    with pytest.raises(DownloadError, match=r"kafka: (.|\n)*host unreachable"):
        jars.resolve(cache=tmp_path / "cache")

    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_two_at_once_fetch_once(tmp_path: Path) -> None:
    fetched, other_waits = [], threading.Event()

    def fetch(staged: Path, narrate: jars.Narrate) -> None:
        fetched.append(staged)
        other_waits.wait(deadline(10.0))

    def find() -> None:
        jars._jar_set(tmp_path, "x", "text", fetch, lambda line: other_waits.set())

    threads = [threading.Thread(target=find) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert other_waits.is_set()
    assert len(fetched) == 1


def test_another_description_is_another_folder(tmp_path: Path) -> None:
    def fetch(staged: Path, narrate: jars.Narrate) -> None:
        pass

    first = jars._jar_set(tmp_path, "x", "version 1", fetch, print)

    assert jars._jar_set(tmp_path, "x", "version 2", fetch, print) != first


def fake_jars(folder: Path, **contents: bytes) -> dict[str, str]:
    """Write jars and return the sums that a lock file would record of them."""
    for name, content in contents.items():
        (folder / f"{name}.jar").write_bytes(content)
    return jars._sums(folder)


def test_jars_with_the_recorded_sums_are_accepted(tmp_path: Path) -> None:
    jars.check_sums("kafka", tmp_path, fake_jars(tmp_path, a=b"1", b=b"2"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: (folder / "a.jar").write_bytes(b"altered"), r"a\.jar must .* got [0-9a-f]"),
        (lambda folder: (folder / "a.jar").unlink(), r"a\.jar must have .*got no such file"),
        (lambda folder: (folder / "c.jar").write_bytes(b"3"), r"c\.jar must .*has no such jar"),
    ],
)
def test_other_jars_than_the_recorded_ones_are_refused(
    tmp_path: Path, change: Callable[[Path], object], problem: str
) -> None:
    recorded = fake_jars(tmp_path, a=b"1", b=b"2")
    change(tmp_path)

    with pytest.raises(DownloadError, match=f"kafka: {problem}"):
        jars.check_sums("kafka", tmp_path, recorded)


@pytest.mark.parametrize("name", jars.SETS)
def test_every_set_has_recorded_sums(name: str) -> None:
    sums = jars.recorded_sums(name)

    assert len(sums) >= 5
    assert all(len(digest) == 64 for digest in sums.values())


@pytest.mark.parametrize("name", ["kafka", "beam"])
def test_a_comment_in_a_pom_keeps_the_cached_jars(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, original = jars._description(name), jars._pom(name).read_text()
    pom = tmp_path / "pom.xml"
    monkeypatch.setattr(jars, "_pom", lambda name: pom)

    pom.write_text(original.replace("</project>", "<!-- a remark -->\n</project>"))
    assert jars._description(name) == before
    pom.write_text(original.replace("<version>", "<version>9", 1))
    assert jars._description(name) != before


def test_a_recorded_sum_is_part_of_the_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = jars._description("flink")
    changed = tmp_path / "jars.txt"
    changed.write_text(jars.LOCK.read_text().replace(" flink/flink-dist", " flink/other-dist"))
    monkeypatch.setattr(jars, "LOCK", changed)

    assert jars._description("flink") != before


def test_a_download_that_breaks_off_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = tmp_path / "attempts"
    program(tmp_path / "bin", "mvn", f"echo x >> {attempts}; test $(wc -l < {attempts}) -ge 3")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setattr(downloads, "_PAUSE_S", 0.0)
    lines: list[str] = []
    (tmp_path / "work" / "jars").mkdir(parents=True)

    downloads.fetch_maven("kafka", jars._pom("kafka"), tmp_path / "work" / "jars", lines.append)

    assert attempts.read_text().count("x") == 3
    assert lines[1:] == [
        f"kafka: the download failed; attempt {attempt} of 4 follows" for attempt in (2, 3)
    ]


MAVEN_LINE = "Downloaded from central: https://example.org/a-1.jar (20 kB at 1 MB/s)\n"


@pytest.mark.parametrize(
    ("lines_of_maven", "text"), [([], "3 MB"), ([MAVEN_LINE, f"[INFO] {MAVEN_LINE}"], "2 jars")]
)
def test_progress_is_reported_while_a_download_runs(
    lines_of_maven: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_PROGRESS_EVERY_S", 0.01)
    (tmp_path / "part").write_bytes(bytes(3_000_000))
    progress = downloads._Progress(tmp_path)
    for line in lines_of_maven:
        progress.read(line)
    ended, lines = threading.Event(), []

    def narrate(line: str) -> None:
        lines.append(line)
        ended.set()

    downloads._report("flink", progress, narrate, ended)

    assert lines == [f"flink: {text} after 0 s"]


@pytest.mark.parametrize(
    ("own", "lent", "used"),
    [((25, 1), None, "own"), ((23, 2), (26, 0), "uv"), ((23, 2), None, "own"), (None, None, "uv")],
)
def test_a_pip_that_resumes_downloads_is_preferred(
    own: tuple[int, int] | None,
    lent: tuple[int, int] | None,
    used: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program(tmp_path, "uv", "true")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    versions = {str(tmp_path / "python"): own, str(tmp_path / "uv"): lent}
    monkeypatch.setattr(downloads, "_pip_version", lambda pip: versions[pip[0]])

    assert downloads._pip()[0] == str(tmp_path / {"own": "python", "uv": "uv"}[used])
