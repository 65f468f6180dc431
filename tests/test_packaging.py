"""The package that Beam stages, and the wheel made from it, hold everything under one name."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import streamgauge
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
    } | {"streamgauge/__init__.py", "streamgauge/__main__.py", "streamgauge/py.typed"}


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


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """The folder of the programs of an environment that has the wheel and no extras."""
    home = tmp_path_factory.mktemp("bare") / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", str(home), cwd=home.parent)
    programs = home / "bin"
    pip = (sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "-q")
    run(*pip, "--no-index", "--no-deps", "--disable-pip-version-check", str(wheel), cwd=home)
    return programs


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


@pytest.mark.parametrize(
    "words", [("demo",), ("run", "--config", "job.yaml"), ("--help",), (), ("version", "--json")]
)
@pytest.mark.parametrize("command", ["streamgauge", "python -m streamgauge"])
def test_a_command_without_extras_names_the_extra_in_one_line(bare, tmp_path, command, words):
    program, *before = command.split()
    done = subprocess.run(
        [bare / program, *before, *words], cwd=tmp_path, env={}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "streamgauge: needs typer, which is not installed; "
        "`pip install 'streamgauge[run]'` installs it\n"
    )


def test_without_extras_the_version_is_known_and_the_api_names_the_extra(bare, tmp_path):
    version = run(bare / "streamgauge", "--version", cwd=tmp_path)
    assert version == f"streamgauge {streamgauge.__version__}\n"
    code = (
        "import importlib.metadata, streamgauge as sg\n"
        "assert importlib.metadata.version('streamgauge') == sg.__version__\n"
        "try: sg.score_frame\n"
        "except ImportError as error: print(error)\n"
    )
    assert run(bare / "python", "-c", code, cwd=tmp_path).endswith(
        ", which is not installed; `pip install 'streamgauge[run]'` installs it\n"
    )


def test_the_metadata_describe_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    classifiers = metadata.get_all("Classifier")
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.11"} <= set(classifiers)
    assert metadata["Version"] == streamgauge.__version__
    assert set(metadata.get_all("Provides-Extra")) == {"run", "train", "dev"}


def test_no_dependency_is_declared_that_pins_another_numpy(wheel):
    """TSB_AD 1.5 requires numpy<2; pip then finds no versions for `streamgauge[run,train]`."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        required = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist")
    assert not [each for each in required if each.lower().replace("_", "-").startswith("tsb-ad")]


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
