"""Refuses to score in a worker that does not check the runner's answers to state writes.

Beam's stock Python worker ignores such an answer, so a bundle whose state was not written
commits its outputs all the same. The worker pool of streamgauge starts workers that check
every answer, and marks them in the environment. In-process runners write state by function
calls, which raise their errors.
"""

from __future__ import annotations

import os
import threading

import apache_beam

#: `infra/patches/state_writes.py` sets this variable to the pid of a worker that checks.
MARK = "STREAMGAUGE_CHECKED_STATE_WRITES"
#: The thread that receives the runner's answers; every worker with a remote runner has it.
_ANSWER_THREAD = "read_state"
_BEAM = "2.70.0"


class UncheckedStateError(RuntimeError):
    """This worker would lose state without an error."""


def require_checked_state() -> None:
    """Refuse to run in a worker whose state writes are not checked.

    Raises:
        UncheckedStateError: the worker was started by another program than
            `streamgauge.infra.local.worker_pool`, or runs another release of Beam.
    """
    if os.environ.get(MARK) == str(os.getpid()):
        return
    is_remote = any(thread.name == _ANSWER_THREAD for thread in threading.enumerate())
    # Another release may name the thread otherwise, so a remote runner could go unnoticed.
    if is_remote or apache_beam.__version__ != _BEAM:
        raise UncheckedStateError(
            "this worker does not check that the runner writes its state: start workers with"
            " `python -m streamgauge.infra.local.worker_pool PORT`, submit with"
            " --environment_type=EXTERNAL --environment_config=HOST:PORT, and use"
            f" apache-beam=={_BEAM} (here: {apache_beam.__version__})"
        )
