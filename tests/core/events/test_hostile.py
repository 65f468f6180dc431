"""Hostile values are refused with a reason, clipped or scored, and affect no other entity.

Values and times come from a corpus of what producers get wrong and from Hypothesis. They go as
JSON and as Arrow through the decoder and the scorer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.artifacts import make_artifact
from fixtures.blocks import make_block
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.artifacts.artifact import Artifact
from streamgauge.models.blocks.block import Block
from streamgauge.models.blocks.scored_block import ScoredBlock
from streamgauge.models.events import validation
from streamgauge.models.events.decoder import DeadLetter, Decoder
from streamgauge.models.events.validation import Message
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable

NOW_US = 1_704_067_200_000_000  # the Kafka timestamp of every message
SECOND, DAY, YEAR = 1_000_000, 86_400_000_000, 365 * 86_400_000_000
EAGER = AlertPolicy(5_000, 120, new_normal_after=40, critical_rarity_1_in_n=8)
STRICT = ScoringPolicy("set_aside", entities_per_shard_max=2, entity_ttl_s=60, warmup_events=0)
TINY, HUGE = 1e-45, 3.4028234e38  # the smallest denormal and the largest float32
FITTING = [0.0, -0.0, TINY, -TINY, 1.1754942e-38, 1e38, -1e38, HUGE, -HUGE, 1e20, 1.0, None]
OVERFLOWING = [1e39, -1e39, 3.5e38, 1.7976931348623157e308]
#: Values that JSON does not allow, as a producer would write them.
LITERALS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "nan", "0x10", "1_0", "+1", ".5"]
#: A time in a wrong unit, or an impossible one, and the reason of its refusal.
WRONG_TIMES = {
    NOW_US // SECOND: validation.BAD_TIME,
    NOW_US // 1000: validation.BAD_TIME,
    NOW_US * 1000: validation.BAD_TIME,
    0: validation.BAD_TIME,
    -1: validation.BAD_TIME,
    -NOW_US: validation.BAD_TIME,
    -(1 << 63): validation.BAD_TIME,
    (1 << 63) - 1: validation.BAD_TIME,
    NOW_US + DAY: validation.FUTURE_TIME,
    NOW_US + 301 * SECOND: validation.FUTURE_TIME,
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a"))


def as_json(entity_id: str, time_us: int, features: Sequence[object]) -> bytes:
    event = {"entity_id": entity_id, "event_time_us": time_us, "features": features}
    return msgspec.json.encode(event)


def as_arrow(entities: Sequence[str], times: Sequence[int], features: np.ndarray) -> bytes:
    """Features (N, F) of any float type as one column per name, so that nothing is cast here."""
    columns = [pa.array(entities, pa.string()), pa.array(times, pa.int64())]
    columns += [pa.array(features[:, i]) for i in range(features.shape[1])]
    names = ["entity_id", "event_time_us", *(f"f{i:02d}" for i in range(features.shape[1]))]
    return stream(pa.record_batch(columns, names=names))


def stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def decode(artifact: Artifact, payloads: Iterable[bytes]) -> tuple[Block, list[DeadLetter]]:
    messages = [Message(i, NOW_US, payload) for i, payload in enumerate(payloads)]
    return Decoder(artifact.schema).decode(0, messages, 0, len(messages))


def score(
    artifact: Artifact, blocks: Sequence[Block], policy: ScoringPolicy | None = None
) -> tuple[list[ScoredBlock], EntityTable]:
    scorer = Scorer(artifact, policy or ScoringPolicy(warmup_events=2), EAGER)
    table = EntityTable(scorer.layout)
    return [scorer.step(table, block) for block in blocks], table


def assert_finite(scored: Iterable[ScoredBlock], table: EntityTable) -> None:
    """Check that every number in the output and in state is finite."""
    for one in scored:
        for column in (one.score, one.rarity_1_in_n, one.loss):
            assert np.isfinite(column).all()
        for transition in one.transitions:
            numbers = [
                transition.score,
                transition.rarity_1_in_n,
                transition.threshold,
                transition.peak,
            ]
            numbers += [x for _, value, expected, share in transition.features
                        for x in (value or 0.0, expected, share)]  # fmt: skip
            assert np.isfinite(numbers).all(), transition
    for name in table.layout.dtype.names:
        assert np.isfinite(table.rows[name][: len(table)]).all(), name


def bits_of(scored: Iterable[ScoredBlock], name: str) -> list[tuple[bytes, ...]]:
    """All results for an entity, as bytes."""
    results = []
    for one in scored:
        mine = np.array([entity == name for entity in one.block.entity_id.to_pylist()], bool)
        columns = (one.score, one.rarity_1_in_n, one.verdict, one.loss)
        results.append(tuple(column[mine].tobytes() for column in columns))
    return results


@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize("place", range(3))
def test_a_literal_that_is_no_json_number_is_refused(
    artifact: Artifact, literal: str, place: int
) -> None:
    features: list[object] = [0.5, 0.5, 0.5]
    features[place] = "@"
    payload = as_json("a", NOW_US, features).replace(b'"@"', literal.encode())
    block, [letter] = decode(artifact, [payload])
    assert len(block) == 0
    assert letter.reason == validation.UNREADABLE
    assert letter.detail


@pytest.mark.parametrize("value", [*OVERFLOWING, np.inf, -np.inf])
def test_a_value_past_float32_is_refused_and_its_feature_named(
    artifact: Artifact, value: float
) -> None:
    rows = np.array([[0.5, value, 0.5], [0.5, 0.5, 0.5]])
    payloads = [as_arrow(["a", "b"], [NOW_US, NOW_US], rows)]
    if np.isfinite(value):
        payloads.append(as_json("a", NOW_US, [0.5, value, 0.5]))
    with np.errstate(over="ignore"):
        payloads.append(list_arrow(["a", "b"], [NOW_US, NOW_US], rows.astype(np.float32)))
    block, dead = decode(artifact, payloads)
    assert block.entity_id.to_pylist() == ["b", "b"]
    assert len(dead) == len(payloads)
    for letter in dead:
        assert letter.reason == validation.BAD_FEATURES
        assert "'f01' must be finite and within float32" in letter.detail


def list_arrow(entities: Sequence[str], times: Sequence[int], features: np.ndarray) -> bytes:
    """Features (N, F) float32 as the one column of fixed-size lists."""
    flat = pa.array(np.ascontiguousarray(features).ravel(), pa.float32())
    lists = pa.FixedSizeListArray.from_arrays(flat, features.shape[1])
    columns = [pa.array(entities, pa.string()), pa.array(times, pa.int64()), lists]
    return stream(pa.record_batch(columns, names=["entity_id", "event_time_us", "features"]))


@pytest.mark.parametrize("value", FITTING)
def test_every_float32_value_is_scored_and_leaves_finite_state(
    artifact: Artifact, value: float | None
) -> None:
    hostile = [0.5, value, 0.5]
    payloads = [as_json("a", NOW_US, hostile if i % 3 == 1 else [0.1, 0.2, 0.3]) for i in range(30)]
    row = np.array([[0.5, np.nan if value is None else value, 0.5]] * 3, np.float32)
    payloads.append(list_arrow(["a", "a", "a"], [NOW_US] * 3, row))
    payloads.append(as_arrow(["a", "a", "a"], [NOW_US] * 3, row.astype(np.float64)))
    block, dead = decode(artifact, payloads)
    assert (len(block), dead) == (36, [])
    scored, table = score(artifact, [block])
    assert_finite(scored, table)


def test_nan_in_arrow_is_a_missing_value_and_nothing_but_missing_values_is_refused(
    artifact: Artifact,
) -> None:
    rows = np.array([[np.nan, 1, 2], [np.nan] * 3, [0, 1, 2]], np.float32)
    names, times = ["a", "b", "c"], [NOW_US] * 3
    payloads = [list_arrow(names, times, rows), as_arrow(names, times, rows.astype(np.float64))]
    payloads.append(as_json("d", NOW_US, [None, None, None]))
    block, dead = decode(artifact, payloads)
    assert block.entity_id.to_pylist() == ["a", "c"] * 2
    assert [letter.reason for letter in dead] == [validation.MISSING_VALUE] * 3
    assert all("at least one value must be present" in letter.detail for letter in dead)


@pytest.mark.parametrize("time_us", WRONG_TIMES)
def test_a_time_in_another_unit_or_off_the_clock_is_refused(
    artifact: Artifact, time_us: int
) -> None:
    row = np.zeros((1, 3), np.float32)
    payloads = [as_json("a", time_us, [0, 0, 0]), list_arrow(["a"], [time_us], row)]
    block, dead = decode(artifact, payloads)
    assert len(block) == 0
    assert [letter.reason for letter in dead] == [WRONG_TIMES[time_us]] * 2
    assert all("event_time_us" in letter.detail for letter in dead)


@pytest.mark.parametrize("time_text", ["1e400", "1.5", "true", "null", '"now"', "9" * 400])
def test_a_time_that_is_no_integer_is_refused(artifact: Artifact, time_text: str) -> None:
    payload = as_json("a", 7, [0, 0, 0]).replace(b":7,", f":{time_text},".encode())
    block, [letter] = decode(artifact, [payload])
    assert len(block) == 0
    assert letter.reason in (validation.UNREADABLE, validation.BAD_TIME)


def test_an_integer_past_float64_is_refused(artifact: Artifact) -> None:
    for digits in (40, 308, 309, 5_000):
        payload = as_json("a", NOW_US, [7, 0, 0]).replace(b"[7,", b"[" + b"9" * digits + b",")
        block, dead = decode(artifact, [payload])
        assert (len(block), len(dead)) == (0, 1)
        assert dead[0].reason in (validation.UNREADABLE, validation.BAD_FEATURES)


def test_constant_rows_are_scored_and_a_constant_entity_never_fires(artifact: Artifact) -> None:
    for value in (0.0, -0.0, TINY, 1.0, 1e38):
        block = make_block(["a"] * 400, features=np.full((400, 3), value, np.float32))
        scored, table = score(artifact, [block], ScoringPolicy(warmup_events=50))
        assert_finite(scored, table)
        assert np.ptp(scored[0].score[-100:]) < 0.1, "the score must settle"


@pytest.mark.parametrize("hostile", ["values", "clock", "denormals", "missing"])
def test_an_entity_among_hostile_neighbours_has_the_bits_it_has_alone(
    artifact: Artifact, hostile: str
) -> None:
    policy = ScoringPolicy(warmup_events=2, late="set_aside", entity_ttl_s=3_600)
    crowd = hostile_block(hostile, seed=1)
    is_good = np.array([name == "good" for name in crowd.entity_id.to_pylist()])
    alone = crowd.take(np.flatnonzero(is_good), -1)

    among, table = score(artifact, [crowd], policy)
    single, only = score(artifact, [alone], policy)

    assert bits_of(among, "good") == bits_of(single, "good")
    assert_finite(among, table)
    remembered = table.rows[table.find(["good"])[0]]
    for name in set(table.layout.dtype.names) - {"clock_us"}:  # that is its partition's
        assert remembered[name].tobytes() == only.rows[0][name].tobytes(), name


def hostile_block(kind: str, events: int = 600, seed: int = 0) -> Block:
    """A correct entity at every third event, among others that send `kind`."""
    rng = np.random.default_rng(seed)
    # If the clocks of several hosts are wrong, the clock of the partition is wrong.
    hosts = 1 if kind == "clock" else 7
    names = ["good" if i % 3 == 0 else f"bad-{i % hosts}" for i in range(events)]
    is_bad = np.array([name != "good" for name in names])
    features = rng.normal(size=(events, 3)).astype(np.float32)
    if kind == "values":
        wild = np.array([HUGE, -HUGE, 1e38, -0.0, TINY, 1e20, np.nan], np.float32)
        features[is_bad] = rng.choice(wild, size=(int(is_bad.sum()), 3))
        features[is_bad, 0] = 1e38
    elif kind == "denormals":
        features[is_bad] = np.float32(TINY) * rng.integers(-9, 9, size=(int(is_bad.sum()), 3))
    elif kind == "missing":
        features[is_bad, 1:] = np.nan
    block = make_block(names, features=features)
    if kind == "clock":
        off = rng.choice([DAY, -YEAR, 0, 290 * SECOND], size=events)
        block.event_time_us[is_bad] += off[is_bad]
    return block


def test_a_wrong_clock_affects_only_the_entity_that_has_it(
    artifact: Artifact,
) -> None:
    policy = ScoringPolicy(late="set_aside", entity_ttl_s=3_600)
    names = ["good", "mad"] * 300
    block = make_block(names)
    block.event_time_us[1::4] += DAY
    block.event_time_us[3::4] -= YEAR
    scored, table = score(artifact, [block], policy)
    aside = {reason: set(one.entity_id.to_pylist()) for reason, one in scored[0].set_aside.items()}
    assert aside == {"late_event": {"mad"}}
    assert scored[0].late == len(scored[0].set_aside["late_event"])
    seen = dict(zip(table.entity_ids, table.rows["event_count"].tolist(), strict=False))
    assert seen["good"] == 300, "its memory must not have been restarted"
    scorer = Scorer(artifact, policy, EAGER)
    scorer.evict(table)
    assert "good" in table.entity_ids, "another entity's clock must not make it leave"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_floats_and_times_are_scored_or_refused_and_all_stays_finite(
    artifact: Artifact, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 40), "events")
    value = st.one_of(st.floats(width=64), st.sampled_from([*FITTING, *OVERFLOWING]))
    time_us = st.one_of(
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.integers(-YEAR, 400 * SECOND).map(lambda off: NOW_US + off),
        st.sampled_from([*WRONG_TIMES, NOW_US]),
    )
    entity = st.sampled_from(["a", "b", "c"])
    event = st.tuples(entity, time_us, st.lists(value, min_size=3, max_size=3))
    events = data.draw(st.lists(event, min_size=count, max_size=count), "what comes")
    names, times, rows = zip(*events, strict=True)
    wide = np.array([[np.nan if v is None else v for v in row] for row in rows])
    payloads = [as_json(*one) for one in events]  # msgspec writes what is not finite as null
    payloads.append(as_arrow(names, times, wide))
    with np.errstate(over="ignore"):
        payloads.append(list_arrow(names, times, wide.astype(np.float32)))

    block, dead = decode(artifact, payloads)

    assert len(block) + len(dead) == 3 * count
    assert not np.isinf(block.features).any()
    assert all(letter.reason and letter.detail for letter in dead)
    for policy in (ScoringPolicy(warmup_events=2), STRICT):
        scored, table = score(artifact, [block], policy)
        assert_finite(scored, table)
        kept = sum(len(one.block) + sum(map(len, one.set_aside.values())) for one in scored)
        assert kept == len(block)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 1 << 30), st.sampled_from(["values", "clock", "denormals", "missing"]))
def test_how_hostile_events_are_cut_into_blocks_changes_no_bit(
    artifact: Artifact, seed: int, kind: str
) -> None:
    policy = ScoringPolicy(warmup_events=2, entity_ttl_s=3_600)
    block = hostile_block(kind, 200, seed)
    at = np.sort(np.random.default_rng(seed).choice(np.arange(1, 200), 6, replace=False))
    pieces = [block.take(part, -1) for part in np.split(np.arange(200), at)]
    whole, table = score(artifact, [block], policy)
    cut, other = score(artifact, pieces, policy)
    assert b"".join(one.score.tobytes() for one in cut) == whole[0].score.tobytes()
    assert table.digest_of_rows() == other.digest_of_rows()


def test_refused_payloads_are_refused_quickly_and_kept_short(artifact: Artifact) -> None:
    deep, wide = b"[" * 1_000_000, b'{"features":[' + b"1," * 1_000_000 + b"1]}"
    many = msgspec.json.encode(
        {"entity_id": "a", "event_time_us": NOW_US, "features": {f"x{i}": 1 for i in range(10_000)}}
    )
    repeated = b'{"entity_id":"a",' * 2 + b'"event_time_us":1,"features":[1,2,3]}}'
    block, dead = decode(artifact, [deep, wide, many, repeated])
    assert (len(block), len(dead)) == (0, 4)
    assert all(len(letter.payload) <= 1_024 and len(letter.detail) < 400 for letter in dead)
