"""Sends a bundle's state writes without waiting between them, and checks every answer.

Beam's Python worker writes the state cells of a bundle one after the other and waits for the
runner's answer to each: a millisecond or two per cell. It never reads `StateResponse.error`, so
a bundle whose state the runner refused to write still commits its outputs.

`install` gives a worker's `SdkHarness` another factory of state handlers. Its handlers send each
write at once, record the runner's future answer and return a finished one. The context manager
`process_instruction_id` encloses every bundle; before it is left, the handler waits for all
recorded answers and raises `StateWriteError` for the first that carries an error. Beam then
reports the bundle as failed, and the runner restores the last checkpoint. One stream carries
reads and writes, so their order is unchanged.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker.sdk_worker import (
    CachingStateHandler,
    SdkHarness,
    StateHandlerFactory,
)

from streamgauge.infra.errors import PatchError
from streamgauge.infra.patches.releases import require_known_beam

#: Set in the environment of a worker process whose state writes are checked; the value is its pid.
#: `transforms/runner/checked_state.py` reads it.
MARK = "STREAMGAUGE_CHECKED_STATE_WRITES"
#: The abstract methods of Beam's state handlers; another set needs another decorator.
_METHODS = frozenset({"process_instruction_id", "blocking_get", "extend", "clear", "done"})


class StateWriteError(RuntimeError):
    """The runner refused a state write; the bundle fails and is processed again."""


class _Finished:
    """Stands for an answer that `CheckedStateHandler` waits for later."""

    def wait(self, timeout: float | None = None) -> bool:
        return True

    def get(self, timeout: float | None = None) -> Any:
        return beam_fn_api_pb2.StateResponse()


class CheckedStateHandler(CachingStateHandler):
    """Decorates a state handler of Beam: writes do not block, and none may fail unnoticed."""

    def __init__(self, decorated: Any) -> None:
        self._decorated = decorated
        # A handler serves bundles of several threads; a bundle stays in its thread.
        self._bundle = threading.local()

    @contextmanager
    def process_instruction_id(self, bundle_id: str, cache_tokens: Iterable[Any]) -> Iterator[None]:
        """Enclose a bundle; leave it only after the runner has confirmed every write.

        Raises:
            StateWriteError: the runner refused a write.
        """
        with self._decorated.process_instruction_id(bundle_id, cache_tokens):
            self._bundle.answers = []
            yield
            self._check_answers()

    def blocking_get(self, state_key: Any, coder: Any) -> Any:
        """Read a state cell."""
        return self._decorated.blocking_get(state_key, coder)

    def extend(self, state_key: Any, coder: Any, elements: Iterable[Any]) -> Any:
        """Send elements to append to a state cell."""
        return self._record(state_key, self._decorated.extend(state_key, coder, elements))

    def clear(self, state_key: Any) -> Any:
        """Send the request to clear a state cell."""
        return self._record(state_key, self._decorated.clear(state_key))

    def done(self) -> None:
        """Close the decorated handler."""
        self._decorated.done()

    def _record(self, state_key: Any, answer: Any) -> _Finished:
        self._bundle.answers.append((state_key, answer))
        return _Finished()

    def _check_answers(self) -> None:
        for state_key, answer in self._bundle.answers:
            if error := answer.get().error:
                cell = _cell_name(state_key)
                raise StateWriteError(
                    f"state cell {cell!r}: the runner must accept every write; it answered {error}"
                )


class CheckedStateHandlers(StateHandlerFactory):
    """Decorates every state handler that a factory of Beam creates."""

    def __init__(self, decorated: Any) -> None:
        self._decorated = decorated

    def create_state_handler(self, api_service_descriptor: Any) -> CheckedStateHandler:
        """Return a handler for the runner's state service."""
        return CheckedStateHandler(self._decorated.create_state_handler(api_service_descriptor))

    def close(self) -> None:
        """Close the decorated factory."""
        self._decorated.close()


def install(harness: SdkHarness) -> None:
    """Check the state writes of every bundle that `harness` processes; call it before `run`.

    Raises:
        PatchError: the installed Beam is another release, or its state handlers have other
            methods than those that `CheckedStateHandler` decorates.
    """
    require_known_beam()
    if CachingStateHandler.__abstractmethods__ != _METHODS:
        raise PatchError(
            f"a state handler of Beam must have the methods {sorted(_METHODS)}; it has"
            f" {sorted(CachingStateHandler.__abstractmethods__)}"
        )
    # The constructor has no parameter for the factory; it is used first when a bundle arrives.
    bundles = harness._bundle_processor_cache
    bundles.state_handler_factory = CheckedStateHandlers(bundles.state_handler_factory)
    os.environ[MARK] = str(os.getpid())


def _cell_name(state_key: Any) -> str:
    """Return the name of a state cell of any kind, for an error text."""
    kind = state_key.WhichOneof("type")
    return str(getattr(getattr(state_key, kind), "user_state_id", kind)) if kind else ""
