"""State outside the runner: half a run, its memory kept, the other half somewhere else."""

import json
from pathlib import Path

import numpy as np
import pytest

from fixtures.artifacts import make_artifact
from fixtures.blocks import START_US, STEP_US, make_block, new_cells
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.block import encode_block
from streamgauge.models.errors import ConfigError, StateDamagedError, StateFormatError
from streamgauge.models.events.series import Series
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import from_dict
from streamgauge.pipeline.jobs import exported_state
from streamgauge.pipeline.replay.runner import run_in_process
from streamgauge.transforms.runner.keys import shard_keys
from streamgauge.transforms.runner.state_cells import LOG_CELLS, SNAPSHOT_CELLS
from streamgauge.transforms.score import ScoreBlocks
from streamgauge.transforms.sources.archive import ReplayArchive, write_archive

EVENTS, HALF, SHARDS = 300, 130, 3
NAMES = ("a", "b", "c", "d", "known-0")


@pytest.fixture(scope="module")
def artifact_dir(tmp_path_factory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("artifact") / "a")


@pytest.fixture(scope="module")
def artifact(artifact_dir):
    return artifacts.load(artifact_dir)


@pytest.fixture(scope="module")
def config(artifact_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    return from_dict(
        {
            "artifact": str(artifact_dir),
            "name": "job",
            "scoring": {"shards": SHARDS, "warmup_events": 30},
            "alerts": {"per_entity_day": 100, "cooldown_s": 600},
            "state": {"folder": str(folder)},
        }
    )


def made_series(events):
    rng = np.random.default_rng(0)
    made = []
    for name in NAMES:
        values = rng.normal(scale=0.2, size=(EVENTS, 3)).astype(np.float32)
        values[120:150] += 50  # an alert is open where the run is cut in two
        time_us = START_US + np.arange(EVENTS) * STEP_US
        made.append(Series(name, time_us[:events], values[:events]))
    return made


def replay(config, artifact, folder, events, state=None):
    folder.mkdir()
    write_archive(folder / "archive", made_series(events), SHARDS, 128)
    reading = ReplayArchive(str(folder / "archive"))
    return run_in_process(config, artifact, reading, directory=folder / "parts", snapshots=state)


@pytest.fixture(scope="module")
def whole(config, artifact, tmp_path_factory):
    return replay(config, artifact, tmp_path_factory.mktemp("whole") / "run", EVENTS)


@pytest.fixture(scope="module")
def half(config, artifact, tmp_path_factory):
    """The first half of a run, which leaves its memory where the live job would."""
    state = graph.replay_state(config, snapshot_folder=graph.state_folder(config))
    return replay(config, artifact, tmp_path_factory.mktemp("half") / "run", HALF, state)


@pytest.fixture
def exported(config, artifact, half, tmp_path) -> Path:
    exported_state.export(config, artifact, tmp_path / "exported")
    return tmp_path / "exported"


def test_the_second_half_from_an_export_equals_an_uninterrupted_run(
    config, artifact, half, whole, exported, tmp_path
):
    state = graph.replay_state(config, start_from=str(exported))
    # It is sent the whole log again, and takes up where the state ends.
    rest = replay(config, artifact, tmp_path / "rest", EVENTS, state)
    assert half.scores.num_rows == HALF * len(NAMES)
    assert rest.scores.num_rows == (EVENTS - HALF) * len(NAMES)
    both = {row["offset"]: row for r in (half, rest) for row in r.scores.to_pylist()}
    assert [both[offset] for offset in sorted(both)] == whole.scores.to_pylist()
    assert whole.alerts
    assert {a["id"]: a for r in (half, rest) for a in r.alerts} == {
        a["id"]: a for a in whole.alerts
    }


def test_an_export_records_the_position_of_every_partition(exported, artifact):
    manifest = exported_state.read_manifest(exported)
    assert manifest.artifact == artifact.digest
    assert manifest.entities == len(NAMES)
    ends = {end for one in manifest.files.values() for end in one.positions.values()}
    assert ends == {HALF * len(NAMES)}


def test_the_state_of_an_entity_can_be_inspected(config, artifact, exported):
    found = exported_state.find(config, artifact, str(exported), "b")
    told = exported_state.describe(found, artifact)
    assert (told["events"], told["partition"]) == (HALF, 0)
    assert told["last_event_time_us"] == START_US + (HALF - 1) * STEP_US
    assert told["alert"]["is_open"]
    assert told["budget"]["credit"] > 0
    assert told["budget"]["threshold"] > 0
    assert set(told["features"]) == set(artifact.schema.names)
    assert json.loads(json.dumps(told)) == told
    with pytest.raises(ConfigError, match="'nobody' has none"):
        exported_state.find(config, artifact, str(exported), "nobody")


def test_an_erased_entity_is_in_no_file_and_the_others_are(config, artifact, exported):
    exported_state.erase(config, artifact, str(exported), "b")
    manifest = exported_state.read_manifest(exported)
    assert manifest.entities == len(NAMES) - 1
    assert not any(b'"b"' in path.read_bytes() for path in exported.iterdir())
    with pytest.raises(ConfigError, match="'b' has none"):
        exported_state.find(config, artifact, str(exported), "b")
    assert exported_state.find(config, artifact, str(exported), "known-0")


def test_an_altered_file_is_refused(config, artifact, exported):
    path = next(exported.glob("*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StateDamagedError, match="SHA-256 must be"):
        exported_state.find(config, artifact, str(exported), "a")


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        ("scoring", {"shards": 4}, "number of shards must be 4; got 3"),
        ("input", {"topic": "other"}, "topic must be other; got telemetry.events.v1"),
        ("input", {"routing": "partition"}, "routing must be partition; got entity"),
    ],
)
def test_state_of_another_job_is_refused(artifact, exported, section, settings, message):
    given = {"artifact": "unused", "scoring": {"shards": SHARDS}}
    other = from_dict({**given, section: settings})
    with pytest.raises(StateFormatError, match=message):
        exported_state.find(other, artifact, str(exported), "a")


def test_a_folder_without_state_is_refused(config, artifact, tmp_path):
    with pytest.raises(ConfigError, match="must hold snapshots of shards; it holds none"):
        exported_state.find(config, artifact, str(tmp_path), "a")


def test_an_export_does_not_overwrite(config, artifact, exported):
    with pytest.raises(ConfigError, match="must be an empty folder"):
        exported_state.export(config, artifact, exported)


def test_a_job_that_keeps_no_snapshots_has_nothing_to_export(artifact, tmp_path):
    without = from_dict({"artifact": "unused"})
    with pytest.raises(ConfigError, match=r"state\.folder: must be set"):
        exported_state.export(without, artifact, tmp_path / "out")


def test_a_job_does_not_start_from_the_folder_that_it_writes_to(config):
    folder = graph.state_folder(config)
    with pytest.raises(ConfigError, match="must not be the folder that the job itself writes to"):
        graph.live_state(config, start_from=folder)


class Timer:
    """Remembers whether it was set."""

    is_set = False

    def set(self, when: object) -> None:
        self.is_set = True


def test_no_snapshot_is_written_before_its_output(config, artifact, tmp_path):
    state = graph.replay_state(config, snapshot_folder=str(tmp_path / "kept"))
    step = ScoreBlocks(graph.scoring(config, artifact, state, is_live=True)._spec)
    step.setup()
    cells, heartbeat = new_cells(SNAPSHOT_CELLS, LOG_CELLS), Timer()
    key = shard_keys(SHARDS, 128)[0]
    step.start_bundle()
    given = (cells.epoch, *cells.snapshot, *cells.log, cells.held, cells.drift)
    list(step.process((key, encode_block(make_block(["a"] * 5))), Timer(), heartbeat, *given))
    heartbeat.is_set = False
    assert list(step.on_heartbeat(key, heartbeat, *given)) == []
    assert heartbeat.is_set, "it must come back"
    assert not (tmp_path / "kept").exists()
    step.start_bundle()
    assert len(list(step.on_heartbeat(key, heartbeat, *given))) == 1  # the health report
    assert len(list((tmp_path / "kept").glob("shard-00000.*.parquet"))) == 1
