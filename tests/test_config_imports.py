"""A configuration is read by every command, so reading one must not load what scores."""

import json
import subprocess
import sys

import pytest

HEAVY = ("numba", "llvmlite", "scipy", "pyarrow", "safetensors", "apache_beam", "torch")
READ = """
import json, sys
from streamgauge.pipeline.config import load
load(sys.argv[1])
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory) -> set[str]:
    """Names of all modules in a process that has read a configuration."""
    path = tmp_path_factory.mktemp("config") / "job.yaml"
    path.write_text("artifact: model\nscoring: {late: set_aside}\nalerts: {cooldown_s: 60}\n")
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("name", HEAVY)
def test_reading_a_configuration_does_not_load(modules, name):
    assert name not in modules


def test_reading_a_configuration_loads_none_of_the_core_but_settings(modules):
    core = {name for name in modules if name.startswith("streamgauge.models.")}
    rooms = {name for name in core if name.count(".") == 2} - {"streamgauge.models.errors"}
    assert core - rooms == {
        "streamgauge.models.errors",
        "streamgauge.models.alerts.policy",
        "streamgauge.models.events.limits",
        "streamgauge.models.scoring.policy",
    }
