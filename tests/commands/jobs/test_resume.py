"""What a job may start from: records, identities and the newest checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from fixtures.artifacts import make_artifact
from streamgauge.infra.errors import FlinkRestError
from streamgauge.infra.flink_rest import Job, JobDetail
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.errors import ConfigError
from streamgauge.pipeline.config import Config, from_dict
from streamgauge.pipeline.jobs import claim, preflight, resume
from streamgauge.pipeline.jobs import run as jobs

JOB = "a" * 32


class Flink:
    """A Flink cluster as the REST API shows it."""

    def __init__(self, checkpoints: Path | None) -> None:
        self.known: list[Job] = []
        self.failures: tuple[str, ...] = ()
        self.completed = 0
        self.answers = True
        self._checkpoints = checkpoints

    def jobs(self) -> list[Job]:
        if not self.answers:
            raise FlinkRestError("Flink does not answer")
        return self.known

    def settings(self) -> dict[str, str]:
        return {"state.checkpoints.dir": self._checkpoints.as_uri()} if self._checkpoints else {}

    def job(self, job_id: str) -> JobDetail:
        return JobDetail(Job(job_id, "streamgauge", "RESTARTING"), {}, self.failures)

    def checkpoints(self, job_id: str) -> dict[str, Any]:
        return {"counts": {"completed": self.completed}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoints = tmp_path / "check points"
    checkpoints.mkdir()
    return checkpoints


@pytest.fixture
def flink(folder: Path) -> Any:
    return Flink(folder)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    artifact = make_artifact(tmp_path_factory.mktemp("artifact") / "a", features=3)
    return from_dict({"artifact": str(artifact)})


def _identity(config: Config) -> resume.Identity:
    return resume.identity_of(config, artifacts.load(Path(config.artifact)))


def _complete(state: Path, time_s: int) -> Path:
    """What Flink leaves behind when a checkpoint or savepoint is complete."""
    state.mkdir(parents=True)
    (state / resume.METADATA).write_bytes(b"")
    os.utime(state / resume.METADATA, (time_s, time_s))
    return state


def _silent(line: str) -> None:
    pass


def _unexpected(line: str) -> None:
    raise AssertionError(line)


def _stop_to(flink: Any, config: Config, savepoint: Path, time_s: int = 10) -> None:
    """Run a job and stop it with a savepoint."""
    record = resume.JobRecord(config.name, _identity(config))
    resume.record_start(flink, JOB, record, _unexpected)
    _complete(savepoint, time_s)
    resume.record_stop(flink, JOB, savepoint.as_uri(), _unexpected)


def _with(section: str, **settings: Any) -> Callable[[Config], Config]:
    def change(config: Config) -> Config:
        changed = dataclasses.replace(getattr(config, section), **settings)
        return dataclasses.replace(config, **{section: changed})

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_with("scoring", shards=4), "scoring.shards is 8 there and 4 here"),
        (_with("input", routing="partition"), "input.routing is 'entity' there and 'partition'"),
        (_with("input", topic="other"), "input.topic is 'telemetry.events.v1' there and 'other'"),
        (_with("flink", max_parallelism=64), "flink.max_parallelism is 128 there and 64 here"),
    ],
)
def test_a_savepoint_of_other_settings_is_refused_in_one_line(
    flink: Any, config: Config, tmp_path: Path, change: Callable[[Config], Config], text: str
) -> None:
    _stop_to(flink, config, tmp_path / "savepoint")
    with pytest.raises(ConfigError) as caught:
        resume.check_savepoint(str(tmp_path / "savepoint"), _identity(change(config)), _unexpected)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("features", "text"), [(3, "artifact is"), (4, "features of the art")])
def test_a_savepoint_of_another_model_or_schema_is_refused(
    flink: Any, config: Config, tmp_path: Path, features: int, text: str
) -> None:
    _stop_to(flink, config, tmp_path / "savepoint")
    other = make_artifact(tmp_path / "other", features=features, hidden=32, calmer=1.3)
    changed = dataclasses.replace(config, artifact=str(other))
    with pytest.raises(ConfigError, match=text):
        resume.check_savepoint(str(tmp_path / "savepoint"), _identity(changed), _unexpected)


@pytest.mark.parametrize("written", ["path", "uri", "metadata"])
def test_state_of_the_same_job_is_accepted_however_its_path_is_written(
    flink: Any, config: Config, folder: Path, tmp_path: Path, written: str
) -> None:
    savepoint = tmp_path / "a savepoint"
    _stop_to(flink, config, savepoint)
    checkpoint = _complete(folder / JOB / "chk-7", 5)
    # What may change between two runs.
    again = _with("flink", parallelism=4)(_with("input", start="latest")(config))
    for state in (savepoint, checkpoint):
        text = {"path": str(state), "uri": state.as_uri(), "metadata": f"{state}/_metadata"}
        resume.check_savepoint(text[written], _identity(again), _unexpected)


@pytest.mark.parametrize("place", ["s3://bucket/savepoint", "here"])
def test_state_without_a_record_is_accepted_with_a_warning(
    config: Config, tmp_path: Path, place: str
) -> None:
    savepoint = place if "://" in place else str(_complete(tmp_path / place, 1))
    lines: list[str] = []
    resume.check_savepoint(savepoint, _identity(config), lines.append)
    [line] = lines
    assert line.startswith(f"warning: no {resume.FILE} at {savepoint}")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "name": "a"}'])
def test_a_damaged_record_is_refused_and_not_ignored(
    config: Config, tmp_path: Path, text: str
) -> None:
    savepoint = _complete(tmp_path / "savepoint", 1)
    (savepoint / resume.FILE).write_text(text)
    with pytest.raises(ConfigError, match="must be the record of a job"):
        resume.check_savepoint(str(savepoint), _identity(config), _unexpected)


def test_the_newest_state_is_the_newest_that_is_complete_and_of_the_same_name(
    flink: Any, config: Config, folder: Path, tmp_path: Path
) -> None:
    assert resume.newest_state(folder, config.name) is None
    savepoint = tmp_path / "elsewhere" / "savepoint"
    _stop_to(flink, config, savepoint, time_s=10)
    assert resume.newest_state(folder, config.name) == savepoint

    identity = _identity(config)
    for job_id, name in (("b" * 32, config.name), ("c" * 32, "other")):
        resume.record_start(flink, job_id, resume.JobRecord(name, identity), _unexpected)
    chk_9, chk_10 = (_complete(folder / ("b" * 32) / f"chk-{n}", 11 + n) for n in (9, 10))
    (folder / ("b" * 32) / "chk-11").mkdir()  # was never completed
    _complete(folder / ("c" * 32) / "chk-1", 99)
    _complete(folder / ("d" * 32) / "chk-1", 99)  # without a record
    assert resume.newest_state(folder, config.name) == chk_10 != chk_9


def test_a_savepoint_that_was_moved_is_not_named(
    flink: Any, config: Config, folder: Path, tmp_path: Path
) -> None:
    _stop_to(flink, config, tmp_path / "savepoint")
    (tmp_path / "savepoint").rename(tmp_path / "moved")
    assert resume.newest_state(folder, config.name) is None
    resume.check_savepoint(str(tmp_path / "moved"), _identity(config), _unexpected)


def test_a_checkpoint_folder_that_is_not_seen_here_is_a_warning(config: Config) -> None:
    lines: list[str] = []
    flink: Any = Flink(None)
    record = resume.JobRecord(config.name, _identity(config))
    resume.record_start(flink, JOB, record, lines.append)
    resume.record_stop(flink, JOB, "s3://bucket/savepoint", lines.append)
    resume.refuse_to_start_empty(flink, config.name)
    assert len(lines) == 1
    assert lines[0].startswith("warning: this machine does not see the checkpoint folder")


def test_a_record_that_cannot_be_written_is_a_warning(
    flink: Any, config: Config, folder: Path
) -> None:
    (folder / JOB).write_text("a file where a folder should be")
    lines: list[str] = []
    record = resume.JobRecord(config.name, _identity(config))
    resume.record_start(flink, JOB, record, lines.append)
    assert len(lines) == 1
    assert "no record of the job" in lines[0]


# Whole runs


class Started(Exception):
    """All checks passed."""


@pytest.fixture
def run(flink: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """`run` up to the moment when it would start the embedded Flink or submit the job."""

    def start(*_: object) -> None:
        raise Started

    monkeypatch.setattr(preflight, "check_input", lambda *_: 2)
    monkeypatch.setattr(claim, "claimed", lambda *_: nullcontext(lambda: None))
    monkeypatch.setattr(jobs, "FlinkRest", lambda *_: flink)
    monkeypatch.setattr(jobs.broker, "connect_to", lambda *_: None)
    monkeypatch.setattr(jobs, "embedded", start)
    monkeypatch.setattr(jobs, "_run_on_cluster", start)
    return lambda config, **more: jobs.run(config, narrate=_silent, **more)


@pytest.mark.parametrize("is_embedded", [False, True])
def test_a_job_with_state_does_not_start_empty_unless_asked(
    run: Callable[..., str | None], flink: Any, config: Config, tmp_path: Path, is_embedded: bool
) -> None:
    with pytest.raises(Started):
        run(config, is_embedded=is_embedded)
    savepoint = tmp_path / "savepoint"
    _stop_to(flink, config, savepoint)
    with pytest.raises(ConfigError) as caught:
        run(config, is_embedded=is_embedded)
    message = str(caught.value)
    assert "1970-01-01T00:00:10Z" in message
    assert f"`--savepoint {savepoint}`" in message
    assert "`--fresh`" in message
    for choice in ({"savepoint": str(savepoint)}, {"fresh": True}):
        with pytest.raises(Started):
            run(config, is_embedded=is_embedded, **choice)
    with pytest.raises(Started):
        run(dataclasses.replace(config, name="other"), is_embedded=is_embedded)


def test_a_job_is_not_started_from_the_state_of_other_settings(
    run: Callable[..., str | None], flink: Any, config: Config, tmp_path: Path
) -> None:
    _stop_to(flink, config, tmp_path / "savepoint")
    with pytest.raises(ConfigError, match=r"scoring\.shards is 8 there and 2 here"):
        run(_with("scoring", shards=2)(config), savepoint=str(tmp_path / "savepoint"))


@pytest.mark.parametrize("is_embedded", [False, True])
@pytest.mark.parametrize("state", jobs.LIVE_STATES)
def test_a_second_job_of_a_name_is_refused(
    run: Callable[..., str | None], flink: Any, config: Config, is_embedded: bool, state: str
) -> None:
    flink.known = [Job("c" * 32, "other", "RUNNING"), Job(JOB, config.name, state)]
    with pytest.raises(ConfigError, match=f"no job 'streamgauge' may be running already; {JOB}"):
        run(config, is_embedded=is_embedded, fresh=True)
    flink.known = [Job(JOB, config.name, "FAILED")]
    with pytest.raises(Started):
        run(config, is_embedded=is_embedded)


def test_an_embedded_run_needs_no_cluster_and_another_run_does(
    run: Callable[..., str | None], flink: Any, config: Config
) -> None:
    flink.answers = False
    with pytest.raises(Started):
        run(config, is_embedded=True)
    with pytest.raises(FlinkRestError):
        run(config)


def test_a_job_that_fails_at_once_is_reported_with_its_cause(
    run: Callable[..., str | None],
    flink: Any,
    config: Config,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "_run_on_cluster", lambda *_: JOB)
    flink.failures = ("ArtifactError: state was written by another model", "older")
    with pytest.raises(ConfigError) as caught:
        run(config, watch_s=60.0)
    assert "it is RESTARTING after a failure: ArtifactError: state was" in str(caught.value)
    assert "older" not in str(caught.value)
    # The job is there, so its record is as well.
    assert json.loads((folder / JOB / resume.FILE).read_text())["name"] == config.name

    flink.failures, flink.completed = (), 1
    assert run(config, watch_s=60.0) == JOB
