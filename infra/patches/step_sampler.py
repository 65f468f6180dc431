"""Replaces Beam's step sampler, which starts a thread for every bundle.

The sampler's thread looks every 2 to 200 ms which step is at work. A bundle cannot end before
this thread wakes up: 2 ms at the least, and up to a fifth of a longer bundle. Without it Beam
reports no processing time per step, and logs no warning for an element that takes five minutes.
Nothing in streamgauge reads these figures.
"""

from __future__ import annotations

import threading

from apache_beam.runners.worker import statesampler

from streamgauge.infra.patches.releases import require_known_beam


class ThreadlessSampler(statesampler.StateSampler):
    """Tracks the current step, which metrics need, and measures no time."""

    def start(self) -> None:
        """Begin a bundle in the current thread."""
        self.tracked_thread = threading.current_thread()
        statesampler.set_current_tracker(self)
        self.started = True

    def stop(self) -> None:
        """End a bundle."""
        statesampler.set_current_tracker(None)
        self.finished = True


def install() -> None:
    """Let every bundle processor that this process creates use `ThreadlessSampler`.

    Raises:
        PatchError: the installed Beam is another release.
    """
    require_known_beam()
    # `BundleProcessor` creates its sampler by this name, and is the only one to do so.
    statesampler.StateSampler = ThreadlessSampler  # type: ignore[misc]
