"""A server far behind a proxy, whose sockets a test has in its own hands, and a client's way there."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from tests.addons.edge.hellos import hello
from tests.addons.edge.listeners.passing import Passing

HELLO = hello("bank.test")
TIME_S = 20.0


class Far:
    """A listening socket; `taken` is the next connection to it."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.socket.settimeout(TIME_S)
        self.port: int = self.socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def taken(self, begun: bytes = HELLO) -> socket.socket:
        """The next connection, from which these first bytes have come, as they were sent."""
        one = self.socket.accept()[0]
        one.settimeout(TIME_S)
        assert exactly(one, len(begun)) == begun
        return one


def exactly(one: socket.socket, size: int) -> bytes:
    """As many bytes, or what comes before the end."""
    data = bytearray()
    while len(data) < size and (more := one.recv(min(size - len(data), 1 << 20))):
        data += more
    return bytes(data)


def connect(proxy: Passing, port: int, host: str = "127.0.0.1", begun: bytes = HELLO) -> socket.socket:
    """A client that has a tunnel, and has said `begun` in it."""
    one = socket.create_connection(("127.0.0.1", proxy.port), TIME_S)
    ask(one, host, port)
    one.sendall(begun)
    return one


def ask(one: socket.socket, host: str, port: int) -> None:
    """Have a tunnel."""
    one.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += (more := one.recv(1))
        assert more, head
    assert head.startswith(b"HTTP/1.1 200"), head


@contextmanager
def through(proxy: Passing, far: Far) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client and its server, whose ClientHello is there."""
    with connect(proxy, far.port) as client, far.taken() as server:
        yield client, server


class Sending:
    """A thread that sends so many bytes, and then ends this direction if it `ends`."""

    def __init__(self, one: socket.socket, seed: bytes, size: int, *, ends: bool = True) -> None:
        self._ends = ends
        self._one, self._block, self._size = one, hashlib.shake_256(seed).digest(1 << 20), size
        self._sum = hashlib.sha256()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._send()
        except OSError as error:
            self._error = error

    def _send(self) -> None:
        left = self._size
        while left:
            piece = self._block[: min(left, len(self._block))]
            self._one.sendall(piece)
            self._sum.update(piece)
            left -= len(piece)
        if self._ends:
            self._one.shutdown(socket.SHUT_WR)

    def digest(self) -> bytes:
        """Of all that was sent, once it was."""
        assert self.error() is None
        return self._sum.digest()

    def error(self) -> OSError | None:
        """What it came to an end with."""
        self._thread.join(TIME_S)
        assert not self._thread.is_alive()
        return self._error


def drained(one: socket.socket) -> tuple[int, bytes]:
    """All that comes up to the end: how many bytes, and their digest."""
    size, made = 0, hashlib.sha256()
    while data := one.recv(1 << 20):
        size += len(data)
        made.update(data)
    return size, made.digest()
