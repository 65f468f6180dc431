"""Beam's external worker pool, on loopback.

    python -m streamgauge.infra.local.worker_pool PORT.

It offers the same service as `apache_beam.runners.worker.worker_pool_main`. That pool listens on
all interfaces, starts whatever `python` is on PATH, and gives its workers a pipe for stdout that
is never read, so a worker that prints 64 kB hangs.

This pool also forks workers from a process that has already imported Beam, so four of them start
in one second instead of ten. It ends workers whose TaskManager is gone; after `kill -9` of a
TaskManager nothing else does. Its workers carry the patches of `infra/patches`, and it refuses to
start with a release of Beam for which these were not tested.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from streamgauge.infra.errors import PatchError
from streamgauge.infra.local.workers import WORKER_NAME
from streamgauge.infra.patches.releases import require_known_beam

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

_LOG = logging.getLogger("streamgauge.infra.local.worker_pool")
_GRACE_S = 2.0
_REAP_EVERY_S = 1.0
_PR_SET_NAME = 15
# None of streamgauge's modules: a pool that runs for days would keep serving their old code.
_PRELOAD = ["apache_beam.runners.worker.sdk_worker", "numpy", "pyarrow"]


class LoopbackPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts and ends one SDK worker process per request of a TaskManager."""

    def __init__(self) -> None:
        # A fork of this process would copy locks that its gRPC threads hold, so workers are
        # forked from a separate server process.
        self._fork = multiprocessing.get_context("forkserver")
        self._fork.set_forkserver_preload(_PRELOAD)
        self._lock = threading.Lock()
        #: worker id to (control endpoint, process).
        self._workers: dict[str, tuple[str, ForkServerProcess]] = {}

    def StartWorker(self, request: Any, context: Any) -> Any:
        """Start the worker that a TaskManager asks for."""
        endpoint, worker_id = request.control_endpoint.url, request.worker_id
        process = self._fork.Process(target=run_worker, args=(endpoint, worker_id))
        try:
            with self._lock:
                process.start()
                self._workers[worker_id] = (endpoint, process)
        except OSError as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=f"worker pool: {error}")
        _LOG.info("started worker %s as process %d for %s", worker_id, process.pid, endpoint)
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:
        """End the worker; unknown ids are fine, it may have ended by itself."""
        self._end([request.worker_id])
        return beam_fn_api_pb2.StopWorkerResponse()

    def reap(self) -> None:
        """Drop workers that have ended, and end those whose TaskManager no longer listens."""
        with self._lock:
            known = dict(self._workers)
        gone = {endpoint for endpoint, _ in known.values() if refuses(endpoint)}
        self._end(
            worker_id
            for worker_id, (endpoint, process) in known.items()
            if endpoint in gone or not process.is_alive()
        )

    def end_all(self) -> None:
        """End every worker."""
        self._end(list(self._workers))

    def _end(self, worker_ids: Iterable[str]) -> None:
        with self._lock:
            ending = [(name, self._workers.pop(name, None)) for name in worker_ids]
        live = [(name, entry[1]) for name, entry in ending if entry is not None]
        for _, process in live:
            process.terminate()
        for name, process in live:
            process.join(_GRACE_S)
            if process.is_alive():
                process.kill()
                process.join()
            _LOG.info("worker %s ended with %s", name, process.exitcode)


def run_worker(endpoint: str, worker_id: str) -> None:
    """Run an SDK worker in the forked process."""
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    from streamgauge.infra.patches import state_writes, step_sampler

    # Forked processes share one command line; `worker_pids` recognises them by this name.
    ctypes.CDLL(None).prctl(_PR_SET_NAME, WORKER_NAME.encode())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _set_up_logging()
    step_sampler.install()
    # Imported modules stay and blocks of messages form no cycles, so collecting garbage often
    # would only cost time: a tenth of it with Python's defaults.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    # Beam's state cache stays off: with it on, every state access walks object graphs.
    worker = SdkHarness(
        endpoint, worker_id=worker_id, state_cache_size=0, data_buffer_time_limit_ms=-1
    )
    state_writes.install(worker)
    worker.run()


def refuses(endpoint: str) -> bool:
    """Return whether nothing listens at "host:port"; a slow answer is not a refusal."""
    host, _, port = endpoint.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def main() -> None:
    """Serve until SIGTERM."""
    _set_up_logging()
    try:
        require_known_beam()
    except PatchError as error:
        sys.exit(f"worker pool: {error}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    pool = LoopbackPool()
    server = grpc.server(
        ThreadPoolExecutor(max_workers=32),
        # TaskManagers ping idle connections; gRPC's default is to hang up on that.
        options=[("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0)],
    )
    add: Any = beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server  # untyped
    add(pool, server)
    server.add_insecure_port(f"127.0.0.1:{int(sys.argv[1])}")
    server.start()
    try:
        while True:
            time.sleep(_REAP_EVERY_S)
            pool.reap()
    finally:
        server.stop(0)
        pool.end_all()


def _set_up_logging() -> None:
    layout = "%(asctime)s %(levelname)s %(process)d %(name)s - %(message)s"
    # `force`: an import of Beam has logged, and thereby configured, logging already.
    logging.basicConfig(level=logging.INFO, format=layout, force=True)


if __name__ == "__main__":
    main()
