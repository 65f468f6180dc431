"""`streamgauge run --embedded`: a live job without a cluster, which ends on SIGINT."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fixtures.children import default_sigint
from fixtures.deadlines import deadline
from fixtures.paths import SOURCE
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.infra.processes.parts import MARK
from streamgauge.infra.processes.process import marked
from streamgauge.pipeline import config as configs
from system.harness import fleet, live

pytestmark = pytest.mark.system


def test_embedded_run_scores_and_leaves_no_process_behind(
    cluster: ClusterInfo, artifact: Path, tmp_path: Path
) -> None:
    topic, name = live.new_name("machines"), live.new_name("job")
    live.create_topic(cluster, topic, 2)
    produced = fleet.produce_fleet(cluster, topic, [0])
    settings = {
        "artifact": str(artifact),
        "name": name,
        "kafka": {"bootstrap_servers": cluster.bootstrap_servers},
        "input": {"topic": topic},
        "flink": {"parallelism": 1},
        **{kind: {"topic": f"{name}.{kind}"} for kind in ("alerts", "scores", "drift")},
        "dead_letters": {"topic": f"{name}.dlq"},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(settings))
    log = tmp_path / "stderr.txt"
    with log.open("w") as stderr:
        running = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "streamgauge.pipeline.cli.main",
                "run",
                "--embedded",
                "--config",
                str(path),
            ],
            cwd=tmp_path,  # it creates its scratch folder here
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stderr=stderr,
            preexec_fn=default_sigint,
        )
    try:
        live.wait_for(
            lambda: "running until interrupted" in log.read_text() or running.poll() is not None,
            "the embedded job",
        )
        assert running.poll() is None, log.read_text()
        config = configs.load(path)
        with live.Scores(cluster, config) as scores:
            expected = produced.events - produced.malformed
            live.wait_for(
                lambda: scores.events() >= expected or running.poll() is not None, "all scores"
            )
            assert scores.events() == expected, log.read_text()
        mark = f"{MARK}={tmp_path / 'build' / 'embedded'}"
        assert marked(mark), "Flink and the workers must be known by their mark"

        os.kill(running.pid, signal.SIGINT)

        assert running.wait(deadline(60)) in (0, 130), log.read_text()
        live.wait_for(lambda: not marked(mark), "the end of all its processes", deadline_s=10)
        assert "Traceback" not in log.read_text()
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
