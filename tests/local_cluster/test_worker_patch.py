"""What is changed in Beam's worker: writes are sent at once, answers are looked at, no threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import apache_beam
import pytest
from apache_beam.coders import BytesCoder
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker import bundle_processor, statesampler
from apache_beam.utils.counters import CounterFactory

from streamgauge.infra.patches import python_worker


@pytest.fixture(autouse=True)
def beam_as_it_was() -> Iterator[None]:
    """Other tests in this process run bundles too."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in python_worker.CHANGES]
    yield
    for owner, name, method in before:
        setattr(owner, name, method)


class Runner:
    """The runner's end of the state stream: keeps what was asked, and whether anyone waited."""

    def __init__(self, error: str = "") -> None:
        self.log: list[tuple[str, str, list[bytes]]] = []
        self._error = error

    def clear(self, key: Any) -> Answer:
        return self._told("clear", key, [])

    def extend(self, key: Any, coder: Any, values: list[bytes]) -> Answer:
        return self._told("append", key, list(values))

    def _told(self, what: str, key: Any, values: list[bytes]) -> Answer:
        name = key.bag_user_state.user_state_id
        self.log.append((what, name, values))
        return Answer(self, name, self._error if what == "append" else "")


class Answer:
    """An answer that is on its way."""

    def __init__(self, runner: Runner, name: str, error: str) -> None:
        self._runner, self._name, self._error = runner, name, error

    def get(self) -> Any:
        self._runner.log.append(("wait", self._name, []))
        return beam_fn_api_pb2.StateResponse(error=self._error)


def context_with_two_written_cells(runner: Runner) -> Any:
    """A value that was replaced, and a bag that got two more."""
    cells: dict[str, Any] = {}
    for name in ("epoch", "log"):
        key = beam_fn_api_pb2.StateKey()
        key.bag_user_state.user_state_id = name
        cells[name] = bundle_processor.SynchronousBagRuntimeState(
            cast(Any, runner), key, BytesCoder()
        )
    value = bundle_processor.ReadModifyWriteRuntimeState(cells["epoch"])
    value.write(b"new")
    cells["log"].add(b"one")
    cells["log"].add(b"two")
    context = bundle_processor.FnApiUserStateContext.__new__(bundle_processor.FnApiUserStateContext)
    context._all_states = cast(Any, {"epoch": value, "log": cells["log"]})
    return context


def test_all_cells_are_written_before_any_answer_is_waited_for() -> None:
    assert python_worker.apply()
    runner = Runner()
    context_with_two_written_cells(runner).commit()
    assert runner.log[:3] == [
        ("clear", "epoch", []),
        ("append", "epoch", [b"new"]),
        ("append", "log", [b"one", b"two"]),
    ]
    assert [(what, name) for what, name, _ in runner.log[3:]] == [
        ("wait", "log"),
        ("wait", "epoch"),
        ("wait", "epoch"),
    ]


def test_a_write_that_the_runner_refused_ends_the_bundle() -> None:
    assert python_worker.apply()
    context = context_with_two_written_cells(Runner(error="disk full"))
    with pytest.raises(python_worker.StateWriteError, match="'log'.*written.*disk full"):
        context.commit()


def test_a_bundle_starts_no_thread_of_its_own() -> None:
    assert python_worker.apply()
    threads = threading.active_count()
    sampler = statesampler.StateSampler("stage", CounterFactory())
    for _ in range(2):  # a sampler serves one bundle after the other
        sampler.start()
        assert statesampler.get_current_tracker() is sampler
        assert threading.active_count() == threads
        sampler.stop_if_still_running()
        assert statesampler.get_current_tracker() is None
        assert sampler.finished
        sampler.reset()


def test_another_release_of_beam_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [getattr(owner, name) for owner, name, _ in python_worker.CHANGES]
    monkeypatch.setattr(apache_beam, "__version__", "2.71.0")
    assert not python_worker.apply()
    assert [getattr(owner, name) for owner, name, _ in python_worker.CHANGES] == before
