"""HTTP/2 through real processes: clients that do not read, and clients that flood, beside one that behaves."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from addons.edge.http2 import nghttp2
from addons.edge.http2.session import Session
from addons.edge.settings import Bounds
from bench.rig.nghttpd import BODY, HOST, SMALL, Nghttpd
from proxy.demo.origin import OriginCA
from tests.addons.edge import wire2
from tests.integration.harness import System
from tests.waiting import wait_until

GROWTH_MB = 32
"""A connection's bound is a few MiB; the rest is what an allocator keeps."""
ADDED_S = 0.25


def request(path: str) -> list[tuple[bytes, bytes]]:
    """A GET of a file at the origin."""
    return [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", f"/{path}".encode()),
        (b":authority", HOST.encode()),
    ]


@pytest.fixture(scope="module")
def origin(origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nghttpd]:
    """nghttp2's own server, with a body of 200 MB."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = Nghttpd(tmp_path_factory.mktemp("origin") / "nghttpd", origin_ca, 200_000_000)
    asyncio.run_coroutine_threadsafe(made.__aenter__(), loop).result(20)
    yield made
    asyncio.run_coroutine_threadsafe(made.__aexit__(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


class Client:
    """A connection through the proxy to the origin, TLS and all; what is spoken on it is the test's."""

    def __init__(self, system: System, origin: Nghttpd) -> None:
        host, _, port = system.status().listeners[0].address.rpartition(":")
        raw = socket.create_connection((host, int(port)), 10)
        raw.sendall(f"CONNECT {HOST}:{origin.port} HTTP/1.1\r\nHost: {HOST}:{origin.port}\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += raw.recv(4096)
        assert b" 200 " in answer
        context = ssl.create_default_context(cafile=str(system.ca))
        context.set_alpn_protocols(["h2"])
        self.tls = context.wrap_socket(raw, server_hostname=HOST)
        assert self.tls.selected_alpn_protocol() == "h2"

    def rest(self) -> bytes:
        """What comes until the connection ends."""
        self.tls.settimeout(10)
        came = b""
        try:
            while data := self.tls.recv(65536):
                came += data
        except (ConnectionError, ssl.SSLError):
            pass
        return came

    def close(self) -> None:
        """Without a word."""
        self.tls.close()


@contextmanager
def bystander(system: System, origin: Nghttpd) -> Iterator[list[float]]:
    """A client that asks for something small again and again: how long each answer took, in seconds."""
    client, session = Client(system, origin), Session(Bounds(), client=True)
    waits: list[float] = []
    enough = threading.Event()

    def ask() -> None:
        while not enough.wait(0.02):
            begun = time.monotonic()
            stream = session.request(request(SMALL), ended=True)
            while stream in session.streams:
                client.tls.sendall(session.pull(1 << 20))
                session.receive(client.tls.recv(65536))
            waits.append(time.monotonic() - begun)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    yield waits
    enough.set()
    thread.join(10)
    assert not thread.is_alive()
    client.close()


def worker(system: System) -> int:
    """The process that has the connections."""
    (found,) = [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit()
        and b"proxy.processes.worker" in (command := _command(path))
        and str(system.directory).encode() in command
    ]
    return found


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def memory_mb(pid: int) -> float:
    """Of the process, resident."""
    line = next(one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.alone
@pytest.mark.parametrize("window", [0, 2**31 - 1], ids=["no window", "no reading"])
def test_a_client_that_does_not_read_costs_little(system: System, origin: Nghttpd, window: int) -> None:
    """Thirty large answers that nobody reads, by the windows of HTTP/2 or by the socket, stay where they are."""
    pid = worker(system)
    with bystander(system, origin) as waits:
        wait_until(lambda: len(waits) >= 10, "ten answers", 20)
        alone, before = max(waits), memory_mb(pid)
        client = Client(system, origin)
        client.tls.sendall(wire2.MAGIC + wire2.settings((4, window)))
        if window:
            client.tls.sendall(wire2.window_update(2**31 - 65536))
        client.tls.sendall(b"".join(wire2.headers(request(BODY), stream) for stream in range(1, 60, 2)))
        waits.clear()
        sizes: list[float] = []

        def sixty() -> bool:
            sizes.append(memory_mb(pid))
            return len(waits) >= 60

        wait_until(sixty, "sixty answers", 30)
        assert max(waits) < alone + ADDED_S
        assert max(sizes) < before + GROWTH_MB
        client.close()


_KINDS = {
    "rapid reset": b"",
    "SETTINGS": wire2.settings(),
    "PING": wire2.frame(wire2.PING, bytes(8)),
    "PRIORITY": wire2.frame(wire2.PRIORITY, struct.pack(">IB", 0, 1), stream=3),
    "WINDOW_UPDATE": wire2.window_update(1),
}


@pytest.mark.alone
@pytest.mark.parametrize("kind", _KINDS)
def test_a_flood_is_ended_and_nobody_waits_for_it(system: System, origin: Nghttpd, kind: str) -> None:
    """A flood ends with GOAWAY (ENHANCE_YOUR_CALM), is told in one line, and others' answers come as before."""
    lines = system.log.count("(http2-flood)")
    with bystander(system, origin) as waits:
        wait_until(lambda: len(waits) >= 10, "ten answers", 20)
        alone = max(waits)
        waits.clear()
        client = Client(system, origin)
        client.tls.sendall(wire2.MAGIC + wire2.settings())
        try:
            for number in range(500):
                streams = range(200 * number + 1, 200 * number + 200, 2)
                client.tls.sendall(
                    _KINDS[kind] * 100
                    or b"".join(
                        wire2.headers(request(SMALL), stream)
                        + wire2.frame(wire2.RST_STREAM, struct.pack(">I", nghttp2.CANCEL), stream=stream)
                        for stream in streams
                    )
                )
        except (ConnectionError, ssl.SSLError):
            pass
        rest = client.rest()
        wait_until(lambda: len(waits) >= 10, "ten answers", 20)
        assert max(waits) < alone + ADDED_S
    codes = [int.from_bytes(payload[4:8]) for kind_, _, _, payload in wire2.frames(rest) if kind_ == wire2.GOAWAY]
    assert codes == [nghttp2.ENHANCE_YOUR_CALM]
    system.until_logged("(http2-flood)", times=lines + 1)
    assert system.log.count("(http2-flood)") == lines + 1
    client.close()
