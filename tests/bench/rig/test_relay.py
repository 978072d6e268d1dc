"""The door into a proxy for clients that know none."""

from __future__ import annotations

import socket
import threading

import pytest

from bench.rig.relay import Relay
from bench.rig.tunnel import Route


def proxy(listener: socket.socket, answer: bytes, seen: list[bytes]) -> threading.Thread:
    """Takes one connection, answers its CONNECT, and then sends back what comes until the client has ended."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            seen.append(connection.recv(4096))
            connection.sendall(answer)
            while data := connection.recv(65536):
                connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.fixture
def listener() -> socket.socket:
    """Of the proxy."""
    return socket.create_server(("127.0.0.1", 0))


def test_bytes_pass_both_ways(listener: socket.socket) -> None:
    """What a client says reaches the host that CONNECT named, and the end of it too."""
    seen: list[bytes] = []
    thread = proxy(listener, b"HTTP/1.1 200 OK\r\n\r\n", seen)
    route = Route(f"127.0.0.1:{listener.getsockname()[1]}", 443, "")
    with Relay(route, "shop.test") as relay, socket.create_connection(relay.address.split(":")) as client:  # type: ignore[arg-type]
        client.sendall(b"x" * 100_000)
        client.shutdown(socket.SHUT_WR)
        came = b""
        while data := client.recv(65536):
            came += data
    thread.join(10)
    listener.close()
    assert came == b"x" * 100_000
    assert seen[0].startswith(b"CONNECT shop.test:443 HTTP/1.1\r\n")


def test_a_refusal_is_told(listener: socket.socket) -> None:
    """A proxy that refuses closes the client's connection, and its answer is kept for the report."""
    thread = proxy(listener, b"HTTP/1.1 502 Bad Gateway\r\n\r\n", [])
    route = Route(f"127.0.0.1:{listener.getsockname()[1]}", 443, "")
    with Relay(route, "shop.test") as relay, socket.create_connection(relay.address.split(":")) as client:  # type: ignore[arg-type]
        assert client.recv(1) == b""
        assert "502 Bad Gateway" in relay.error
    thread.join(10)
    listener.close()
