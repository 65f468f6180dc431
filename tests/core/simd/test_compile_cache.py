"""The cache of machine code: every change gives a new key, and no fault prevents a start."""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import pytest

from fixtures.paths import ROOT, SOURCE
from streamgauge.models.simd import compile_cache
from streamgauge.models.simd.compile_cache import build_key

#: Imports all compiled entries, calls one, and reports its cache.
RUN = """
import numpy as np
from streamgauge.models.drift import reference
from streamgauge.models.scoring import scorer
from streamgauge.models.simd.compile_cache import build_folder
counts = np.zeros((2, reference.BINS + 1), np.uint32)
edges = np.zeros((2, reference.BINS), np.float32)
reference._count(np.ones((1, 1), np.float32), np.ones(1, np.float32), edges, counts)
assert counts.sum() == 2
print(build_folder(), sum(reference._count.stats.cache_hits.values()))
"""


def run(code=RUN, **environment):
    """The two words that `code` prints in a new process."""
    keep = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    keep.setdefault("PYTHONPATH", str(SOURCE))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=keep | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def no_folder(tmp_path):
    """A path under which nothing can be created, not even by root."""
    (tmp_path / "file").touch()
    return str(tmp_path / "file" / "folder")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("alerts/thresholds.py", "SCORE_MIN = 1e-9", "SCORE_MIN = 1e-3"),
        ("blocks/block.py", "ERASURE = -1", "ERASURE = -7"),
        ("simd/vectors.py", "WIDTH = 16", "WIDTH = 8"),
    ],
)
def test_a_changed_constant_changes_the_key(tmp_path, file, old, new):
    copy = tmp_path / "models"
    shutil.copytree(ROOT / "models", copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert build_key(copy) == build_key()
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    assert build_key(copy) != build_key()


def test_a_renamed_file_changes_the_key(tmp_path):
    copy = tmp_path / "models"
    shutil.copytree(ROOT / "models", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "alerts" / "budget.py").rename(copy / "alerts" / "zbudget.py")
    assert build_key(copy) != build_key()


def test_machine_code_is_kept_for_the_next_process(tmp_path):
    expected = str(tmp_path / "streamgauge" / "compiled" / build_key())
    assert run(XDG_CACHE_HOME=str(tmp_path)) == [expected, "0"]
    assert run(XDG_CACHE_HOME=str(tmp_path)) == [expected, "1"]


def test_numbas_own_setting_comes_first(tmp_path):
    expected = str(tmp_path / "named" / "streamgauge" / build_key())
    named = {"NUMBA_CACHE_DIR": str(tmp_path / "named"), "XDG_CACHE_HOME": str(tmp_path)}
    assert run(**named)[0] == expected


def test_without_a_home_machine_code_goes_to_the_temporary_folder(tmp_path, no_folder):
    expected = tmp_path / f"streamgauge-{os.getuid()}" / build_key()
    places = {"NUMBA_CACHE_DIR": no_folder, "XDG_CACHE_HOME": no_folder, "TMPDIR": str(tmp_path)}
    assert run(**places, HOME=no_folder)[0] == str(expected)


def test_without_any_folder_functions_are_compiled_in_the_process(no_folder):
    code = f"import tempfile; tempfile.tempdir = {no_folder!r}\n" + RUN
    assert run(code, XDG_CACHE_HOME=no_folder, HOME=no_folder) == ["None", "0"]


def index_of_renamed_class(folder):
    """The index that numba writes, with the signature of a class that no longer exists."""
    [index] = folder.rglob("reference._count*.nbi")
    missing = b"cstreamgauge.models.scoring.waves\nRenamedSince\n."
    index.write_bytes(pickle.dumps(numba.__version__) + missing)


def damaged_index(folder):
    [index] = folder.rglob("reference._count*.nbi")
    index.write_bytes(b"\0" * 64)


def truncated_code(folder):
    [code] = folder.rglob("reference._count*.nbc")
    code.write_bytes(code.read_bytes()[:-100])


def index_that_is_a_folder(folder):
    [index] = folder.rglob("reference._count*.nbi")
    index.unlink()
    index.mkdir()


@pytest.mark.parametrize(
    ("damage", "hits"),
    [
        (index_of_renamed_class, "1"),
        (damaged_index, "1"),
        (truncated_code, "1"),
        (index_that_is_a_folder, "0"),
    ],
)
def test_a_damaged_entry_is_compiled_again(tmp_path, damage, hits):
    folder, _ = run(XDG_CACHE_HOME=str(tmp_path))
    damage(Path(folder))
    assert run(XDG_CACHE_HOME=str(tmp_path)) == [folder, "0"]
    assert run(XDG_CACHE_HOME=str(tmp_path)) == [folder, hits]


def test_a_temporary_folder_that_others_may_write_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = compile_cache._temporary()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert compile_cache._temporary() is None


def test_a_link_in_the_temporary_folder_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / f"streamgauge-{os.getuid()}").symlink_to(elsewhere)
    assert compile_cache._temporary() is None


def test_a_read_only_folder_is_used_if_it_holds_entries(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(options["dir"])

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert not compile_cache._is_usable(tmp_path)
    (tmp_path / "entry").touch()
    assert compile_cache._is_usable(tmp_path)


def test_old_builds_are_removed_and_other_folders_stay(tmp_path):
    for number in range(compile_cache.BUILDS_MAX + 2):
        folder = tmp_path / f"{number:016x}"
        folder.mkdir()
        os.utime(folder, (number, number))
    (tmp_path / "other").mkdir()
    compile_cache._remove_old_builds(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == compile_cache.BUILDS_MAX + 1
    assert left[0] == f"{2:016x}"
    assert left[-1] == "other"
