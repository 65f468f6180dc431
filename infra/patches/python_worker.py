"""Two small changes to Beam's Python worker, for which it has no option.

**State is written at once.** At the end of a bundle Beam writes one state cell after the other,
and waits for the runner's answer each time: four times for four partitions, six times for two
shards, a millisecond or two each. The changed method sends all writes, and then waits for the
answers; one stream carries them, so their order is kept. It also looks at what the answers say: a
write that failed ends the bundle. Beam would go on, and commit outputs without their state.

**No thread of its own for each bundle.** Beam starts one that looks every 2 to 200 ms which step
is at work, and waits until it wakes up to see that the bundle has ended: 2 ms at the least, and a
fifth of a longer bundle. Without it there are no figures of the time each step takes, which
nothing here reads, and no warning in a worker's log of an element that takes five minutes.

Methods are replaced in a worker's own process, and only those of the release they were
written for. A worker without the changes is slower, and otherwise the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import apache_beam
from apache_beam.runners.worker import bundle_processor, statesampler

BEAM = "2.70.0"

_bundle = threading.local()  # a bundle is processed in one thread


class StateWriteError(RuntimeError):
    """The runner did not take what a bundle wrote to its state; the bundle is tried again."""


def apply() -> bool:
    """Change this process's Beam; returns whether it is the release that can be changed."""
    if apache_beam.__version__ != BEAM:
        return False
    for owner, name, method in CHANGES:
        setattr(owner, name, method)
    return True


def _send(bag: Any) -> None:
    """Send what one cell has to write; `_commit` waits."""
    handler, key = bag._state_handler, bag._state_key
    if bag._cleared:
        _bundle.answers.append((key, handler.clear(key)))
    if bag._added_elements:
        coder = bag._value_coder.get_impl()
        _bundle.answers.append((key, handler.extend(key, coder, bag._added_elements)))


def _commit(context: Any) -> None:
    """Write all cells of a bundle."""
    _bundle.answers = []
    for state in context._all_states.values():
        state.commit()
    for key, answer in reversed(_bundle.answers):  # with the last one all are there
        if error := answer.get().error:
            name = key.bag_user_state.user_state_id
            raise StateWriteError(f"state {name!r}: must be written by the runner; {error}")


def _start(sampler: Any) -> None:
    sampler.tracked_thread = threading.current_thread()
    statesampler.set_current_tracker(sampler)
    sampler.started = True


def _stop(sampler: Any) -> None:
    statesampler.set_current_tracker(None)
    sampler.finished = True


#: Class, name of its method, and what takes the method's place.
CHANGES: tuple[tuple[type, str, Callable[..., None]], ...] = (
    (bundle_processor.SynchronousBagRuntimeState, "commit", _send),
    (bundle_processor.FnApiUserStateContext, "commit", _commit),
    (statesampler.StateSampler, "start", _start),
    (statesampler.StateSampler, "stop", _stop),
)
