"""The patched Java classes: in a JVM, and as bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fixtures.deadlines import deadline
from streamgauge.infra.errors import PatchError
from streamgauge.infra.local import jars
from streamgauge.infra.patches import java_classes
from streamgauge.pipeline.cli.main import app

CHECK = Path(__file__).with_name("PatchedClasses.java")
PATCHED = [
    "other interfaces reached: false",
    "jars to stage: 0",
    "list: [1, 2, 3]",
    "bytes held: 0",
]


@pytest.fixture(scope="module")
def beam() -> Path:
    """Beam's jars; `make jars` fetches them before the tests start."""
    if shutil.which("javac") is None:
        pytest.skip("no Java compiler on this machine")
    return jars.resolve().beam


def run_check(classpath: str) -> list[str]:
    java = jars.find_java()
    command = [java, "-XX:TieredStopAtLevel=1", "-cp", classpath, str(CHECK)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=deadline(60))
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_the_patched_classes_load_and_do_what_they_are_for(beam: Path, tmp_path: Path) -> None:
    patch = tmp_path / "patch.jar"
    java_classes.write_patch_jar(beam, patch)

    assert run_check(os.pathsep.join([str(patch), jars.classpath(beam)])) == PATCHED


def test_without_the_patches_every_line_but_the_list_differs(beam: Path) -> None:
    own = [path for path in sorted(beam.glob("*.jar")) if path.name != java_classes.JAR_NAME]

    lines = run_check(os.pathsep.join(map(str, own)))

    assert [ours == theirs for ours, theirs in zip(lines, PATCHED, strict=True)] == [
        *(False, False, True, False)
    ]


def test_the_same_originals_give_the_same_jar(beam: Path, tmp_path: Path) -> None:
    for name in ("a.jar", "b.jar"):
        java_classes.write_patch_jar(beam, tmp_path / name)

    assert (tmp_path / "a.jar").read_bytes() == (tmp_path / "b.jar").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.jar") as jar:
        assert {entry.date_time[0] for entry in jar.infolist()} == {1980}, "no current time"


def test_the_command_writes_the_jar_and_prints_its_path(beam: Path, tmp_path: Path) -> None:
    out = tmp_path / "lib" / "patch.jar"

    ran = CliRunner().invoke(app, ["deploy", "patch-jar", "--out", str(out)])

    assert (ran.exit_code, ran.stdout.strip()) == (0, str(out))
    with zipfile.ZipFile(out) as jar:
        assert set(jar.namelist()) == set(java_classes._SHA256)


def test_an_unknown_class_of_beam_is_refused(tmp_path: Path) -> None:
    for name in ("beam-sdks-java-core-9.jar", "flink-runtime-1.99.jar"):
        with zipfile.ZipFile(tmp_path / name, "w") as jar:
            for changed in java_classes._SHA256:
                jar.writestr(changed, b"other")

    with pytest.raises(PatchError, match="must have SHA-256 .*adapt the patch to another release"):
        java_classes.write_patch_jar(tmp_path, tmp_path / "patch.jar")


def test_a_method_is_made_longer_by_what_is_inserted() -> None:
    head = b"\x01\x00\x07" + (70).to_bytes(4, "big") + bytes.fromhex("0003 0005")
    body = java_classes._LIST_CODE
    tail = java_classes._LOOP_END + java_classes._RETURN
    body += bytes(java_classes._LIST_CODE_SIZE - len(body) - len(tail))
    original = head + (50).to_bytes(4, "big") + body + tail + b"rest"

    changed = java_classes.release_buffer(original)

    added = len(java_classes._RELEASE)
    assert changed == (
        b"\x01\x00\x07" + (70 + added).to_bytes(4, "big") + bytes.fromhex("0003 0005")
        + (50 + added).to_bytes(4, "big") + body + java_classes._LOOP_END + java_classes._RELEASE
        + java_classes._RETURN + b"rest"
    )  # fmt: skip
