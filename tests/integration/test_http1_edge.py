"""HTTP/1 through a running proxy, with a client and a server that send what they like."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.harness import OriginThread, System
from tests.waiting import wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TAKES_MB = 8
"""What a worker may grow by, for a peer that sends a hundred times as much as a head may be."""


class Server:
    """A server on a thread of its own: what it got, and `answer` for each connection."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.port: int = self._listener.getsockname()[1]
        self.got = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed at the test's end
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(10)
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            data = b""
            while not data.endswith(b"\r\n\r\n"):
                piece = connection.recv(65536)
                if not piece:
                    return
                data += piece
                self.got += piece
            self._answer(connection)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[Server]:
    """A server for as long as a test asks it."""
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()


def answering(*pieces: bytes) -> Callable[[socket.socket], None]:
    """A server that sends this, and then waits until the other side has closed."""

    def answer(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
        while connection.recv(65536):
            pass

    return answer


def client(system: System) -> socket.socket:
    """A connection to the proxy."""
    host, _, port = system.proxy.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def read(connection: socket.socket, until: bytes) -> bytes:
    """What the proxy sends, up to and with `until`, or to its end."""
    got = b""
    while until not in got:
        piece = connection.recv(65536)
        if not piece:
            break
        got += piece
    return got


def largest_mb(system: System) -> int:
    """The most memory that the worker ever had."""
    (pid,) = system.worker_pids()
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) // 1000


def asking(server: Server, *lines: bytes, method: bytes = b"GET") -> bytes:
    """A request's head for that server."""
    where = b"127.0.0.1:%d" % server.port
    return b"\r\n".join([method + b" http://" + where + b"/ HTTP/1.1", b"Host: " + where, *lines, b"", b""])


def _fields(tmp_path: Path, length: int) -> Path:
    """A file with header fields of so many bytes."""
    path = tmp_path / "fields"
    path.write_text("".join(f"X-{number}: {'y' * 8000}\n" for number in range(length // 8000)))
    return path


def test_a_request_head_without_end_is_refused(system: System) -> None:
    """A client that sends one for as long as it can gets a 431; the worker does not grow by it, and says so once."""
    before = largest_mb(system)
    with client(system) as connection:
        line = f"client 127.0.0.1:{connection.getsockname()[1]} refused (oversized-head)"
        connection.sendall(b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n")
        with contextlib.suppress(OSError):  # it is closed while we send
            for _ in range(1000):
                connection.sendall(b"X: " + b"y" * 8000 + b"\r\n")
        assert read(connection, b"\nAsk:  ").startswith(b"HTTP/1.1 431 ")
    wait_until(lambda: line in system.log, "a line about it", 5)
    assert system.log.count(line) == 1
    assert largest_mb(system) - before < TAKES_MB


def test_a_head_too_large_within_tls_is_refused(system: System, origin: OriginThread, tmp_path: Path) -> None:
    """curl is told why, and does not lose the answer to a reset, however much of its request is still unread."""
    for length in (80_000, 600_000):
        reply = system.curl(
            f"https://large-head.test:{origin.port}/", "--http1.1", "--header", f"@{_fields(tmp_path, length)}"
        )
        assert reply.status == 431, reply
        assert "bytes" in reply.body


@pytest.mark.parametrize("line", [b"X: " + b"y" * 8000 + b"\r\n", b"y" * 8000])
def test_an_answers_head_without_end_is_refused(system: System, line: bytes) -> None:
    """A server that sends one is left, the client gets a 502 that says why, and the worker does not grow by it."""
    before = largest_mb(system)
    with (
        serving(answering(b"HTTP/1.1 200 OK\r\nA: ", *[line] * 4000)) as server,
        client(system) as connection,
    ):
        connection.sendall(asking(server))
        answer = read(connection, b"\nAsk:  ")
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"gave an answer that cannot be passed on" in answer
    assert largest_mb(system) - before < TAKES_MB


def test_what_comes_too_early_is_not_kept(system: System) -> None:
    """A client that sends request after request without waiting is not read on until it has its answers."""
    before = largest_mb(system)
    answered = threading.Event()

    def answer(connection: socket.socket) -> None:
        answered.wait(10)
        connection.sendall(OK)

    with serving(answer) as server, client(system) as connection:
        ask = asking(server)
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.sendall(ask * 500_000)
        answered.set()
        connection.settimeout(10)
        assert read(connection, b"ok").startswith(b"HTTP/1.1 200 ")
    assert largest_mb(system) - before < TAKES_MB


def test_trailers_and_hints_pass(system: System) -> None:
    """Chunked trailers go both ways, an early hint is not the answer, and the connection serves the next request."""
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nServer-Timing: t\r\n\r\n"
    )
    with serving(answering(answer)) as server, client(system) as connection:
        connection.sendall(asking(server, b"Transfer-Encoding: chunked", method=b"POST"))
        connection.sendall(b"3\r\nabc\r\n0\r\nDigest: d\r\nClient_Cert: forged\r\n\r\n")
        assert read(connection, b"Server-Timing: t\r\n\r\n") == answer
        assert server.got.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\nDigest: d\r\n\r\n")
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert read(connection, b"\nAsk:  ").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "broken",
    [b"X: a\rb", b"X: a\x00b", b" X: a", b"X : a", b"Host: b.test", b"Transfer-Encoding: \x0bchunked", b"X: a\nY: b"],
)
def test_what_a_server_could_read_in_two_ways_does_not_reach_it(system: System, broken: bytes) -> None:
    """Nothing of such a request is sent."""
    with serving(answering(OK)) as server, client(system) as connection:
        connection.sendall(asking(server, broken))
        assert read(connection, b"\nAsk:  ").startswith(b"HTTP/1.1 400 ")
        assert server.got == b""
