"""The changes to Beam's worker: writes do not block, answers are checked, no extra threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import apache_beam
import pytest
from apache_beam.coders import BytesCoder, StrUtf8Coder
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker import bundle_processor, sdk_worker, statesampler
from apache_beam.utils.counters import CounterFactory
from apache_beam.utils.timestamp import Timestamp

from streamgauge.infra.errors import PatchError
from streamgauge.infra.local import worker_pool
from streamgauge.infra.patches import releases, state_writes, step_sampler
from streamgauge.transforms.runner import checked_state

KINDS = {
    "bag_user_state": bundle_processor.SynchronousBagRuntimeState,
    "multimap_keys_user_state": bundle_processor.SynchronousSetRuntimeState,
    "ordered_list_user_state": bundle_processor.SynchronousOrderedListRuntimeState,
}


class RunnerStub:
    """The runner's end of the state stream: logs requests, and when an answer is waited for."""

    def __init__(self, error: str = "") -> None:
        self.log: list[tuple[str, str]] = []
        self._error = error

    @contextmanager
    def process_instruction_id(self, bundle_id: str, cache_tokens: Any) -> Iterator[None]:
        self.log.append(("begin", bundle_id))
        yield
        self.log.append(("end", bundle_id))

    def clear(self, key: Any) -> Answer:
        return self._answer("clear", key, "")

    def extend(self, key: Any, coder: Any, values: list[bytes]) -> Answer:
        return self._answer("append", key, self._error)

    def _answer(self, request: str, key: Any, error: str) -> Answer:
        name = getattr(key, key.WhichOneof("type")).user_state_id
        self.log.append((request, name))
        return Answer(self, name, error)


class Answer:
    """A future answer of the runner."""

    def __init__(self, runner: RunnerStub, name: str, error: str) -> None:
        self._runner, self._name, self._error = runner, name, error

    def get(self) -> Any:
        self._runner.log.append(("wait", self._name))
        return beam_fn_api_pb2.StateResponse(error=self._error)


def checked(runner: RunnerStub) -> Any:
    factory = SimpleNamespace(create_state_handler=lambda descriptor: runner)
    return state_writes.CheckedStateHandlers(factory).create_state_handler(None)


def cell(handler: Any, name: str, kind: str = "bag_user_state") -> Any:
    key = beam_fn_api_pb2.StateKey()
    getattr(key, kind).user_state_id = name
    coder = BytesCoder() if kind == "bag_user_state" else StrUtf8Coder()
    return cast(Any, KINDS[kind])(handler, key, coder)


def replace_value(handler: Any, name: str) -> None:
    value = bundle_processor.ReadModifyWriteRuntimeState(cell(handler, name))
    value.write(b"new")
    value.commit()


def test_all_cells_are_written_in_order_before_any_answer_is_waited_for() -> None:
    runner = RunnerStub()
    handler = checked(runner)

    with handler.process_instruction_id("b1", []):
        replace_value(handler, "epoch")
        log = cell(handler, "log")
        log.add(b"one")
        log.commit()
        assert ("wait", "epoch") not in runner.log

    assert runner.log == [
        ("begin", "b1"),
        *(("clear", "epoch"), ("append", "epoch"), ("append", "log")),
        *(("wait", "epoch"), ("wait", "epoch"), ("wait", "log")),
        ("end", "b1"),
    ]


def write_bag(state: Any) -> None:
    state.add(b"one")


def write_set(state: Any) -> None:
    state.clear()
    state._added_elements.add("one")  # `add` may read the runner's state, by chance


def write_ordered_list(state: Any) -> None:
    state.add((Timestamp(1), "one"))


@pytest.mark.parametrize(
    ("kind", "write"), list(zip(KINDS, (write_bag, write_set, write_ordered_list), strict=True))
)
def test_a_refused_write_fails_the_bundle_for_every_kind_of_cell(kind: str, write: Any) -> None:
    handler = checked(RunnerStub(error="disk full"))

    def bundle() -> None:
        with handler.process_instruction_id("b1", []):
            state = cell(handler, "log", kind)
            write(state)
            state.commit()

    with pytest.raises(state_writes.StateWriteError, match="cell 'log'.*accept.*disk full"):
        bundle()


def test_a_bundle_does_not_see_the_answers_of_the_one_before() -> None:
    runner = RunnerStub(error="disk full")
    handler = checked(runner)
    with pytest.raises(state_writes.StateWriteError), handler.process_instruction_id("b1", []):
        replace_value(handler, "epoch")

    with handler.process_instruction_id("b2", []):
        pass

    assert runner.log[-2:] == [("begin", "b2"), ("end", "b2")]


def test_bundles_of_two_threads_wait_for_their_own_answers() -> None:
    runner = RunnerStub()
    handler = checked(runner)

    def other_bundle() -> None:
        with handler.process_instruction_id("b2", []):
            replace_value(handler, "other")

    with handler.process_instruction_id("b1", []):
        replace_value(handler, "epoch")
        thread = threading.Thread(target=other_bundle)
        thread.start()
        thread.join()

    waited = [name for request, name in runner.log if request == "wait"]
    assert waited == ["other", "other", "epoch", "epoch"]


def test_an_error_of_the_bundle_itself_is_not_replaced() -> None:
    handler = checked(RunnerStub(error="disk full"))

    def bundle() -> None:
        with handler.process_instruction_id("b1", []):
            replace_value(handler, "epoch")
            raise ValueError("poison")

    with pytest.raises(ValueError, match="poison"):
        bundle()


class Harness:
    """The attribute of `SdkHarness` that `install` relies on; the next test checks the rest."""

    def __init__(self) -> None:
        self._bundle_processor_cache = SimpleNamespace(state_handler_factory="beam's")


@pytest.fixture
def unmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(state_writes.MARK, "")


@pytest.mark.usefixtures("unmarked")
def test_a_harness_gets_the_checked_handlers_and_the_process_its_mark() -> None:
    harness = Harness()

    state_writes.install(cast(Any, harness))

    installed = harness._bundle_processor_cache.state_handler_factory
    assert isinstance(installed, state_writes.CheckedStateHandlers)
    assert os.environ[state_writes.MARK] == str(os.getpid())


def test_beam_asks_the_factory_that_install_replaces() -> None:
    asked: list[Any] = []

    def create_state_handler(descriptor: Any) -> Any:
        asked.append(descriptor)
        raise LookupError

    cache = sdk_worker.BundleProcessorCache(
        frozenset(),
        cast(Any, None),
        cast(Any, None),
        {"d": beam_fn_api_pb2.ProcessBundleDescriptor()},
    )
    try:
        cache.state_handler_factory = cast(
            Any, SimpleNamespace(create_state_handler=create_state_handler)
        )
        with pytest.raises(LookupError):
            cache.get("b1", "d")
    finally:
        assert cache.periodic_shutdown is not None
        cache.periodic_shutdown.cancel()
        cache.periodic_shutdown.join()
    assert len(asked) == 1


def test_another_release_of_beam_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apache_beam, "__version__", "2.71.0")

    for install in (lambda: state_writes.install(cast(Any, Harness())), step_sampler.install):
        with pytest.raises(PatchError, match=r"need apache-beam==2\.70\.0.*found 2\.71\.0"):
            install()


def test_state_handlers_with_other_methods_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_writes, "_METHODS", frozenset({"extend"}))

    with pytest.raises(PatchError, match="must have the methods"):
        state_writes.install(cast(Any, Harness()))


def test_the_worker_pool_ends_with_one_line_on_another_beam(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apache_beam, "__version__", "2.71.0")
    monkeypatch.setattr(worker_pool, "_set_up_logging", lambda: None)
    monkeypatch.setattr(worker_pool.sys, "argv", ["worker_pool", "not a port"])

    with pytest.raises(SystemExit) as ended:
        worker_pool.main()

    assert str(ended.value.code).startswith("worker pool: workers need apache-beam==2.70.0")
    assert "\n" not in str(ended.value.code)


def test_a_bundle_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statesampler, "StateSampler", statesampler.StateSampler)
    step_sampler.install()
    threads = threading.active_count()
    sampler = bundle_processor.statesampler.StateSampler("stage", CounterFactory())
    try:
        for _ in range(2):  # a sampler serves many bundles, one after the other
            sampler.start()
            assert statesampler.get_current_tracker() is sampler
            assert threading.active_count() == threads
            sampler.stop_if_still_running()
            assert statesampler.get_current_tracker() is None
            assert sampler.finished
            sampler.reset()
    finally:
        sampler.stop_if_still_running()


@pytest.fixture
def answer_thread() -> Iterator[None]:
    """The thread that a worker with a remote runner has."""
    ending = threading.Event()
    thread = threading.Thread(target=ending.wait, name=checked_state._ANSWER_THREAD)
    thread.start()
    yield
    ending.set()
    thread.join()


@pytest.mark.usefixtures("unmarked")
def test_an_in_process_runner_needs_no_mark() -> None:
    checked_state.require_checked_state()


@pytest.mark.usefixtures("unmarked", "answer_thread")
def test_a_remote_worker_without_the_mark_is_refused() -> None:
    with pytest.raises(checked_state.UncheckedStateError, match="start workers with `python -m"):
        checked_state.require_checked_state()


@pytest.mark.usefixtures("answer_thread")
def test_the_mark_of_another_process_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(checked_state.MARK, str(os.getpid() + 1))

    with pytest.raises(checked_state.UncheckedStateError):
        checked_state.require_checked_state()


@pytest.mark.usefixtures("answer_thread")
def test_a_marked_worker_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(state_writes.MARK, str(os.getpid()))

    checked_state.require_checked_state()


@pytest.mark.usefixtures("unmarked")
def test_scoring_refuses_an_unknown_beam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_state.apache_beam, "__version__", "2.71.0")

    with pytest.raises(checked_state.UncheckedStateError, match="here: 2.71.0"):
        checked_state.require_checked_state()


def test_worker_and_scoring_step_agree() -> None:
    assert (checked_state.MARK, checked_state._BEAM) == (state_writes.MARK, releases.BEAM)


def test_beams_remote_state_handler_has_the_answer_thread() -> None:
    ended = threading.Event()

    handler = sdk_worker.GrpcStateHandler(cast(Any, SimpleNamespace(State=lambda _: wait(ended))))
    try:
        assert checked_state._ANSWER_THREAD in {thread.name for thread in threading.enumerate()}
    finally:
        handler.done()
        ended.set()


def wait(ended: threading.Event) -> Iterator[Any]:
    ended.wait(30.0)
    yield from ()
