"""The graph: step names, coders, and the whole of it in one process."""

from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2

from fixtures.artifacts import make_artifact
from fixtures.blocks import START_US, STEP_US
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.events.series import Series
from streamgauge.models.scoring.scorer import Scorer, ScoringPolicy
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import from_dict
from streamgauge.pipeline.replay.runner import run_in_process
from streamgauge.transforms.sources.replay import ReplayArchive, blocks_in_time_order, write_archive

EVENTS = 700


@pytest.fixture(scope="module")
def artifact_dir(tmp_path_factory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("artifact") / "a")


@pytest.fixture(scope="module")
def artifact(artifact_dir):
    return artifacts.load(artifact_dir)


@pytest.fixture(scope="module")
def config(artifact_dir):
    return from_dict(
        {
            "artifact": str(artifact_dir),
            "scoring": {"shards": 3, "warmup_events": 30},
            "alerts": {"per_entity_day": 100, "cooldown_s": 600},
        }
    )


@pytest.fixture(scope="module")
def series():
    rng = np.random.default_rng(0)
    made = []
    for name in ("a", "b", "c", "d", "known-0"):
        values = rng.normal(scale=0.2, size=(EVENTS, 3)).astype(np.float32)
        values[500:520] += 50
        time_us = START_US + np.arange(EVENTS) * STEP_US
        made.append(Series(name, time_us, values))
    return made


@pytest.fixture(scope="module")
def replay(config, artifact, series, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay")
    write_archive(folder / "archive", series, config.scoring.shards, 128)
    reading = ReplayArchive(str(folder / "archive"))
    return run_in_process(config, artifact, reading, directory=folder / "parts")


def test_every_event_is_scored_once_and_as_by_the_core_alone(replay, artifact, config, series):
    scorer = Scorer(artifact, config.scoring, config.alerts)
    table = EntityTable(scorer.layout)
    expected = np.concatenate([scorer.step(table, b).score for b in blocks_in_time_order(series)])
    assert replay.scores.num_rows == 5 * EVENTS
    np.testing.assert_array_equal(replay.scores.column("score").to_numpy(), expected)


def test_alerts_carry_what_the_pager_needs(replay, artifact):
    opened = [alert for alert in replay.alerts if alert["status"] == "opened"]
    assert {alert["entity_id"] for alert in opened} == {"a", "b", "c", "d", "known-0"}
    alert = opened[0]
    assert set(alert) == {
        "id", "alert_id", "status", "reason", "severity", "entity_id", "event", "score",
        "threshold", "rarity_1_in_n", "model", "features", "window", "explanation",
    }  # fmt: skip
    assert alert["model"]["digest"] == artifact.digest
    assert set(alert["event"]) == {"topic", "partition", "offset", "row", "time_us"}
    assert alert["score"] >= alert["threshold"]
    assert set(alert["features"][0]) == {"name", "value", "expected", "contribution"}
    assert len({a["id"] for a in replay.alerts}) == len(replay.alerts)


def test_drift_reports_count_every_event(replay):
    assert sum(report["events"] for report in replay.drift) == 5 * EVENTS
    assert {"features", "score", "loss_mean", "loss_mean_training"} <= set(replay.drift[0])


def test_a_second_replay_says_the_same(replay, config, artifact, series, tmp_path):
    write_archive(tmp_path / "archive", series, config.scoring.shards, 128)
    reading = ReplayArchive(str(tmp_path / "archive"))
    again = run_in_process(config, artifact, reading, directory=tmp_path / "parts")
    assert again.scores.equals(replay.scores)
    assert again.alerts == replay.alerts
    assert again.drift == replay.drift


def live_proto(config, artifact):
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=PortableRunner"]))
    reading = graph.live_reading(config, artifact)
    sinks, state = graph.topic_sinks(config), graph.live_state(config)
    graph.build(pipeline, config, artifact, reading, sinks, state, is_live=True)
    return pipeline.to_runner_api()


def test_step_names_are_a_contract(config, artifact):
    proto = live_proto(config, artifact)
    names = {t.unique_name for t in proto.components.transforms.values()}
    assert {
        "ReadTelemetry/KeepAlive",
        "ReadTelemetry/DiscoverPartitions",
        "ReadTelemetry/PollPartitions",
        "ScoreEntities/ScoreBlocks",
        "FormatAlerts/Format",
        "WriteAlerts/Produce",
        "WriteScores/Produce",
        "WriteDrift/Produce",
        "WriteHealth/Produce",
        "WriteDeadLetters/Produce",
    } <= names


def test_nothing_is_pickled_on_any_edge_or_in_any_state(config, artifact):
    proto = live_proto(config, artifact)
    components = proto.components
    plain = {
        "beam:coder:bytes:v1", "beam:coder:kv:v1", "beam:coder:global_window:v1",
        "beam:coder:varint:v1", "beam:coder:string_utf8:v1",
    }  # fmt: skip

    def urns(coder_id):
        coder = components.coders[coder_id]
        return {coder.spec.urn}.union(*map(urns, coder.component_coder_ids), set())

    for name, collection in components.pcollections.items():
        maker = [
            t.unique_name for t in components.transforms.values() if name in t.outputs.values()
        ]
        assert urns(collection.coder_id) <= plain, maker
    for transform in components.transforms.values():
        if transform.spec.urn == "beam:transform:pardo:v1":
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            for state in payload.state_specs.values():
                kind = state.WhichOneof("spec")
                coder = {
                    "bag_spec": "element_coder_id", "read_modify_write_spec": "coder_id",
                }[kind]  # fmt: skip
                assert urns(getattr(getattr(state, kind), coder)) <= plain, transform.unique_name


def test_policies_of_the_live_job_reach_the_scorer(config, artifact):
    spec = graph.scoring(config, artifact, graph.live_state(config), is_live=True)._spec
    assert isinstance(spec.scoring, ScoringPolicy)
    assert isinstance(spec.alerts, AlertPolicy)
    assert (spec.scoring.warmup_events, spec.alerts.per_entity_day) == (30, 100)
