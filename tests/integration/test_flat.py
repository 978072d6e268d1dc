"""What is large, slow or lasts stays flat in a worker's memory. Measured, so alone.

    FLAT_MB=2000 ./dev test tests/integration/test_flat.py

passes two gigabytes down and one up by each version of HTTP; by default it is a tenth and less of that.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage

from bench.report.processes import memory
from bench.rig.nghttpd import BODY, HOST, Nghttpd
from proxy.demo.origin import OriginCA
from tests.integration.harness import System
from tests.integration.test_forward import tunnel
from tests.waiting import wait_until

pytestmark = pytest.mark.alone

_MB = 1_000_000
DOWN_MB = int(os.environ.get("FLAT_MB", "120"))
UP_MB = DOWN_MB // 2
_GROWS_MB = 24
"""What an allocator keeps, and a window for each connection."""
_NAME = "flat.test"
_ZEROS = bytes(262_144)


class Plain:
    """A server of HTTP/1.1 over TLS that answers a GET with DOWN_MB and counts what a POST brings, when it is let."""

    def __init__(self, ca: OriginCA) -> None:
        self._context = ca.context((_NAME,), ("http/1.1",))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.let = threading.Event()
        self.let.set()
        self.sent = self.got = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let.set()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._one, args=(plain,), daemon=True).start()

    def _one(self, plain: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(plain, server_side=True) as tls:
            tls.settimeout(60)
            head = b""
            while b"\r\n\r\n" not in head:
                head += tls.recv(1)
            self.sent = self.got = 0
            if head.startswith(b"GET /ws"):
                self._converse(tls, head)
            elif head.startswith(b"GET"):
                tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (DOWN_MB * _MB))
                while self.sent < DOWN_MB * _MB:
                    piece = _ZEROS[: DOWN_MB * _MB - self.sent]
                    tls.sendall(piece)
                    self.sent += len(piece)
            else:
                self.let.wait(60)
                while self.got < UP_MB * _MB:
                    self.got += len(tls.recv(262_144))
                tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    @staticmethod
    def _converse(tls: ssl.SSLSocket, _head: bytes) -> None:
        tls.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        server = Connection(ConnectionType.SERVER)
        while data := tls.recv(65536):
            server.receive_data(data)
            tls.sendall(b"".join(server.send(one) for one in server.events() if isinstance(one, BytesMessage)))


@pytest.fixture(scope="module")
def plain(origin_ca: OriginCA) -> Iterator[Plain]:
    """The server of HTTP/1.1."""
    with Plain(origin_ca) as running:
        yield running


@pytest.fixture(scope="module")
def nghttpd(origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nghttpd]:
    """The server of HTTP/2."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = Nghttpd(tmp_path_factory.mktemp("flat") / "nghttpd", origin_ca, DOWN_MB * _MB)
    asyncio.run_coroutine_threadsafe(made.__aenter__(), loop).result(20)
    yield made
    asyncio.run_coroutine_threadsafe(made.__aexit__(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@contextmanager
def flat(system: System) -> Iterator[Callable[[], float]]:
    """The worker does not grow meanwhile; by how many MB it has grown at most so far."""
    (pid,) = system.worker_pids()
    before = memory([pid]).rss_kb / 1000
    most = [before]
    enough = threading.Event()

    def watch() -> None:
        while not enough.wait(0.05):
            most.append(max(most.pop(), memory([pid]).rss_kb / 1000))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield lambda: most[0] - before
    enough.set()
    thread.join(10)
    print(f"{before:.0f} MB before, {most[0]:.0f} at most")
    assert most[0] - before < _GROWS_MB


def _curl(system: System, url: str, *options: str | Path) -> str:
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "500", "--proxy", f"http://{system.proxy}", "--cacert",
         str(system.ca), "--write-out", "%{http_version} %{http_code} %{size_download} %{size_upload}",
         "--output", "/dev/null", *map(str, options), url],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def warm(system: System, plain: Plain, nghttpd: Nghttpd) -> System:
    """What a worker has of every first time it has had."""
    for version, url in (("--http2", f"https://{HOST}:{nghttpd.port}/small"),):
        _curl(system, url, version)
    return system


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
@pytest.mark.parametrize("version", ["http/1.1", "h2"])
def test_large_messages(warm: System, plain: Plain, nghttpd: Nghttpd, version: str, up: bool, tmp_path: Path) -> None:
    """They pass, whichever way, and leave nothing."""
    body = tmp_path / "body"
    with body.open("wb") as file:
        file.truncate(UP_MB * _MB)
    url = f"https://{HOST}:{nghttpd.port}/{BODY}" if version == "h2" else f"https://{_NAME}:{plain.port}/"
    options = ["--http2" if version == "h2" else "--http1.1"]
    if up:
        options += ["--request", "POST", "--upload-file", str(body)]
    begun = time.monotonic()
    with flat(warm):
        said = _curl(warm, url, *options).split()
    print(f"{time.monotonic() - begun:.1f} s")
    assert said[:2] == ["2" if version == "h2" else "1.1", "200"]
    if up:
        assert int(said[3]) == UP_MB * _MB
    else:
        assert int(said[2]) == DOWN_MB * _MB


def _asking(system: System, plain: Plain, head: bytes) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(system.ca))
    tls = context.wrap_socket(tunnel(system, _NAME, plain.port), server_hostname=_NAME)
    tls.sendall(head)
    return tls


def _still(amount: Callable[[], int]) -> Callable[[], bool]:
    """Whether it has not changed for a while."""
    last = [amount(), time.monotonic()]

    def still() -> bool:
        if amount() != last[0]:
            last[:] = [amount(), time.monotonic()]
        return time.monotonic() - last[1] > 0.5

    return still


def test_a_client_that_reads_slowly(warm: System, plain: Plain) -> None:
    """Its answer waits at the server, not in the worker, and arrives when it reads."""
    head = f"GET / HTTP/1.1\r\nHost: {_NAME}:{plain.port}\r\n\r\n".encode()
    with flat(warm), _asking(warm, plain, head) as tls:
        wait_until(lambda: plain.sent, "the server answers")
        wait_until(_still(lambda: plain.sent), "the server has to wait", 20)
        assert plain.sent < min(30, DOWN_MB / 2) * _MB
        size = 0
        while size < 20 * _MB:
            size += len(tls.recv(65536))


def test_a_server_that_reads_slowly(warm: System, plain: Plain) -> None:
    """What it is sent waits at the client, and arrives when it reads."""
    head = f"POST / HTTP/1.1\r\nHost: {_NAME}:{plain.port}\r\nContent-Length: {UP_MB * _MB}\r\n\r\n".encode()
    sent = [0]

    def send(tls: ssl.SSLSocket) -> None:
        while sent[0] < UP_MB * _MB:
            piece = _ZEROS[: UP_MB * _MB - sent[0]]
            tls.sendall(piece)
            sent[0] += len(piece)

    plain.let.clear()
    with flat(warm), _asking(warm, plain, head) as tls:
        thread = threading.Thread(target=send, args=(tls,), daemon=True)
        thread.start()
        wait_until(lambda: sent[0], "the client sends")
        wait_until(_still(lambda: sent[0]), "the client has to wait", 20)
        assert sent[0] < min(30, UP_MB / 2) * _MB
        plain.let.set()
        thread.join(120)
        assert tls.recv(100).startswith(b"HTTP/1.1 200")
        assert plain.got == UP_MB * _MB


def test_a_websocket_that_lasts(warm: System, plain: Plain) -> None:
    """Thousands of messages there and back leave nothing."""
    head = (
        f"GET /ws HTTP/1.1\r\nHost: {_NAME}:{plain.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    ).encode()
    client = Connection(ConnectionType.CLIENT)
    message = client.send(BytesMessage(bytes(4000)))
    with _asking(warm, plain, head) as tls:
        while b"\r\n\r\n" not in tls.recv(65536):
            pass

        def exchange(times: int) -> None:
            for _ in range(times):
                tls.sendall(message * 20)
                got = 0
                while got < 20 * 4004:
                    got += len(tls.recv(65536))

        exchange(20)
        with flat(warm):
            exchange(150)
