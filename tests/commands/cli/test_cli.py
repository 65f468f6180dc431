"""Processes are started for what only a process can show: exit codes and what it imports."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import streamgauge
from fixtures.artifacts import make_artifact
from fixtures.deadlines import deadline
from fixtures.paths import ROOT, SOURCE
from streamgauge.infra.processes.lifecycle import CHOSEN
from streamgauge.pipeline.cli import main
from streamgauge.pipeline.cli.main import app
from streamgauge.pipeline.console import progress

COMMANDS = {
    "up",
    "status",
    "down",
    "produce",
    "train",
    "tune",
    "run",
    "stop",
    "audit",
    "evaluate",
    "state export",
    "state import",
    "state inspect",
    "state erase",
    "deploy patch-jar",
    "backtest",
    "alerts tail",
    "doctor",
    "demo",
    "version",
}


def _leaves(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(app)
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, child in command.commands.items():
        yield from _leaves(child, (*path, name))


def _streamgauge(
    *words: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from streamgauge.pipeline.cli.main import main; main()", *words],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", **(env or {})},
        capture_output=True,
        text=True,
        timeout=deadline(60),
        check=False,
    )


def test_all_commands_are_there() -> None:
    assert {name for name, _ in _leaves()} == COMMANDS


@pytest.mark.parametrize(("name", "command"), list(_leaves()), ids=[name for name, _ in _leaves()])
def test_every_command_and_every_option_explains_itself(name: str, command: Any) -> None:
    assert command.help
    for option in command.params:
        assert getattr(option, "help", None), f"{name} {option.name}"
    assert command.epilog.startswith(f"Example: streamgauge {name}")


def _groups(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    command = command or typer.main.get_command(app)
    if hasattr(command, "commands"):
        yield path
        for name, child in command.commands.items():
            yield from _groups(child, (*path, name))


HELP = [*(" ".join(path) for path in _groups()), *(name for name, _ in _leaves())]


@pytest.mark.parametrize("name", HELP)
def test_help_fits_80_columns_and_shows_no_python_types(name: str) -> None:
    run = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80"})
    assert run.exit_code == 0
    assert [line for line in run.output.splitlines() if len(line) > 80] == []
    python = re.findall(r"<class|Optional\[|\blist\[|<(?:str|int|float|path|bool)\b", run.output)
    assert python == []
    shown = re.findall(r"^  (?:-\w, )?--[\w-]+ (\S+)(?:  |$)", run.output, re.MULTILINE)
    words = {"TEXT", "INTEGER", "NUMBER", "PATH", "FILE"}
    assert [value for value in shown if value not in words and "|" not in value] == []


@pytest.mark.parametrize("words", [("--version",), ("version",)])
def test_the_version_is_that_of_the_package(words: tuple[str, ...]) -> None:
    run = CliRunner().invoke(app, words)
    assert (run.exit_code, run.output.split()[-1]) == (0, streamgauge.__version__)


def test_help_loads_no_large_library() -> None:
    code = (
        "import sys; sys.argv = ['streamgauge', '--help']\n"
        "from streamgauge.pipeline.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pyarrow', 'apache_beam', 'torch', 'kafka', 'confluent_kafka'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("command", "threads"),
    [
        ("demo", "1 1"),
        ("train", "None None"),
        ("tune", "None None"),
        ("evaluate", "1 None"),
        ("backtest", "1 1"),
    ],
)
def test_scoring_gets_one_blas_thread_and_training_many(command: str, threads: str) -> None:
    code = (
        f"import os, sys; sys.argv = ['streamgauge', '{command}', '--help']\n"
        "names = ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS')\n"
        "for name in names: os.environ.pop(name, None)\n"
        "from streamgauge.pipeline.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*(os.environ.get(name) for name in names))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == threads


def test_an_operator_error_is_one_line_with_exit_code_2(tmp_path: Path) -> None:
    run = _streamgauge("produce", "--data", str(tmp_path), "--topic", "t")
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.splitlines() == [
        f"streamgauge: data: {tmp_path} must hold <entity>.test.parquet files or "
        "data/<category>/<name>.csv; found an empty folder"
    ]


def test_a_missing_cluster_is_one_line_with_exit_code_2(tmp_path: Path) -> None:
    run = _streamgauge("status", "--dir", str(tmp_path))
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert "streamgauge up" in run.stderr


def test_usage_errors_have_exit_code_2() -> None:
    for words in (["bogus"], ["run"], ["produce", "--data", ".", "--topic", "t", "--format", "x"]):
        assert CliRunner().invoke(app, words).exit_code == 2


def test_an_interruption_has_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["streamgauge", "version"])
    monkeypatch.setattr(main, "app", interrupt)
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 130


def test_an_internal_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(sys, "argv", ["streamgauge", "version"])
    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(AssertionError, match="ours"):
        main.main()


def test_a_stray_word_is_not_passed_to_beam(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("artifact: a\n")
    run = _streamgauge("run", "--config", str(file), "oops")
    assert run.returncode == 2
    assert run.stderr == "streamgauge: arguments for Beam must start with --; got 'oops'\n"


def test_a_wrong_configuration_names_the_field(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("artifact: a\nflink:\n  paralelism: 2\n")
    run = _streamgauge("run", "--config", str(file))
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert "flink.paralelism: unknown key; did you mean 'parallelism'?" in run.stderr


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 1.0, 11.0, 12.0, 30.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    lines: list[str] = []
    with progress.progress("sending", 400, lines.append) as advance:
        for _ in range(4):
            advance(100)
    assert lines == [
        "sending: 200 of 400 events (50%), 18/s",
        "sending: 400 of 400 events (100%), 13/s",
    ]


def test_the_package_can_be_run_as_a_module() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "streamgauge", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Usage: python -m streamgauge" in run.stdout


@pytest.mark.parametrize(
    ("library", "extra", "words"),
    [
        ("torch", "train", ("train", "--data", ".", "--out", "a")),
        ("optuna", "train", ("tune", "--data", ".", "--out", "a")),
        ("apache_beam", "run", ("run", "--config", "job.yaml")),
        ("confluent_kafka", "run", ("produce", "--data", ".", "--topic", "t")),
    ],
)
def test_a_missing_extra_is_one_line_with_exit_code_2(
    tmp_path: Path, library: str, extra: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "job.yaml").write_text("artifact: a\n")
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"  # what an import finds where it is missing
        "from streamgauge.pipeline.cli.main import main; main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        f"streamgauge: {words[0]} needs {library}, which is not installed; "
        f"`pip install 'streamgauge[{extra}]'` installs it\n"
    )


def test_a_missing_module_of_streamgauge_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ModuleNotFoundError("gone", name="streamgauge.gone")

    monkeypatch.setattr(sys, "argv", ["streamgauge", "version"])
    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(ModuleNotFoundError, match="gone"):
        main.main()


@pytest.mark.parametrize(
    "words",
    [
        ("state", "inspect", "--entity", "a"),
        ("state", "erase", "--entity", "a"),
        ("state", "export", "--out", "out"),
    ],
)
@pytest.mark.parametrize("folder", ["unknown://bucket/state", "file"])
def test_a_state_folder_that_cannot_be_opened_is_one_line_with_exit_code_2(
    tmp_path: Path, words: tuple[str, ...], folder: str
) -> None:
    make_artifact(tmp_path / "artifact", features=3)
    (tmp_path / "file").write_text("")
    file = tmp_path / "job.yaml"
    file.write_text(f"artifact: artifact\nstate: {{folder: '{folder}'}}\n")
    words = tuple(str(tmp_path / word) if word == "out" else word for word in words)
    run = _streamgauge(*words, "--config", str(file))
    assert run.returncode == 2, run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("streamgauge: state")


def _ignore_sigint() -> None:
    """What a shell does with the background jobs of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_ctrl_c_ends_a_command_that_was_started_with_sigint_ignored(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    process = subprocess.Popen(
        [sys.executable, "-m", "streamgauge", "demo", "--out", str(out)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_ignore_sigint,
    )
    try:
        deadline = time.monotonic() + 180
        while not (out / "scratch" / "parts").is_dir():  # Beam runs, or is about to
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)  # between two looks, under the deadline
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors


def test_every_command_can_be_interrupted_though_sigint_was_ignored(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from streamgauge.pipeline.cli import main\n"
        "def wait(*_):\n"
        "    print('waiting', flush=True)\n"
        # A signal just before a sleep does not end it, so one long sleep would miss it.
        "    for _ in range(1200): time.sleep(0.05)\n"
        "main.app = wait\n"
        "sys.argv = ['streamgauge', 'version']\n"
        "main.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_ignore_sigint,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130


def test_the_ports_that_an_error_offers_to_choose_are_options_of_up() -> None:
    help_text = CliRunner().invoke(app, ["up", "--help"]).stdout
    assert all(f"--{name}-port" in help_text for name in CHOSEN)


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--out", "a-file"],
        ["deploy", "patch-jar", "--out", "a-file/x.jar"],
        ["up", "--dir", "a-file"],
    ],
)
def test_a_path_that_cannot_be_used_is_one_line_with_exit_code_2(
    tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "a-file").touch()
    ran = subprocess.run(
        [sys.executable, "-m", "streamgauge", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=deadline(60),
    )
    assert ran.returncode == 2
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("streamgauge: ") and "a-file" in last, ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_port_beyond_the_last_is_refused() -> None:
    result = CliRunner().invoke(app, ["up", "--broker-port", "99999"])
    assert result.exit_code == 2
    assert "65535" in result.output
