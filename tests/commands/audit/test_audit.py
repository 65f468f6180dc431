"""An audit says what is missing, what differs and what is only late, and of whom it cannot know."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fixtures.artifacts import make_artifact
from fixtures.blocks import make_block
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.chain import cut, new_ends
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable
from streamgauge.pipeline.audit.audit import _is_older
from streamgauge.pipeline.audit.report import AuditReport, EntityAudit, compare
from streamgauge.pipeline.audit.rescore import Rescorer
from streamgauge.pipeline.audit.score_log import Sample
from streamgauge.pipeline.config import Scoring
from streamgauge.transforms.messages.scores import SCORE_BITS
from streamgauge.transforms.sources.replay import Range

EVENTS = 8
FAR = 1_000  # further than any event here


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a"))


def scores(events: int = EVENTS, seed: int = 0) -> np.ndarray:
    """Scores of one event per offset from 10 on."""
    rng = np.random.default_rng(seed)
    made = np.zeros(events, SCORE_BITS)
    made["partition"], made["offset"] = 3, 10 + np.arange(events)
    made["event_time_us"] = 1_700_000_000_000_000 + made["offset"]
    for name in ("score", "rarity_1_in_n"):
        made[name] = rng.normal(5, 1, events).astype(np.float32).view(np.uint32)
    made["verdict"] = 1
    return made


def test_equal_scores_are_exact() -> None:
    one = compare("a", scores(), scores(), reached=FAR)
    assert (one.events, one.compared, one.missing, one.differing, one.repeats) == (8, 8, 0, 0, 0)
    assert one.is_exact and one.first_fault is None


@pytest.mark.parametrize("name", ["score", "rarity_1_in_n", "verdict", "event_time_us"])
def test_one_flipped_bit_differs(name: str) -> None:
    found = scores()
    found[name][5] ^= 1
    one = compare("a", scores(), found, reached=FAR)
    assert (one.compared, one.differing, one.missing) == (8, 1, 0)
    assert one.first_fault is not None
    assert one.first_fault.startswith(f"First: a, 3/15/0: {name} must be ")


def test_a_zero_of_the_other_sign_differs_and_equal_nans_do_not() -> None:
    ours, theirs = scores(2), scores(2)
    nan = np.float32(np.nan).view(np.uint32)
    for made, zero in ((ours, 0.0), (theirs, -0.0)):
        made["score"] = [np.float32(zero).view(np.uint32), nan]
    assert compare("a", ours, theirs, reached=FAR).differing == 1


def test_a_repeat_is_counted_and_a_repeat_with_another_score_differs() -> None:
    found = np.concatenate([scores(), scores()[2:5]])
    assert compare("a", scores(), found, reached=FAR).repeats == 3
    assert compare("a", scores(), found, reached=FAR).is_exact
    found["score"][-1] ^= 1 << 31
    one = compare("a", scores(), found, reached=FAR)
    assert (one.repeats, one.differing, one.compared) == (3, 1, 8)


def test_a_gap_is_missing_and_events_after_the_last_score_are_waiting() -> None:
    found = np.delete(scores(), [3, 6, 7])
    one = compare("a", scores(), found, reached=15)
    assert (one.missing, one.waiting, one.compared) == (1, 2, 5)
    assert one.first_fault == "First: a, 3/13/0, has no score"
    assert not one.is_exact


def test_an_entity_without_any_score_is_missing_if_its_chain_has_later_scores() -> None:
    nothing = np.empty(0, SCORE_BITS)
    assert compare("a", scores(), nothing, reached=13).missing == 4
    assert compare("a", scores(), nothing, reached=-1).waiting == 8


def test_rows_of_one_message_are_different_events() -> None:
    ours = scores()
    ours["offset"], ours["row"] = 10, np.arange(EVENTS)
    found = np.delete(ours, 4)
    one = compare("a", ours, found, reached=10)
    assert (one.compared, one.missing, one.repeats) == (7, 1, 0)
    assert one.first_fault == "First: a, 3/10/4, has no score"


def test_a_score_of_an_event_that_the_log_does_not_have_differs() -> None:
    one = compare("a", scores()[:7], scores(), reached=FAR)
    assert one.differing == 1
    assert one.first_fault == "First: a, 3/17/0, has a score but is not an event of the log"
    assert compare("a", np.empty(0, SCORE_BITS), scores(2), reached=FAR).differing == 2


def test_scores_older_than_the_scores_topic_are_not_missing() -> None:
    one = compare("a", scores(), scores()[3:], reached=FAR, from_offset=13)
    assert (one.missing, one.waiting, one.compared) == (0, 0, 5)


def test_swapped_scores_of_two_entities_differ_in_both() -> None:
    first, second = scores(seed=1), scores(seed=2)
    second["offset"] += 100
    swapped = [one.copy() for one in (first, second)]
    swapped[0]["score"], swapped[1]["score"] = second["score"], first["score"]
    for ours, theirs in zip((first, second), swapped, strict=True):
        assert compare("a", ours, theirs, reached=FAR).differing == EVENTS


def test_an_entity_is_older_than_the_log_by_its_first_score() -> None:
    warming = scores()
    warming["verdict"][:2] = 0
    for given, found, is_whole, expected in (
        (Range(3, 0, 99), scores(), False, False),  # the log has its beginning
        (Range(3, 10, 99), scores(), True, False),  # all scores are there: the first is in the log
        (Range(3, 11, 99), scores(), True, True),
        (Range(3, 10, 99), scores(), False, True),  # older scores are gone: who knows
        (Range(3, 10, 99), warming, False, False),  # but this one was surely new
        (Range(3, 10, 99), np.empty(0, SCORE_BITS), True, False),
    ):
        assert _is_older(found, given, is_whole) is expected, (given, is_whole)


def test_the_sample_is_the_same_in_any_order_and_another_with_another_seed() -> None:
    names = [f"e{i}" for i in range(200)]

    def sampled(order: list[str], seed: int) -> list[str]:
        sample = Sample(5, seed)
        for name in order:
            sample.takes(name)
        return sample.names()

    assert len(sampled(names, 0)) == 5
    assert sampled(names, 0) == sampled(names[::-1], 0) == sampled(names + names, 0)
    assert sampled(names, 0) != sampled(names, 1)


def test_an_entity_that_left_the_sample_never_comes_back() -> None:
    sample, out = Sample(3, 7), set()
    for name in [f"e{i % 100}" for i in range(300)]:
        before = set(sample.names())
        assert not (sample.takes(name) and name in out)
        out |= before - set(sample.names())
    assert len(out) > 3


def test_named_entities_are_the_whole_sample() -> None:
    sample = Sample(20, 0, ["b", "a"])
    assert [name for name in ("a", "b", "c") if sample.takes(name)] == ["a", "b"]
    assert sample.names() == ["a", "b"]


def report(*entities: EntityAudit) -> AuditReport:
    return AuditReport("in", "scores", "d" * 64, list(entities), 0, 1.5)


def test_the_report_ends_in_one_plain_sentence() -> None:
    good, late = (
        compare("a", scores(), scores(), reached=FAR),
        compare("b", scores(), scores()[:6], reached=15),
    )
    left = EntityAudit("c", left_out="older than the log")
    lines = list(report(good, late, left).lines())
    assert lines[0].split() == ["entity", "events", "compared", "missing", "differing", "repeats"]
    assert lines[1].split() == ["a", "8", "8", "0", "0", "0"]
    assert lines[3].split(maxsplit=1) == ["c", "not audited: older than the log"]
    assert lines[4].split() == ["total", "16", "14", "0", "0", "0"]
    assert lines[5] == (
        "Exact: 14 scores of 2 entities equal, bit for bit, those computed again from the log; "
        "2 events are not scored yet."
    )


def test_the_report_of_a_flipped_bit_names_it_and_is_not_exact() -> None:
    found = scores()
    found["score"][1] ^= 1
    wrong = report(
        compare("a", scores(), scores(), reached=FAR), compare("b", scores(), found, reached=FAR)
    )
    assert not wrong.is_exact
    assert wrong.sentence().startswith(
        "NOT exact: 1 scores differ, 0 are missing. First: b, 3/11/0"
    )
    told = json.loads(json.dumps(wrong.to_json()))
    assert (told["is_exact"], told["total"]["differing"]) == (False, 1)


def test_a_hostile_name_cannot_write_to_the_terminal() -> None:
    bad = "x\x1b]8;;http://evil\x07" + "y" * 100
    found = scores()
    found["score"][0] ^= 1
    text = "\n".join(report(compare(bad, scores(), found, reached=FAR)).lines())
    assert "\x1b" not in text and "\x07" not in text


def crowd(events: int, seed: int) -> Block:
    """Entities with steady, late and runaway clocks, some of them silent for long."""
    rng = np.random.default_rng(seed)
    names = [f"e{i}" for i in rng.integers(0, 40, events)]
    block = make_block(names, seed=seed)
    away = np.array([name in ("e1", "e2", "e3") for name in names])
    block.event_time_us[away] += rng.choice([0, 10 * 3_600_000_000], int(away.sum()))
    late = rng.random(events) < 0.1
    block.event_time_us[late] -= 2 * 3_600_000_000
    block.event_time_us[events // 2 :] += 5 * 3_600_000_000
    return block


@pytest.mark.parametrize("routing", ["entity", "partition"])
@pytest.mark.parametrize("late", ["score", "set_aside"])
def test_a_sample_scored_alone_has_the_bits_of_the_job_also_when_entities_expire(
    artifact: Artifact, routing: str, late: str
) -> None:
    policy = ScoringPolicy(late=late, entity_ttl_s=3_600, warmup_events=5)
    scoring = Scoring(policy, shards=3)
    block = crowd(2_000, 1)
    sample = ["e1", "e7", "e20", "e33"]
    cuts = np.split(np.arange(len(block)), [10, 500, 501, 1_400])
    pieces = [block.take(part, -1) for part in cuts]

    expected: dict[str, list[bytes]] = {}
    scorer, tables, ends = Scorer(artifact, policy, AlertPolicy()), {}, new_ends(3)
    restarts = 0
    for shard, one in cut(block, ends, routing):
        table = tables.setdefault(shard, EntityTable(scorer.layout))
        scored = scorer.step(table, one)
        names = np.array(scored.block.entity_id.to_pylist())
        for name in sample:
            expected.setdefault(name, []).append(scored.score[names == name].tobytes())
        seen = dict(zip(table.entity_ids, table.rows["event_count"].tolist(), strict=False))
        restarts += sum(seen.get(name, 0) < (names == name).sum() for name in sample)
    assert restarts, "the clock must matter here"

    derived = Rescorer(artifact, scoring, AlertPolicy(), routing=routing, sample=sample)
    for piece in pieces:
        derived.take(piece)
    for name in sample:
        assert derived.scores_of(name)["score"].tobytes() == b"".join(expected[name])
        assert derived.partition[name] == 0
    assert not derived.scattered


def test_events_that_a_full_shard_refused_are_not_scored(artifact: Artifact) -> None:
    block = make_block(["a", "b"] * 20)
    refused = {(0, 2, 0), (0, 4, 0)}
    kept = block.take(np.delete(np.arange(40), [2, 4]), -1)
    derived = Rescorer(
        artifact, Scoring(), AlertPolicy(), routing="entity", sample=["a"], refused=refused
    )
    derived.take(block)
    plain = Rescorer(artifact, Scoring(), AlertPolicy(), routing="entity", sample=["a"])
    plain.take(kept)
    assert derived.scores_of("a").tobytes() == plain.scores_of("a").tobytes()
    assert derived.refusals == {"a": 2}


def test_an_entity_in_two_partitions_cannot_be_audited(artifact: Artifact) -> None:
    derived = Rescorer(artifact, Scoring(), AlertPolicy(), routing="entity", sample=["a", "b"])
    derived.take(make_block(["a", "b"]))
    derived.take(make_block(["a"], partition=1))
    assert derived.scattered == {"a"}
