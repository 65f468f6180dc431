"""Drift statistics per window add up exactly, in any order and from any parts."""

import numpy as np
import pytest

from fixtures.artifacts import make_artifact
from fixtures.blocks import START_US, make_block
from streamgauge.models.alerts.policy import AlertPolicy
from streamgauge.models.artifacts import artifact as artifacts
from streamgauge.models.drift.windows import WINDOWS_MAX, DriftWindows
from streamgauge.models.errors import ConfigError
from streamgauge.models.scoring.policy import ScoringPolicy
from streamgauge.models.scoring.scorer import Scorer
from streamgauge.models.state.entity_table import EntityTable

HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return artifacts.load(make_artifact(tmp_path_factory.mktemp("artifact") / "a"))


@pytest.fixture(scope="module")
def scored(artifact):
    """Ten hours of events of one entity, scored in blocks of half an hour."""
    scorer = Scorer(artifact, ScoringPolicy(), AlertPolicy())
    table = EntityTable(scorer.layout)
    return [scorer.step(table, make_block(["a"] * 30, first=i)) for i in range(0, 600, 30)]


def totals(reports):
    """Sum of the parts of each window."""
    found = {}
    for report in reports:
        events, loss, counts = found.get(report.start_us, (0, 0, 0))
        found[report.start_us] = (
            events + report.events, loss + report.loss_sum, counts + report.counts.astype(int)
        )  # fmt: skip
    return found


def same(one, two):
    assert one.keys() == two.keys()
    for start in one:
        assert one[start][:2] == two[start][:2]
        np.testing.assert_array_equal(one[start][2], two[start][2])


def test_every_event_is_counted_in_the_window_of_its_time(artifact, scored):
    windows = DriftWindows(artifact.drift_reference, 3600)
    reports = [report for block in scored for report in windows.add(block)] + windows.flush()
    assert sum(report.events for report in reports) == 600
    for report in reports:
        assert report.end_us - report.start_us == HOUR_US
        assert (report.counts.sum(axis=1) == report.events).all()
    assert min(report.start_us for report in reports) <= START_US


def test_windows_survive_state_between_any_two_blocks(artifact, scored):
    straight = DriftWindows(artifact.drift_reference, 3600)
    expected = [report for block in scored for report in straight.add(block)] + straight.flush()
    windows, reports = DriftWindows(artifact.drift_reference, 3600), []
    for block in scored:
        reports += windows.add(block)
        windows = windows.from_bytes(0, windows.to_bytes())
    reports += windows.flush()
    same(totals(reports), totals(expected))
    assert [report.first for report in reports] == [report.first for report in expected]


def test_order_of_blocks_does_not_change_the_sums(artifact, scored):
    windows = [DriftWindows(artifact.drift_reference, 36_000) for _ in range(2)]
    for block, reverse in zip(scored, scored[::-1], strict=True):
        assert windows[0].add(block) == windows[1].add(reverse) == []
    same(totals(windows[0].flush()), totals(windows[1].flush()))


def test_a_late_part_of_a_window_has_another_identity(artifact, scored):
    windows = DriftWindows(artifact.drift_reference, 3600)
    windows.add(scored[0])
    [first] = windows.flush()
    windows.add(scored[1])
    [second, *_] = windows.flush()
    assert first.start_us == second.start_us
    assert first.first != second.first


def test_open_windows_are_bounded(artifact):
    scorer = Scorer(artifact, ScoringPolicy(), AlertPolicy())
    block = make_block(["a"] * 40)
    block.event_time_us[:] = START_US - np.arange(40) * HOUR_US
    windows = DriftWindows(artifact.drift_reference, 3600)
    reports = windows.add(scorer.step(EntityTable(scorer.layout), block))
    assert len(windows.flush()) <= WINDOWS_MAX
    assert len(reports) >= 40 - WINDOWS_MAX


def test_a_window_needs_a_length(artifact):
    with pytest.raises(ConfigError, match="window_s must be >= 1; got 0"):
        DriftWindows(artifact.drift_reference, 0)
