from __future__ import annotations

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fixtures.artifacts import make_artifact, make_forecaster
from streamgauge.models.artifacts import artifact
from streamgauge.models.artifacts.artifact import MANIFEST, STATISTICS, WEIGHTS, digest_of
from streamgauge.models.errors import ArtifactError, ConfigError


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("artifact") / "original")


@pytest.fixture
def copy(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def edit(directory: Path, **changes) -> None:
    manifest = json.loads((directory / MANIFEST).read_bytes())
    manifest.update(changes)
    (directory / MANIFEST).write_bytes(artifact.canonical(manifest))


def test_what_was_written_is_loaded(original):
    loaded, written = artifact.load(original), make_forecaster()
    assert loaded.schema == written.schema
    assert loaded.washout_events == 20
    assert loaded.forecaster.spec == written.spec
    for name, array in written.weights.items():
        assert np.array_equal(loaded.forecaster.weights[name], array), name
    assert np.array_equal(loaded.forecaster.linear.entity, written.linear.entity)


def test_version_is_the_digest_of_the_manifest(original):
    manifest = json.loads((original / MANIFEST).read_bytes())
    assert artifact.load(original).digest == digest_of(manifest)


def test_same_content_has_the_same_version_and_other_weights_another(original, tmp_path):
    same = make_artifact(tmp_path / "same")
    other = make_artifact(tmp_path / "other", seed=1)
    assert artifact.load(same).digest == artifact.load(original).digest
    assert artifact.load(other).digest != artifact.load(original).digest


def test_another_version_than_promised_is_refused(original):
    with pytest.raises(ArtifactError, match=r"expected version 0000; found [0-9a-f]{64}"):
        artifact.load(original, expect_digest="0000")


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, STATISTICS])
def test_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=f"expected a readable file {name}"):
        artifact.load(copy)


@pytest.mark.parametrize("name", [WEIGHTS, STATISTICS])
def test_altered_file_is_named_before_it_is_parsed(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name} must be .*sha256.*; found"):
        artifact.load(copy)


def test_manifest_edited_by_hand_is_refused(copy):
    pretty = json.dumps(json.loads((copy / MANIFEST).read_bytes()), indent=1)
    (copy / MANIFEST).write_text(pretty)
    with pytest.raises(ArtifactError, match="canonical"):
        artifact.load(copy)


def test_unknown_format_is_refused(copy):
    edit(copy, format_version=99)
    with pytest.raises(ArtifactError, match="format_version must be 1; got 99"):
        artifact.load(copy)


def test_manifest_of_another_model_is_refused(copy):
    manifest = json.loads((copy / MANIFEST).read_bytes())
    edit(copy, model={**manifest["model"], "hidden": 9})
    with pytest.raises(ArtifactError, match="must have shape"):
        artifact.load(copy)


def test_manifest_without_a_part_is_refused(copy):
    manifest = json.loads((copy / MANIFEST).read_bytes())
    del manifest["schema"]
    (copy / MANIFEST).write_bytes(artifact.canonical(manifest))
    with pytest.raises(ArtifactError, match="KeyError: 'schema'"):
        artifact.load(copy)


def test_self_test_of_other_bits_is_refused(copy):
    edit(copy, self_test="0" * 64)
    with pytest.raises(ArtifactError, match=r"self-test must give 0000"):
        artifact.load(copy)


@pytest.mark.parametrize("processor", ["generic", "haswell"])
def test_bits_are_those_of_a_machine_of_another_kind(copy, processor, tmp_path):
    """Compiled for narrow vectors, and where no processor fuses a multiply-add."""
    if platform.machine() != "x86_64":
        processor = "generic"
    load = (
        "import sys, pathlib, streamgauge.models.artifacts.artifact as a;"
        "a.load(pathlib.Path(sys.argv[1]))"
    )
    environment = os.environ | {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    environment |= {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", load, str(copy)], env=environment, check=True)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b'{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}', r"got \['I8'\]"),
        (b"not json", "not that of safetensors"),
        (b'{"a":1}', "not that of safetensors"),
    ],
)
def test_foreign_safetensors_header_is_refused(header, text):
    with pytest.raises(ArtifactError, match=text):
        artifact.check_header("here", struct.pack("<Q", len(header)) + header + b"\0")


@pytest.mark.parametrize("size", [0, 1 << 21, 1 << 63])
def test_header_of_impossible_size_is_refused(size):
    with pytest.raises(ArtifactError, match="header must be 1 to"):
        artifact.check_header("here", struct.pack("<Q", size) + b"{}" * 8)


def test_too_many_tensors_are_refused():
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"{i}": entry for i in range(10_001)}).encode()
    with pytest.raises(ArtifactError, match="at most 10000 tensors; got 10001"):
        artifact.check_header("here", struct.pack("<Q", len(header)) + header)


def test_directory_that_is_no_artifact_is_never_replaced(tmp_path):
    (tmp_path / "precious").write_text("text")
    with pytest.raises(ConfigError, match="is not an artifact; not replaced"):
        make_artifact(tmp_path)
    assert (tmp_path / "precious").read_text() == "text"


def test_artifact_is_replaced_as_a_whole(copy):
    before = artifact.load(copy).digest
    make_artifact(copy, seed=1)
    assert artifact.load(copy).digest != before
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy"]
