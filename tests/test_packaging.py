"""The package that Beam stages, and the wheel made from it, hold everything under one name."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fixtures.paths import ROOT

PACKAGES = ("models", "transforms", "pipeline", "infra")
#: For those who change the sources: pages about a folder, the sources of patches, make scripts.
ONLY_IN_SOURCES = ("README.md", ".java", ".sh")


def run(*command, cwd, **environment):
    done = subprocess.run(
        command,
        cwd=cwd,
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def listed():
    """Files of the repository that git tracks, or will when they are added."""
    names = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    return [name for name in names if os.path.lexists(ROOT / name)]


def expected():
    return {
        f"streamgauge/{name}"
        for name in listed()
        if name.split("/")[0] in PACKAGES and not name.endswith(ONLY_IN_SOURCES)
    } | {"streamgauge/__init__.py", "streamgauge/py.typed"}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The archive that Beam makes of a clean checkout."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in listed():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name, follow_symlinks=False)
    run(sys.executable, "setup.py", "-q", "sdist", cwd=checkout)
    [archive] = (checkout / "dist").iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel that a worker builds from the archive."""
    folder = tmp_path_factory.mktemp("worker")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    [unpacked] = folder.iterdir()
    run(sys.executable, "setup.py", "-q", "bdist_wheel", cwd=unpacked)
    [built] = (unpacked / "dist").glob("*.whl")
    return built


def test_the_staged_package_holds_every_module_and_data_file(sdist):
    with tarfile.open(sdist) as archive:
        links = [member.name for member in archive if member.issym() or member.islnk()]
        names = {name.partition("/src/")[2] for name in archive.getnames()}
    assert not links
    assert expected() - names == set()


def test_the_wheel_holds_every_module_and_data_file_and_no_other_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert expected() - names == set()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"streamgauge"}


def test_an_installation_works_in_a_project_that_has_packages_of_the_same_names(wheel, tmp_path):
    site, project = tmp_path / "site", tmp_path / "project"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in PACKAGES:
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("THEIRS = True\n")
    code = (
        "import models, infra, streamgauge.models.errors as errors, streamgauge.infra.errors\n"
        "assert models.THEIRS and infra.THEIRS\n"
        "print(errors.__file__)\n"
    )
    printed = run(sys.executable, "-c", code, cwd=project, PYTHONPATH=str(site))
    assert Path(printed.strip()) == site / "streamgauge" / "models" / "errors.py"
