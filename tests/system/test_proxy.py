"""The proxy must inject the chosen fault, or rows of the fault matrix prove nothing."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from system.harness.proxy import DELAY_S, THROTTLE_BYTES_PER_S, Proxy

WAIT_S = 5.0


class Echo(socketserver.BaseRequestHandler):
    """Sends every message back."""

    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore connections that the proxy broke."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy in front of a server that echoes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Server(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with Proxy(server.server_address[1], port) as actual:
            yield actual
        server.shutdown()
        thread.join()


@pytest.fixture
def line(proxy: Proxy) -> Iterator[socket.socket]:
    """A connection through the proxy that has carried data."""
    with socket.create_connection(("127.0.0.1", proxy.port), WAIT_S) as connection:
        assert echo_s(connection, b"hello") < WAIT_S
        yield connection


def echo_s(connection: socket.socket, data: bytes) -> float:
    """Send, and return after how many seconds all of it has come back."""
    began = time.monotonic()
    connection.sendall(data)
    left = len(data)
    while left:
        left -= len(connection.recv(left))
    return time.monotonic() - began


def test_delay_takes_its_time_in_both_directions(proxy: Proxy, line: socket.socket) -> None:
    proxy.mode = "delay"

    assert echo_s(line, b"slow") >= 2 * DELAY_S


def test_throttle_lets_no_more_through_than_the_line_carries(
    proxy: Proxy, line: socket.socket
) -> None:
    proxy.mode = "throttle"

    assert echo_s(line, bytes(THROTTLE_BYTES_PER_S)) >= 1.0


def test_black_hole_keeps_connections_open_and_forgets_nothing(
    proxy: Proxy, line: socket.socket
) -> None:
    proxy.mode = "black hole"
    line.sendall(b"lost?")
    line.settimeout(0.3)
    with pytest.raises(TimeoutError):
        line.recv(1)

    proxy.mode = "pass"
    line.settimeout(WAIT_S)

    assert line.recv(5) == b"lost?"


def test_reset_ends_open_connections_and_refuses_new_ones(
    proxy: Proxy, line: socket.socket
) -> None:
    proxy.mode = "reset"
    proxy.reset_all()

    with pytest.raises(ConnectionResetError):
        line.recv(1)
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", proxy.port), WAIT_S) as another,
    ):
        another.recv(1)
    assert proxy.resets >= 2
