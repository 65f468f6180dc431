"""The element that never ends: claimed once, deferred, resumed from its encoded restriction."""

import pytest
from apache_beam.runners.common import DoFnSignature
from apache_beam.runners.sdf_utils import RestrictionTrackerView, ThreadsafeRestrictionTracker
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from streamgauge.transforms.sources.keep_alive import KEEP_ALIVE_S, DeferralTracker, KeepAlive


@pytest.fixture
def signature():
    return DoFnSignature(KeepAlive())


def run(restriction):
    """One call of the step as Beam makes it: its outputs, the residual, the delay in seconds."""
    tracker = ThreadsafeRestrictionTracker(DeferralTracker(restriction))
    outputs = list(KeepAlive().process(b"", RestrictionTrackerView(tracker)))
    tracker.check_done()
    residual, delay = tracker.deferred_status()
    return outputs, residual, delay.micros / 1e6


def test_it_is_deferred_and_resumed_for_ever(signature):
    coder = signature.get_restriction_coder()
    restriction = signature.get_restriction_provider().initial_restriction(b"")
    for deferrals in (1, 2, 3):
        outputs, residual, delay_s = run(restriction)
        assert outputs == [(b"discover", b"")]
        assert residual == deferrals
        assert delay_s == pytest.approx(KEEP_ALIVE_S, abs=60)
        # What a runner keeps until it resumes: the restriction and the watermark's state.
        restriction, watermark = coder.decode(coder.encode((residual, b"")))
        estimator = signature.get_watermark_estimator_provider().create_watermark_estimator(
            watermark
        )
        assert estimator.current_watermark() == MIN_TIMESTAMP


def test_a_runner_cannot_split_it():
    tracker = DeferralTracker(0)
    assert tracker.try_claim(0)
    assert tracker.try_split(0.5) is None
    assert tracker.try_split(0) == (0, 1)
    assert tracker.try_split(0) is None


def test_it_ends_when_the_job_is_drained(signature):
    assert signature.get_restriction_provider().truncate(b"", 0) is None


def test_work_that_was_not_deferred_is_not_done():
    tracker = DeferralTracker(0)
    with pytest.raises(ValueError, match="must be claimed and deferred"):
        tracker.check_done()
