"""The order of checks before a job starts; tests/system submits jobs to a real Flink."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.artifacts import make_artifact
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.config import Config, from_dict
from streamgauge.pipeline.jobs import claim, preflight
from streamgauge.pipeline.jobs import run as jobs

#: Ports at which nothing answers.
NOTHING_THERE = {"job_endpoint": "127.0.0.1:1", "rest_url": "http://127.0.0.1:1"}


class Submitted(Exception):
    """The job was given to the job server."""


class FakeBroker:
    """Records the topics that are created; the input has two partitions and no event."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.created: list[str] = []
        monkeypatch.setattr(preflight, "create_missing_topics", self.create)
        monkeypatch.setattr(preflight, "check_input", lambda *_: 2)
        monkeypatch.setattr(claim, "claimed", lambda *_: nullcontext(lambda: None))

    def create(self, access: Any, topics: tuple[str, ...], partitions: int) -> list[str]:
        self.created += topics
        return list(topics)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    return FakeBroker(monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    artifact = make_artifact(tmp_path / "artifact", features=3)
    return from_dict(
        {
            "artifact": str(artifact),
            "state": {"folder": str(tmp_path / "state")},
            "flink": NOTHING_THERE,
        }
    )


@pytest.fixture
def flink(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded Flink whose job server takes the pipeline and nothing else."""

    @contextmanager
    def embedded(*_: Any) -> Any:
        yield SimpleNamespace(job_endpoint="127.0.0.1:1", worker_endpoint="127.0.0.1:1")

    def submit(self: Any) -> None:
        raise Submitted

    monkeypatch.setattr(jobs, "embedded", embedded)
    monkeypatch.setattr("apache_beam.Pipeline.run", submit)


def _run(config: Config, **more: Any) -> None:
    jobs.run(config, narrate=lambda line: None, **{"is_embedded": True, **more})


@pytest.mark.usefixtures("flink")
def test_topics_are_created_once_everything_has_been_checked(
    broker: FakeBroker, config: Config
) -> None:
    with pytest.raises(Submitted):
        _run(config)
    assert set(broker.created) == set(config.output_topics())


@pytest.mark.usefixtures("flink")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"savepoint": "/nowhere"}, "--savepoint: must be the path of a savepoint"),
        ({"savepoint": "/", "state": "/"}, "--state: a savepoint contains state already"),
        ({"state": "/nowhere"}, "state: /nowhere must hold snapshots"),
        ({"savepoint": "/", "fresh": True}, "--fresh: starts without state; use it without"),
        ({"state": "/", "fresh": True}, "--fresh: starts without state; use it without"),
        ({"is_embedded": False}, "flink.job_endpoint: Beam's job server must answer"),
    ],
)
def test_a_job_that_cannot_start_creates_no_topic(
    broker: FakeBroker, config: Config, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        _run(config, **options)
    assert broker.created == []


@pytest.mark.usefixtures("flink")
def test_a_pipeline_that_cannot_be_built_creates_no_topic(
    broker: FakeBroker, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"{config.state.folder}/{config.name}"
    monkeypatch.setattr(jobs, "start_at", lambda config, *_: config)
    with pytest.raises(ConfigError, match="must not be the folder"):
        _run(config, state=own)
    assert broker.created == []


def test_a_state_folder_that_cannot_be_opened_is_refused_before_the_job_starts(
    broker: FakeBroker, config: Config, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConfigError, match=r"state\.folder: must be a folder; .*state is a file"):
        _run(config)
    assert broker.created == []
