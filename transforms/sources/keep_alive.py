"""The root of the live source: one element that never ends.

A bounded root would let the runner advance the watermark to the end of time and drop the timers
after it. A splittable DoFn that defers its remainder keeps them. Each deferral costs the portable
Flink runner one state name that it never frees (apache/beam#27648), so deferrals are hours apart.

Restriction and watermark state have coders that every runner knows; Beam's defaults are pickled.
"""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder, Coder, VarIntCoder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker, WatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.typehints import with_output_types
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration, Timestamp

# Each deferral costs the portable Flink runner one leaked state name of about 38 kB.
KEEP_ALIVE_S = 6 * 3600


class DeferralTracker(RestrictionTracker):
    """Tracks a restriction that can be claimed once and then only deferred.

    The restriction is the number of deferrals so far. Beam takes a residual that is false for no
    residual, so the number after a deferral is at least 1.
    """

    def __init__(self, deferrals: int) -> None:
        self._deferrals = deferrals
        self._is_claimed = False
        self._is_deferred = False

    def current_restriction(self) -> int:
        return self._deferrals

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(fraction=0.0)

    def try_claim(self, position: int) -> bool:
        self._is_claimed = position == self._deferrals and not self._is_deferred
        return self._is_claimed

    def try_split(self, fraction_of_remainder: float) -> tuple[int, int] | None:
        """Defer the rest; requests of a runner to split the restriction are declined."""
        if fraction_of_remainder != 0 or self._is_deferred:
            return None
        self._is_deferred = True
        return self._deferrals, self._deferrals + 1

    def check_done(self) -> None:
        if not (self._is_claimed and self._is_deferred):
            raise ValueError("the restriction must be claimed and deferred; it was not")

    def is_bounded(self) -> bool:
        return True


class _Deferrals(RestrictionProvider):
    """One restriction that never ends and is never split."""

    def initial_restriction(self, element: bytes) -> int:
        return 0

    def create_tracker(self, restriction: int) -> DeferralTracker:
        return DeferralTracker(restriction)

    def restriction_coder(self) -> Coder:
        return VarIntCoder()

    def restriction_size(self, element: bytes, restriction: int) -> int:
        return 1

    def split(self, element: bytes, restriction: int) -> Iterator[int]:
        yield restriction

    def truncate(self, element: bytes, restriction: int) -> None:
        return None  # a drain ends the element


class _EarliestWatermark(WatermarkEstimator):
    """Holds the watermark at its minimum: event time is tracked in the shards, not by Beam."""

    def observe_timestamp(self, timestamp: Timestamp) -> None:
        pass

    def current_watermark(self) -> Timestamp:
        return MIN_TIMESTAMP

    def get_estimator_state(self) -> bytes:
        return b""


class _EarliestWatermarkProvider(WatermarkEstimatorProvider):
    def initial_estimator_state(self, element: bytes, restriction: int) -> bytes:
        return b""

    def create_watermark_estimator(self, estimator_state: bytes) -> _EarliestWatermark:
        return _EarliestWatermark()

    def estimator_state_coder(self) -> Coder:
        return BytesCoder()


@with_output_types(tuple[bytes, bytes])
class KeepAlive(beam.DoFn):
    """Emits a trigger for partition discovery every few hours; never ends."""

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        element: bytes,
        tracker: Any = beam.DoFn.RestrictionParam(_Deferrals()),
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(_EarliestWatermarkProvider()),
    ) -> Iterator[tuple[bytes, bytes]]:
        if tracker.try_claim(tracker.current_restriction()):
            yield (b"discover", b"")
            tracker.defer_remainder(Duration(KEEP_ALIVE_S))
