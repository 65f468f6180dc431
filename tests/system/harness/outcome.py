"""The expected and the actual outputs of a job, and their comparison bit for bit.

The expected outputs are computed without Beam, shards and state cells: one entity table processes
the log, partition by partition.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from streamgauge.infra.local.info import ClusterInfo
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.scored_block import VERDICTS, ScoredBlock, Transition
from streamgauge.models.events.decoder import DeadLetter, Decoder, Message
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline.config import Config
from system.harness import fleet, live
from system.harness.live import KEY

PARTITIONS = 4
LETTER_PREFIX = "__streamgauge.errors."


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """The expected outputs of a log, scored by one entity table without interruption."""

    scores: pa.Table
    #: By identity "topic/partition/offset/row".
    letters: dict[str, DeadLetter]
    transitions: list[Transition]


def score_offline(cluster: ClusterInfo, config: Config) -> Expected:
    """Score everything that is on the input topic now."""
    return score_logs([live.read_all(cluster, config.input.topic)], config)[0]


def score_logs(logs: Sequence[Sequence[Any]], config: Config) -> list[Expected]:
    """Score logs one after the other, each in the order of its offsets.

    Between one log and the next, the partitions of the next one have lost offsets.
    """
    artifact = artifacts.load(Path(config.artifact))
    decoder = Decoder(artifact.schema, config.input.limits)
    scorer = Scorer(artifact, config.scoring.policy, config.alerts.policy)
    table = EntityTable(scorer.layout)
    return [
        _score_log(log, offset_resets, config, decoder, scorer, table)
        for offset_resets, log in enumerate(logs)
    ]


def _score_log(
    log: Sequence[Any],
    offset_resets: int,
    config: Config,
    decoder: Decoder,
    scorer: Scorer,
    table: EntityTable,
) -> Expected:
    tables, letters, transitions = [], {}, []
    for partition, messages in _by_partition(log):
        block, dead = decoder.decode(partition, messages, 0, messages[-1].offset + 1)
        scored = scorer.step(table, replace(block, offset_resets=offset_resets))
        assert not scored.set_aside
        tables.append(_score_table(block, scored))
        transitions += scored.transitions
        for one in dead:
            letters[f"{config.input.topic}/{partition}/{one.offset}/{one.row}"] = one
    return Expected(plain(pa.concat_tables(tables)), letters, transitions)


def joined(first: Expected, second: Expected) -> Expected:
    """Join the expected outputs of two logs."""
    return Expected(
        plain(pa.concat_tables([first.scores, second.scores])),
        {**first.letters, **second.letters},
        [*first.transitions, *second.transitions],
    )


def _by_partition(messages: Sequence[Any]) -> Iterator[tuple[int, list[Message]]]:
    actual: dict[int, list[Message]] = {}
    for m in messages:
        event = Message(m.offset, m.timestamp * 1000, m.value or b"")
        actual.setdefault(m.partition, []).append(event)
    for partition in sorted(actual):
        yield partition, sorted(actual[partition], key=lambda m: m.offset)


def _score_table(block: Block, scored: ScoredBlock) -> pa.Table:
    return pa.table(
        {
            "entity_id": block.entity_id,
            "event_time_us": block.event_time_us,
            "partition": np.full(len(block), block.partition, np.int32),
            "offset": block.offset,
            "row": block.row,
            "score": scored.score,
            "rarity_1_in_n": scored.rarity_1_in_n,
            "verdict": pa.array([VERDICTS[v] for v in scored.verdict.tolist()]),
            "confidence": scored.confidence,
        }
    )


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """The outputs of a job, repeats included."""

    scores: pa.Table
    letters: list[tuple[str, dict[str, str], bytes]]
    alerts: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredFleet:
    """A log of 200,000 events, the outputs of a live job, and the expected outputs."""

    config: Config
    produced: fleet.Produced
    actual: Outputs
    expected: Expected


def score_fleet(cluster: ClusterInfo, artifact: Path) -> ScoredFleet:
    """Fill a topic, start a live job on it, wait for all its outputs, and cancel the job."""
    topic = live.new_name("fleet")
    live.create_topic(cluster, topic, PARTITIONS)
    produced = fleet.produce_fleet(cluster, topic)
    config, jobs = live.job_config(cluster, artifact, topic), live.Jobs(cluster)
    try:
        jobs.start(config)
        expected = score_offline(cluster, config)
        await_outputs(cluster, config, expected, jobs)
    finally:
        jobs.cancel_all()
    return ScoredFleet(config, produced, read_outputs(cluster, config), expected)


def await_outputs(
    cluster: ClusterInfo, config: Config, expected: Expected, jobs: live.Jobs
) -> None:
    """Wait until a job has written at least every expected output.

    Scores are compared first, so that a wrong one is reported as such and not as a missing alert.
    """
    with live.Scores(cluster, config) as scores:
        scores.await_events(len(expected.scores), jobs)
    assert differing(read_scores(cluster, config), expected.scores) == 0
    with live.Topic(cluster, config.dead_letters.topic) as letters:
        live.wait_for(
            lambda: (
                letters.poll() is not None
                and len({name for name, *_ in letters_of(letters.messages)})
                >= len(expected.letters)
            ),
            f"{len(expected.letters):,} dead letters",
            jobs,
        )
    with live.Topic(cluster, config.alerts.topic) as alerts:
        live.wait_for(
            lambda: (
                alerts.poll() is not None
                and len(alerts_of(alerts.messages)) >= len(expected.transitions)
            ),
            f"{len(expected.transitions):,} alerts",
            jobs,
        )


def read_outputs(cluster: ClusterInfo, config: Config) -> Outputs:
    """Read every output of a job."""
    letters = letters_of(live.read_all(cluster, config.dead_letters.topic))
    return Outputs(
        read_scores(cluster, config),
        letters,
        alerts_of(live.read_all(cluster, config.alerts.topic)),
    )


def read_scores(cluster: ClusterInfo, config: Config) -> pa.Table:
    """Read every score of a job."""
    assert config.scores.topic is not None
    messages = live.read_all(cluster, config.scores.topic)
    return plain(pa.Table.from_batches([b for m in messages for b in live.batches(m.value)]))


def check_complete(actual: Outputs, expected: Expected) -> None:
    """Assert that nothing is missing or extra, and that repeats are equal bit for bit."""
    assert differing(actual.scores, expected.scores) == 0
    assert len(without_repeats(actual.scores)) == len(expected.scores)
    letters = {name: (about["reason"], payload) for name, about, payload in actual.letters}
    assert letters == {name: (one.reason, one.payload) for name, one in expected.letters.items()}
    assert alert_events(actual.alerts) == transition_events(expected.transitions)


def alert_events(alerts: dict[str, Any]) -> list[tuple[Any, ...]]:
    """List the content of each alert and its event, sorted."""
    return sorted(
        (
            *(alert["event"][name] for name in KEY),
            *(alert["status"], str(alert["reason"]), alert["severity"], alert["entity_id"]),
            *(alert["score"], alert["threshold"]),
            *(alert["window"]["events"], alert["window"]["peak"]),
        )
        for alert in alerts.values()
    )


def transition_events(transitions: Iterable[Transition]) -> list[tuple[Any, ...]]:
    """List the same of offline transitions."""
    return sorted(
        (
            *(getattr(one, name) for name in KEY),
            *(one.status, str(one.reason), one.severity, one.entity_id),
            *(one.score, one.threshold, one.events, one.peak),
        )
        for one in transitions
    )


def letters_of(messages: Iterable[Any]) -> list[tuple[str, dict[str, str], bytes]]:
    """Return dead letters as (id, headers, payload), repeats included."""
    actual = []
    for message in messages:
        about = {
            name.removeprefix(LETTER_PREFIX): value.decode() for name, value in message.headers
        }
        actual.append((about["id"], about, message.value))
    return actual


def alerts_of(messages: Iterable[Any]) -> dict[str, Any]:
    """Return alert records by id; assert that repeats are equal."""
    actual: dict[str, Any] = {}
    for message in messages:
        record = json.loads(message.value)
        assert dict(message.headers)["ce_id"].decode() == record["id"]
        assert actual.setdefault(record["id"], record) == record
    return actual


def plain(table: pa.Table) -> pa.Table:
    """Return scores in log order, with verdicts as text."""
    at = table.schema.get_field_index("verdict")
    table = table.set_column(at, "verdict", table["verdict"].cast(pa.string()))
    return table.combine_chunks().sort_by([(name, "ascending") for name in KEY])


def without_repeats(table: pa.Table) -> pa.Table:
    """Return the first score of every event of a table in log order."""
    if not len(table):
        return table
    key = np.stack([table[name].to_numpy() for name in KEY])
    return table.filter(pa.array(np.r_[True, (key[:, 1:] != key[:, :-1]).any(axis=0)]))


def events_of(table: pa.Table) -> list[tuple[int, int, int]]:
    """Return the event of each row."""
    return list(zip(*(table[name].to_pylist() for name in KEY), strict=True))


def differing(actual: pa.Table, expected: pa.Table) -> int:
    """Count the scored events that differ from the expected ones in any bit of any column."""
    assert actual.column_names == expected.column_names
    row_of = {event: i for i, event in enumerate(events_of(expected))}
    assert row_of.keys() >= set(events_of(actual)), "no other event may be scored"
    at = pa.array([row_of[event] for event in events_of(actual)])
    same = np.ones(len(actual), bool)
    for name in actual.column_names:
        ours, theirs = actual[name].to_numpy(), expected[name].take(at).to_numpy()
        if ours.dtype == np.float32:  # as bits: NaN equals itself, and 0 is not -0
            ours, theirs = ours.view(np.uint32), theirs.view(np.uint32)
        same &= ours == theirs
    return int((~same).sum())
