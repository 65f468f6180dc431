"""The live job on real Kafka and real Flink: everything in, everything out, bit for bit."""

from __future__ import annotations

from collections import Counter

import pytest

from system.harness import outcome
from system.harness.outcome import ScoredFleet

pytestmark = pytest.mark.system


def test_scored_and_dead_letters_are_what_was_produced(scored_fleet: ScoredFleet) -> None:
    produced, actual = scored_fleet.produced, scored_fleet.actual

    scored = len(outcome.without_repeats(actual.scores))
    dead = len({name for name, *_ in actual.letters})

    assert produced.events == 200_000
    assert len(set(actual.scores["entity_id"].to_pylist())) == 1_000
    assert dead == produced.malformed
    assert scored + dead == produced.events


def test_without_a_failure_nothing_is_written_twice(scored_fleet: ScoredFleet) -> None:
    actual = scored_fleet.actual

    assert len(outcome.without_repeats(actual.scores)) == len(actual.scores)
    assert len({name for name, *_ in actual.letters}) == len(actual.letters)


def test_live_outputs_equal_those_of_an_offline_scoring(scored_fleet: ScoredFleet) -> None:
    outcome.check_complete(scored_fleet.actual, scored_fleet.expected)


def test_alerts_open_are_updated_and_close(scored_fleet: ScoredFleet) -> None:
    """Equal alerts live, offline and in a backtest mean something only if there are some."""
    alerts = scored_fleet.actual.alerts.values()
    kinds = Counter((alert["status"], alert["reason"]) for alert in alerts)

    assert kinds["opened", None] >= 10
    assert kinds["updated", None] >= 10
    assert kinds["closed", "back_to_normal"] >= 10


def test_every_dead_letter_names_origin_and_reason_and_is_bounded(
    scored_fleet: ScoredFleet,
) -> None:
    bytes_max = scored_fleet.config.input.limits.dead_letter_bytes_max

    for name, about, payload in scored_fleet.actual.letters:
        assert about["topic"] == scored_fleet.config.input.topic
        assert name == "/".join(about[key] for key in ("topic", "partition", "offset", "row"))
        assert about["reason"] and about["detail"]
        assert len(payload or b"") <= bytes_max

    reasons = {about["reason"] for _, about, _ in scored_fleet.actual.letters}
    assert reasons == {"unreadable", "bad_features", "bad_entity_id", "bad_event_time"}
