"""`streamgauge audit` on the real broker: exact where it is, and not where a bit was changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from fixtures.artifacts import make_artifact
from streamgauge.infra.local.info import ClusterInfo
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.block import Block
from streamgauge.models.errors import ConfigError
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline.audit.audit import audit
from streamgauge.pipeline.audit.report import OLDER
from streamgauge.pipeline.cli.main import app
from streamgauge.pipeline.config import Config, to_dict
from streamgauge.transforms.messages.fitting import fit
from streamgauge.transforms.messages.outgoing import Outgoing, decode_outgoing
from streamgauge.transforms.messages.scores import SCHEMA, encode_scores
from system.harness import live
from system.harness.outcome import PARTITIONS, ScoredFleet, events_of

pytestmark = pytest.mark.system

START_US = 1_704_067_200_000_000
EARLY, LATE = ["old-0", "old-1"], ["new-0", "new-1", "new-2"]


def test_a_live_job_that_speaks_json_and_arrow_is_exact(scored_fleet: ScoredFleet) -> None:
    report = audit(scored_fleet.config, entities=25, seed=3, narrate=live.silent)
    assert report.is_exact
    assert len(report.audited) == 25
    assert 4_500 < report.total("compared") <= 25 * 200  # 1 % of the events is malformed
    assert report.total("compared") == report.total("events")
    mine = [one.entity_id for one in report.entities]
    scored = scored_fleet.expected.scores
    expected = pc.is_in(scored["entity_id"], value_set=pa.array(mine))
    assert report.total("compared") == pc.sum(expected).as_py()


def test_a_flipped_bit_and_a_lost_score_of_a_live_job_are_caught(
    cluster: ClusterInfo, scored_fleet: ScoredFleet, tmp_path: Path
) -> None:
    scored = scored_fleet.expected.scores
    names = sorted(set(scored["entity_id"].to_pylist()))
    altered, robbed, left_alone = names[10], names[500], names[990]
    flipped: list[tuple[int, int, int]] = []
    lost = middle_event(scored, robbed)

    def change(table: pa.Table) -> pa.Table:
        is_lost = [event == lost for event in events_of(table)]
        table = table.filter(pc.invert(pa.array(is_lost, pa.bool_())))
        at = table["entity_id"].to_pylist()
        if altered not in at or flipped:
            return table
        bits = table["score"].to_numpy().view(np.uint32).copy()
        bits[at.index(altered)] ^= 1
        flipped.append(events_of(table)[at.index(altered)])
        place = table.schema.get_field_index("score")
        return table.set_column(place, "score", pa.array(bits.view(np.float32)))

    config = copy_scores(cluster, scored_fleet.config, change)
    path = tmp_path / "job.json"  # YAML, too
    path.write_text(json.dumps(to_dict(config)))

    chosen = [f"--entity={name}" for name in (altered, robbed, left_alone)]
    ran = CliRunner().invoke(app, ["audit", "-c", str(path), *chosen, "--json"])

    assert ran.exit_code == 1
    *lines, last = ran.stdout.splitlines()
    where = "/".join(map(str, flipped[0]))
    assert lines[-1].startswith(
        f"NOT exact: 1 scores differ, 1 are missing. First: {altered}, {where}: score must be "
    )
    assert {
        one["entity_id"]: (one["differing"], one["missing"]) for one in json.loads(last)["entities"]
    } == {altered: (1, 0), robbed: (0, 1), left_alone: (0, 0)}


def test_scores_that_are_still_to_come_are_not_missing(
    cluster: ClusterInfo, tmp_path: Path
) -> None:
    config = small_job(cluster, tmp_path, "arrow")
    fill(cluster, config, EARLY * 30, scored=41)
    report = audit(config, narrate=live.silent)
    assert report.is_exact
    assert (report.total("compared"), report.total("waiting")) == (41, 19)
    assert report.sentence().endswith("; 19 events are not scored yet.")


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_entities_older_than_the_log_are_distinguished_from_new_ones(
    cluster: ClusterInfo, tmp_path: Path, form: str
) -> None:
    config = small_job(cluster, tmp_path, form)
    fill(cluster, config, EARLY * 30 + (EARLY + LATE) * 30)
    whole = audit(config, narrate=live.silent)
    assert (whole.is_exact, len(whole.audited), whole.truncated_partitions) == (True, 5, [])
    client = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    for done in client.delete_records([TopicPartition(config.input.topic, 0, 60)]).values():
        done.result(30)

    lines: list[str] = []
    report = audit(config, narrate=lines.append)

    assert report.is_exact
    assert report.truncated_partitions == [0]
    assert {one.entity_id for one in report.entities if one.left_out == OLDER} == set(EARLY)
    assert {one.entity_id for one in report.audited} == set(LATE)
    assert report.total("compared") == len(LATE) * 30
    assert any("entities with older events cannot be audited" in line for line in lines)
    with pytest.raises(
        ConfigError, match="must have all its events in the log; all 2 are left out"
    ):
        audit(config, named=EARLY, narrate=live.silent)


def test_an_audit_that_is_impossible_is_refused_in_one_line(
    cluster: ClusterInfo, tmp_path: Path
) -> None:
    config = small_job(cluster, tmp_path, "arrow")
    fill(cluster, config, EARLY)
    scores = dataclasses.replace(config.scores, topic=None)
    with pytest.raises(ConfigError, match="scores.topic: must name the topic of scores"):
        audit(dataclasses.replace(config, scores=scores), narrate=live.silent)
    scores = dataclasses.replace(config.scores, topic="never-there")
    with pytest.raises(ConfigError, match="'never-there' must exist"):
        audit(dataclasses.replace(config, scores=scores), narrate=live.silent)
    other = make_artifact(tmp_path / "other", seed=9)
    with pytest.raises(ConfigError, match="must hold scores of .* it holds 1 messages"):
        audit(dataclasses.replace(config, artifact=str(other)), narrate=live.silent)


def copy_scores(
    cluster: ClusterInfo, config: Config, change: Callable[[pa.Table], pa.Table]
) -> Config:
    """The job as if its scores had been written as `change` (of a message's scores) says."""
    assert config.scores.topic is not None
    topic = live.new_name("altered")
    live.create_topic(cluster, topic, PARTITIONS)
    actual = []
    for m in sorted(
        live.read_all(cluster, config.scores.topic), key=lambda m: (m.partition, m.offset)
    ):
        table = change(pa.Table.from_batches(live.batches(m.value)))
        if len(table):
            actual.append(Outgoing(m.key, stream(table), m.headers))
    send(cluster, topic, actual)
    return dataclasses.replace(config, scores=dataclasses.replace(config.scores, topic=topic))


def middle_event(scores: pa.Table, name: str) -> tuple[int, int, int]:
    """An event of an entity, with others of it before and after."""
    mine = events_of(scores.filter(pc.equal(scores["entity_id"], name)))
    return mine[len(mine) // 2]


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def send(cluster: ClusterInfo, topic: str, messages: Iterable[Outgoing]) -> None:
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers})
    for one in chain.from_iterable(fit(message, 1_000_000) for message in messages):
        producer.produce(topic, one.value, one.key, headers=list(one.headers))
    assert producer.flush(live.DEADLINE_S) == 0


def small_job(cluster: ClusterInfo, folder: Path, form: str) -> Config:
    """A job of three features whose topics are there and empty."""
    topic = live.new_name("small")
    scores: dict[str, Any] = {"topic": f"{topic}.scores", "format": form}
    config = live.job_config(cluster, make_artifact(folder / "a"), topic, scores=scores)
    for name in (topic, *config.output_topics()):
        live.create_topic(cluster, name, 1)
    return config


def fill(
    cluster: ClusterInfo, config: Config, entities: list[str], scored: int | None = None
) -> None:
    """Events of `entities` on the input topic, and the first of their scores as a job does it."""
    count = len(entities)
    values = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    times = START_US + 60_000_000 * np.arange(count, dtype=np.int64)
    events = [
        msgspec.json.encode({"entity_id": name, "event_time_us": time, "features": row})
        for name, time, row in zip(entities, times.tolist(), values.tolist(), strict=True)
    ]
    keys = [name.encode() for name in entities]
    send(
        cluster,
        config.input.topic,
        [Outgoing(key, value, []) for key, value in zip(keys, events, strict=True)],
    )
    offset, row = np.arange(count, dtype=np.int64), np.zeros(count, np.int32)
    whole = Block(0, 0, count, -1, offset, row, times, pa.array(entities, pa.string()), values)
    block = whole.take(np.arange(scored or count), -1)
    artifact = artifacts.load(Path(config.artifact))
    scorer = Scorer(artifact, config.scoring.policy, config.alerts.policy)
    result = scorer.step(EntityTable(scorer.layout), block)
    messages = encode_scores(config.input.topic, artifact.digest, result, config.scores.format)
    assert config.scores.topic is not None
    every = chain.from_iterable(map(decode_outgoing, messages))
    send(cluster, config.scores.topic, every)
