"""Time of a bundle with and without each change to Beam's worker.

    PYTHONPATH=tests python -m bench.worker_patches

State writes go through gRPC to a local server, which works on one request at a time as a runner
does, so only the time on the way can be saved. Rounds with and without a change alternate. The
last line is a JSON object with medians in milliseconds.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from apache_beam.coders import BytesCoder
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2
from apache_beam.runners.worker import bundle_processor, sdk_worker, statesampler
from apache_beam.utils.counters import CounterFactory

from streamgauge.infra.patches.state_writes import CheckedStateHandlers
from streamgauge.infra.patches.step_sampler import ThreadlessSampler

CELLS = 6  # a bundle with two shards
ROUNDS = 200
VALUE = bytes(20_000)


class StateServer(beam_fn_api_pb2_grpc.BeamFnStateServicer):
    """Accepts every state request, after working on it for `work_s` seconds."""

    work_s = 0.0

    def State(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            time.sleep(self.work_s)  # the work of the runner, not a wait for a result
            yield beam_fn_api_pb2.StateResponse(id=request.id)


def write_cells(handler: Any) -> None:
    """Process a bundle that replaces `CELLS` values."""
    with handler.process_instruction_id("bundle", []):
        for number in range(CELLS):
            key = beam_fn_api_pb2.StateKey()
            key.bag_user_state.user_state_id = str(number)
            bag = bundle_processor.SynchronousBagRuntimeState(handler, key, BytesCoder())
            value = bundle_processor.ReadModifyWriteRuntimeState(bag)
            value.write(VALUE)
            value.commit()


def sampled(sampler: Any, work_s: float) -> Callable[[], None]:
    """Process a bundle that computes for `work_s` seconds under a sampler."""

    def run() -> None:
        sampler.start()
        end = time.perf_counter() + work_s
        while time.perf_counter() < end:
            pass
        sampler.stop()
        sampler.reset()

    return run


def compare(without: Callable[[], None], with_patch: Callable[[], None]) -> dict[str, float]:
    """Alternate both, and return the median time of each."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for run, taken in zip((without, with_patch), times, strict=True):
            start = time.perf_counter()
            run()
            taken.append((time.perf_counter() - start) * 1e3)
    before, after = (round(statistics.median(taken), 2) for taken in times)
    return {"without_ms": before, "with_ms": after}


def main() -> None:
    """Measure, and print one JSON object."""
    server = grpc.server(ThreadPoolExecutor(4))
    add: Any = beam_fn_api_pb2_grpc.add_BeamFnStateServicer_to_server
    state = StateServer()
    add(state, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    factory = sdk_worker.GrpcStateHandlerFactory(sdk_worker.StateCache(0), worker_id="bench")
    service = endpoints_pb2.ApiServiceDescriptor(url=f"127.0.0.1:{port}")
    plain = factory.create_state_handler(service)
    checked = CheckedStateHandlers(factory).create_state_handler(service)
    figures = {}
    for state.work_s in (0.0, 0.001):
        name = f"writes_of_{CELLS}_cells_at_{state.work_s * 1e3:g}_ms_a_request"
        figures[name] = compare(lambda: write_cells(plain), lambda: write_cells(checked))
    for work_ms in (1, 10, 50):
        beams, ours = (
            sampled(kind("bundle", CounterFactory()), work_ms / 1e3)
            for kind in (statesampler.StateSampler, ThreadlessSampler)
        )
        figures[f"sampler_{work_ms}_ms_bundle"] = compare(beams, ours)
    factory.close()
    server.stop(0)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
