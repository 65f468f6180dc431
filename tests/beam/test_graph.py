"""The graph: step labels, state ids and coders, and a run of the whole graph in one process."""

from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2

from fixtures.artifacts import make_artifact
from fixtures.blocks import START_US, STEP_US
from fixtures.json_schema import check
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.events.series import Series
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline import graph
from streamgauge.pipeline.config import from_dict
from streamgauge.pipeline.replay.runner import run_in_process
from streamgauge.transforms.messages import reference
from streamgauge.transforms.sources.archive import (
    ReplayArchive,
    blocks_in_time_order,
    write_archive,
)

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
    series = []
    for name in ("a", "b", "c", "d", "known-0"):
        values = rng.normal(scale=0.2, size=(EVENTS, 3)).astype(np.float32)
        values[500:520] += 50
        time_us = START_US + np.arange(EVENTS) * STEP_US
        series.append(Series(name, time_us, values))
    return series


@pytest.fixture(scope="module")
def replay(config, artifact, series, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay")
    write_archive(folder / "archive", series, config.scoring.shards, 128)
    reading = ReplayArchive(str(folder / "archive"))
    return run_in_process(config, artifact, reading, directory=folder / "parts")


def test_every_event_is_scored_once_with_the_scores_of_the_core(replay, artifact, config, series):
    scorer = Scorer(artifact, config.scoring.policy, config.alerts.policy)
    table = EntityTable(scorer.layout)
    expected = np.concatenate([scorer.step(table, b).score for b in blocks_in_time_order(series)])
    assert replay.scores.num_rows == 5 * EVENTS
    np.testing.assert_array_equal(replay.scores.column("score").to_numpy(), expected)


def test_alerts_carry_what_a_pager_needs(replay, artifact):
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


def test_messages_of_a_whole_replay_match_their_schemas(replay):
    schemas = reference.schemas()
    assert replay.alerts
    assert replay.drift
    for alert in replay.alerts:
        check(alert, schemas["alert"])
    for report in replay.drift:
        check(report, schemas["drift"])


def test_drift_reports_count_every_event(replay):
    assert sum(report["events"] for report in replay.drift) == 5 * EVENTS
    assert {"features", "score", "loss_mean", "loss_mean_training"} <= set(replay.drift[0])


def test_a_second_replay_writes_the_same(replay, config, artifact, series, tmp_path):
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
    graph.build(pipeline, config, artifact, reading=reading, sinks=sinks, state=state, is_live=True)
    return pipeline.to_runner_api()


#: Beam adds a step named after the class to every ParDo with several outputs.
STEPS = [
    "DeadLetters",
    "FormatAlerts",
    "ReadTelemetry",
    "ReadTelemetry/DiscoverPartitions",
    "ReadTelemetry/Impulse",
    "ReadTelemetry/KeepAlive",
    "ReadTelemetry/PollPartitions",
    "ReadTelemetry/PollPartitions/ParDo(PollPartitions)",
    "ScoreEntities",
    "ScoreEntities/ScoreBlocks",
    "ScoreEntities/ScoreBlocks/ParDo(ScoreBlocks)",
    "WriteAlerts",
    "WriteAlerts/Produce",
    "WriteDeadLetters",
    "WriteDeadLetters/Produce",
    "WriteDrift",
    "WriteDrift/Produce",
    "WriteHealth",
    "WriteHealth/Produce",
    "WriteScores",
    "WriteScores/Produce",
]
#: Every stateful step with the ids of its state cells, and of its timers as Beam prefixes them.
STATE_IDS = {
    "ReadTelemetry/DiscoverPartitions": (["known"], ["ts-again"]),
    "ReadTelemetry/PollPartitions/ParDo(PollPartitions)": (["position"], ["ts-poll"]),
    "ScoreEntities/ScoreBlocks/ParDo(ScoreBlocks)": (
        [
            "drift", "epoch", "held",
            "log-0", "log-1", "log-10", "log-11", "log-2", "log-3", "log-4", "log-5", "log-6",
            "log-7", "log-8", "log-9",
            "snapshot-0", "snapshot-1", "snapshot-10", "snapshot-11", "snapshot-12",
            "snapshot-13", "snapshot-14", "snapshot-15", "snapshot-2", "snapshot-3", "snapshot-4",
            "snapshot-5", "snapshot-6", "snapshot-7", "snapshot-8", "snapshot-9",
        ],
        ["ts-end", "ts-heartbeat"],
    ),
}  # fmt: skip


def par_dos(proto):
    """Step label -> payload of every ParDo."""
    return {
        transform.unique_name: beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
        for transform in proto.components.transforms.values()
        if transform.spec.urn == "beam:transform:pardo:v1"
    }


def test_step_labels_are_a_contract(config, artifact):
    proto = live_proto(config, artifact)
    transforms = dict(proto.components.transforms)
    for root in proto.root_transform_ids:  # the pipeline itself
        del transforms[root]
    assert sorted(transform.unique_name for transform in transforms.values()) == STEPS


def test_ids_of_state_cells_and_timers_are_a_contract(config, artifact):
    ids = {
        label: (sorted(payload.state_specs), sorted(payload.timer_family_specs))
        for label, payload in par_dos(live_proto(config, artifact)).items()
        if payload.state_specs or payload.timer_family_specs
    }
    assert ids == STATE_IDS


def test_nothing_is_pickled(config, artifact):
    """Elements, state cells, timers, restrictions, windows: no coder of the job is Python's own."""
    proto = live_proto(config, artifact)
    urns = {coder.spec.urn for coder in proto.components.coders.values()}
    assert urns == {
        "beam:coder:bytes:v1",
        "beam:coder:kv:v1",
        "beam:coder:global_window:v1",
        "beam:coder:timer:v1",
        "beam:coder:varint:v1",
    }


def test_every_coder_that_a_step_names_is_checked(config, artifact):
    """The test above looks at all coders; here the named ones are shown to be among them."""
    proto = live_proto(config, artifact)
    named = {collection.coder_id for collection in proto.components.pcollections.values()}
    restrictions = set()
    for payload in par_dos(proto).values():
        for state in payload.state_specs.values():
            spec = getattr(state, state.WhichOneof("spec"))
            named.add(spec.element_coder_id if hasattr(spec, "element_coder_id") else spec.coder_id)
        named |= {t.timer_family_coder_id for t in payload.timer_family_specs.values()}
        restrictions |= {payload.restriction_coder_id} - {""}
    assert len(restrictions) == 1
    assert named | restrictions <= set(proto.components.coders)


def test_policies_of_the_live_job_reach_the_scorer(config, artifact):
    spec = graph.scoring(config, artifact, graph.live_state(config), is_live=True)._spec
    assert isinstance(spec.scoring, ScoringPolicy)
    assert isinstance(spec.alerts, AlertPolicy)
    assert (spec.scoring.warmup_events, spec.alerts.per_entity_day) == (30, 100)
