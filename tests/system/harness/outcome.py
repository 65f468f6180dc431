"""What must come of a log, what did, and whether the two are equal to the bit.

What must come out is worked out without Beam, shards and state: one entity table meets
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
    """A log, scored by one table in one go."""

    scores: pa.Table
    #: By identity "topic/partition/offset/row".
    letters: dict[str, DeadLetter]
    transitions: list[Transition]


def score_offline(cluster: ClusterInfo, config: Config) -> Expected:
    """Score everything that lies on the input topic now."""
    return score_logs([live.read_all(cluster, config.input.topic)], config)[0]


def score_logs(logs: Sequence[Sequence[Any]], config: Config) -> list[Expected]:
    """Score what was sent, log by log, each in the order of its offsets.

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
    """What must come of two logs together."""
    return Expected(
        plain(pa.concat_tables([first.scores, second.scores])),
        {**first.letters, **second.letters},
        [*first.transitions, *second.transitions],
    )


def _by_partition(messages: Sequence[Any]) -> Iterator[tuple[int, list[Message]]]:
    found: dict[int, list[Message]] = {}
    for m in messages:
        event = Message(m.offset, m.timestamp * 1000, m.value or b"")
        found.setdefault(m.partition, []).append(event)
    for partition in sorted(found):
        yield partition, sorted(found[partition], key=lambda m: m.offset)


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
    """What a job has written, repeats included."""

    scores: pa.Table
    letters: list[tuple[str, dict[str, str], bytes]]
    alerts: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredFleet:
    """A log of 200,000 events, what a live job made of it, and what it should have made."""

    config: Config
    produced: fleet.Produced
    found: Outputs
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
    """Wait until a job has written everything that it must write at least.

    A wrong score is told as one, and not as an alert that does not come.
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
    """Everything that a job has written."""
    letters = letters_of(live.read_all(cluster, config.dead_letters.topic))
    return Outputs(
        read_scores(cluster, config),
        letters,
        alerts_of(live.read_all(cluster, config.alerts.topic)),
    )


def read_scores(cluster: ClusterInfo, config: Config) -> pa.Table:
    """Every score that a job has written."""
    assert config.scores.topic is not None
    messages = live.read_all(cluster, config.scores.topic)
    return plain(pa.Table.from_batches([b for m in messages for b in live.batches(m.value)]))


def check_complete(found: Outputs, expected: Expected) -> None:
    """Nothing is missing, nothing is invented, and every repeat says the same, to the bit."""
    assert differing(found.scores, expected.scores) == 0
    assert len(without_repeats(found.scores)) == len(expected.scores)
    letters = {name: (about["reason"], payload) for name, about, payload in found.letters}
    assert letters == {name: (one.reason, one.payload) for name, one in expected.letters.items()}
    assert alert_events(found.alerts) == transition_events(expected.transitions)


def alert_events(alerts: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What each alert says, and about which event."""
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
    """The same of transitions offline."""
    return sorted(
        (
            *(getattr(one, name) for name in KEY),
            *(one.status, str(one.reason), one.severity, one.entity_id),
            *(one.score, one.threshold, one.events, one.peak),
        )
        for one in transitions
    )


def letters_of(messages: Iterable[Any]) -> list[tuple[str, dict[str, str], bytes]]:
    """Dead letters as (id, headers, payload), repeats included."""
    found = []
    for message in messages:
        about = {
            name.removeprefix(LETTER_PREFIX): value.decode() for name, value in message.headers
        }
        found.append((about["id"], about, message.value))
    return found


def alerts_of(messages: Iterable[Any]) -> dict[str, Any]:
    """Alert records by id; repeats must say the same."""
    found: dict[str, Any] = {}
    for message in messages:
        record = json.loads(message.value)
        assert dict(message.headers)["ce_id"].decode() == record["id"]
        assert found.setdefault(record["id"], record) == record
    return found


def plain(table: pa.Table) -> pa.Table:
    """Scores in log order, verdicts as text."""
    at = table.schema.get_field_index("verdict")
    table = table.set_column(at, "verdict", table["verdict"].cast(pa.string()))
    return table.combine_chunks().sort_by([(name, "ascending") for name in KEY])


def without_repeats(table: pa.Table) -> pa.Table:
    """The first score of every event, of a table in log order."""
    if not len(table):
        return table
    key = np.stack([table[name].to_numpy() for name in KEY])
    return table.filter(pa.array(np.r_[True, (key[:, 1:] != key[:, :-1]).any(axis=0)]))


def events_of(table: pa.Table) -> list[tuple[int, int, int]]:
    """Which event each row is about."""
    return list(zip(*(table[name].to_pylist() for name in KEY), strict=True))


def differing(found: pa.Table, expected: pa.Table) -> int:
    """How many of the scored events differ from what is expected, in any bit of any column."""
    assert found.column_names == expected.column_names
    place = {event: i for i, event in enumerate(events_of(expected))}
    assert place.keys() >= set(events_of(found)), "no other event may be scored"
    at = pa.array([place[event] for event in events_of(found)])
    same = np.ones(len(found), bool)
    for name in found.column_names:
        ours, theirs = found[name].to_numpy(), expected[name].take(at).to_numpy()
        if ours.dtype == np.float32:  # as bits: NaN equals itself, and 0 is not -0
            ours, theirs = ours.view(np.uint32), theirs.view(np.uint32)
        same &= ours == theirs
    return int((~same).sum())
