"""Finding Java, fetching jars once, and the changed classes of Beam."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path

import pytest

from streamgauge.infra.errors import DownloadError, MissingToolError
from streamgauge.infra.local import jars
from streamgauge.infra.patches import java_classes


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

    with pytest.raises(DownloadError, match=r"kafka: (.|\n)*host unreachable"):
        jars.resolve(cache=tmp_path / "cache")

    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_two_at_once_fetch_once(tmp_path: Path) -> None:
    fetched, other_waits = [], threading.Event()

    def fetch(staged: Path, narrate: jars.Narrate) -> None:
        fetched.append(staged)
        other_waits.wait(10.0)

    def find() -> None:
        jars._jar_set(tmp_path, "x", "text", fetch, lambda said: other_waits.set())

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


def test_an_unknown_class_of_beam_is_refused(tmp_path: Path) -> None:
    for name in ("beam-sdks-java-core-9.jar", "flink-runtime-1.99.jar"):
        with zipfile.ZipFile(tmp_path / name, "w") as jar:
            for changed in java_classes._SHA256:
                jar.writestr(changed, b"other")

    with pytest.raises(DownloadError, match="another version of Beam needs"):
        java_classes.add_patch_jar(tmp_path)


def test_a_method_is_made_longer_by_what_is_put_in() -> None:
    head = b"\x01\x00\x07" + (70).to_bytes(4, "big") + bytes.fromhex("0003 0005")
    body = java_classes._LIST_CODE
    tail = java_classes._LOOP_END + java_classes._RETURN
    body += bytes(java_classes._LIST_CODE_BYTES - len(body) - len(tail))
    original = head + (50).to_bytes(4, "big") + body + tail + b"rest"

    changed = java_classes.let_go(original)

    added = len(java_classes._LET_GO)
    assert changed == (
        b"\x01\x00\x07" + (70 + added).to_bytes(4, "big") + bytes.fromhex("0003 0005")
        + (50 + added).to_bytes(4, "big") + body + java_classes._LOOP_END + java_classes._LET_GO
        + java_classes._RETURN + b"rest"
    )  # fmt: skip
