"""The examples of docs/python.md run as in a notebook: one after the other, in one namespace."""

from __future__ import annotations

import re
import subprocess
import sys
import types

import pyarrow.parquet as pq
import pytest

import streamgauge as sg
from fixtures.artifacts import make_artifact
from fixtures.broker import mock_broker
from fixtures.frames import OtherFrame, make_frame
from fixtures.outputs import alert, score_messages, send
from fixtures.paths import DOCS, ROOT

PAGE = (DOCS / "python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A folder with a model and telemetry, two libraries of frames, and a broker."""
    make_artifact(tmp_path / "my-artifact")
    pq.write_table(make_frame(60), tmp_path / "telemetry.parquet")
    monkeypatch.chdir(tmp_path)
    for name in ("pandas", "polars"):  # neither is installed here
        library = types.ModuleType(name)
        library.read_parquet = lambda path: OtherFrame(pq.read_table(path))
        monkeypatch.setitem(sys.modules, name, library)
    broker = mock_broker()
    send(broker, "anomaly.alerts.v1", [alert("early"), alert("late", "db", minute=90 * 24 * 60)])
    return broker, send(broker, "anomaly.scores.v1", score_messages(["a", "b", "c"], "arrow"))


def test_the_examples_run_one_after_the_other(notebook, capsys):
    _, address = notebook
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block.replace("127.0.0.1:9092", address), "python.md", "exec"), names)

    printed = capsys.readouterr().out.splitlines()
    assert printed[0] in PAGE
    assert printed[1:-1] == ["db critical once in 5 events of this entity"]
    assert printed[-1].startswith("frame: needs one column of times")
    assert names["scores"].column_names == ["entity_id", "event_time", "score", "rarity_1_in_n",
                                            "verdict", "confidence"]  # fmt: skip
    assert names["anomalous"]["entity_id"].to_pylist() == ["c"]


def test_the_page_names_every_public_name():
    errors = {"StreamgaugeError"}
    for name in sg.__all__:
        assert f"`sg.{name}" in PAGE or name in errors, name
        assert getattr(sg, name) is not None
    assert set(sg.__all__) <= set(dir(sg))


def run(code, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_the_import_loads_nothing_large():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import streamgauge\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}\n"
        "             - set(sys.stdlib_module_names)))\n"
        "streamgauge.load_artifact; print('apache_beam' in sys.modules, 'pandas' in sys.modules)"
    )
    assert run(code).stdout.splitlines() == ["['streamgauge']", "False False"]


def test_a_missing_library_is_one_line_that_names_the_extra():
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "import streamgauge\n"
        "try: streamgauge.load_artifact\n"
        "except ImportError as error: print(error)"
    )
    assert run(code).stdout == (
        "streamgauge.load_artifact needs numpy, which is not installed; "
        "`pip install 'streamgauge[run]'` installs it\n"
    )


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'streamgauge' has no attribute 'scoreframe'"):
        sg.scoreframe  # noqa: B018
