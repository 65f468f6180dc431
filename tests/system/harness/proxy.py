"""A TCP proxy in front of the broker that injects network faults.

It runs an event loop in a separate thread, so a test can continue while the network is
interrupted. It listens on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Literal

from fixtures.deadlines import deadline

Mode = Literal["pass", "black hole", "delay", "throttle", "reset"]

DELAY_S = 0.5
THROTTLE_BYTES_PER_S = 64 * 1024
_CHUNK = 64 * 1024
_POLL_S = 0.05
_START_S_MAX = 10.0
# SO_LINGER on with no time to linger: the kernel sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)


class Link:
    """The byte budget of one direction, which all connections share."""

    def __init__(self) -> None:
        self._free_at = 0.0

    async def take(self, count: int) -> None:
        """Wait until a throttled line has carried `count` bytes."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(now, self._free_at) + count / THROTTLE_BYTES_PER_S
        await asyncio.sleep(self._free_at - now)


class Proxy:
    """Forwards connections from a port to a target; `mode` chooses the fault."""

    def __init__(self, target_port: int, port: int) -> None:
        self.port = port
        self.mode: Mode = "pass"
        #: Bytes carried, and connections reset, so far.
        self.carried = self.resets = 0
        self._target_port = target_port
        self._links = (Link(), Link())  # there and back
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="proxy")

    def __enter__(self) -> Proxy:
        self._ready = threading.Event()
        self._thread.start()
        assert self._ready.wait(deadline(_START_S_MAX)), f"no proxy at port {self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def reset_all(self) -> None:
        """Reset every connection that is open now."""
        self._call(self._reset_open())

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(deadline(_START_S_MAX))

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = asyncio.start_server(self._connect, "127.0.0.1", self.port, limit=_CHUNK)
        self._server = self._loop.run_until_complete(serving)
        self._ready.set()
        self._loop.run_forever()

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self._writers):
            writer.transport.abort()

    async def _reset_open(self) -> None:
        for writer in list(self._writers):
            self._reset(writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "reset":
            self._reset(writer)
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target_port, limit=_CHUNK)
        except OSError:  # no server accepts connections, so the proxy refuses this one
            self._reset(writer)
            return
        self._writers |= {writer, there[1]}
        up, down = self._links
        for source, sink, link in ((reader, there[1], up), (there[0], writer, down)):
            task = self._loop.create_task(self._carry(source, sink, link))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, link: Link
    ) -> None:
        """Carry one direction of a connection to its end."""
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK):
                if self.mode == "delay":
                    await asyncio.sleep(DELAY_S)
                if self.mode == "throttle":
                    await link.take(len(data))
                while self.mode == "black hole":  # and it stays open at both ends
                    await asyncio.sleep(_POLL_S)
                sink.write(data)
                await sink.drain()
                self.carried += len(data)
        self._writers.discard(sink)
        sink.close()

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        self.resets += 1
        self._writers.discard(writer)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
