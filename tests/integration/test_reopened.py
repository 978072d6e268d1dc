"""A server that speaks HTTP/2 first and HTTP/1.1 when it is connected to again, and what HTTP/2 has that it has not."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from addons.edge.http2.events import Body, Ended, Event, Head, Reset
from addons.edge.http2.session import Session
from addons.edge.settings import Bounds
from proxy.demo.origin import OriginCA
from tests.addons.edge import wire2
from tests.integration.harness import System
from tests.integration.inbound_system import InboundSystem

NAME = "reopens.test"
_GOAWAY = wire2.frame(wire2.GOAWAY, bytes(8))  # nothing was begun
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Reopening:
    """The server. `heard` is what came over HTTP/1.1, by connection."""

    def __init__(self, ca: OriginCA) -> None:
        self._ca = ca
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                for alpn in ("h2", "http/1.1"):
                    self._one(self._server.accept()[0], alpn)

    def _one(self, plain: socket.socket, alpn: str) -> None:
        plain.settimeout(10)
        with suppress(OSError), self._ca.context((NAME,), (alpn,)).wrap_socket(plain, server_side=True) as tls:
            if alpn == "h2":
                tls.sendall(wire2.settings())
                came = b""
                while not any(kind == wire2.HEADERS for kind, *_ in wire2.frames(came[len(wire2.MAGIC) :])):
                    came += tls.recv(65536)
                tls.sendall(_GOAWAY)
                return
            self.heard.append(b"")
            while not self.heard[-1].endswith(b"0\r\n\r\n") and b"GET /next" not in self.heard[-1]:
                if not (data := tls.recv(65536)):
                    return
                self.heard[-1] += data
            tls.sendall(_OK)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)


@pytest.fixture(scope="module")
def server() -> Iterator[Reopening]:
    """Behind both."""
    with Reopening(OriginCA()) as running:
        yield running


@pytest.fixture(scope="module", params=["explicit", "inbound"])
def place(
    request: pytest.FixtureRequest, softhsm_module: str, server: Reopening, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A proxy in front of it, or a site."""
    directory = tmp_path_factory.mktemp("reopened") / "s"
    if request.param == "explicit":
        made = System.make(directory, upstream_ca=server._ca.pem, workers="1")
    else:
        made = InboundSystem.make_inbound(directory, upstream_ca=server._ca.pem, workers="1")
        made.generate(shop="p256")
        made.listener()
        made.site(NAME, keys=["shop"], upstream=f"https://127.0.0.1:{server.port}", upstream_name=NAME)
    with made:
        yield made


class Client:
    """A client of HTTP/2."""

    def __init__(self, place: System, port: int) -> None:
        if isinstance(place, InboundSystem):
            plain, root = socket.create_connection(("127.0.0.1", place.port), 20), place.root
        else:
            host, _, number = place.status().listeners[0].address.rpartition(":")
            plain, root = socket.create_connection((host, int(number)), 20), place.ca
            plain.sendall(f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
            assert plain.recv(4096).startswith(b"HTTP/1.1 200 ")
        self._tls = _context(root).wrap_socket(plain, server_hostname=NAME)
        assert self._tls.selected_alpn_protocol() == "h2"
        self.session = Session(Bounds(), client=True)

    def until_over(self, *streams: int) -> list[Event]:
        """What came, once each of these streams is over."""
        came: list[Event] = []
        while not {one.stream_id for one in came if isinstance(one, Ended | Reset)} >= set(streams):
            self._tls.sendall(self.session.pull(1 << 20))
            self.session.receive(self._tls.recv(65536))
            came += self.session.events
            self.session.events.clear()
        return came

    def close(self) -> None:
        """Without a word."""
        self._tls.close()


def _context(root: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(root))
    context.set_alpn_protocols(["h2"])
    return context


def _fields(method: bytes, path: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [
        (b":method", method), (b":scheme", b"https"), (b":path", path), (b":authority", NAME.encode()), *more,
    ]  # fmt: skip


def test_a_request_without_a_length_is_framed(place: System, server: Reopening) -> None:
    """A POST that HTTP/2 frames by itself goes in chunks to a server that answers with HTTP/1.1 when it is connected to
    again: without a framing its body would be that server's next request."""
    client, before = Client(place, server.port), len(server.heard)
    stream = client.session.request(_fields(b"POST", b"/upload"), ended=False)
    client.session.send(stream, b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
    client.session.end(stream)
    came = client.until_over(stream)
    client.close()
    assert b"".join(chunk for one in came if isinstance(one, Body) for chunk in one.chunks) == b"ok"
    (heard,) = server.heard[before:]
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /upload HTTP/1.1\r\n")
    assert b"\r\ntransfer-encoding: chunked" in head.lower()
    assert body.startswith(b"23\r\nGET /smuggled")
    assert body.endswith(b"\r\n0\r\n\r\n")


def test_an_extended_connect_ends_its_stream_alone(place: System, server: Reopening) -> None:
    """A WebSocket over HTTP/2 (RFC 8441), which is not passed on: the client is told on its stream, and what else it
    asks for on the connection is answered."""
    client = Client(place, server.port)
    wanted = client.session.request(_fields(b"CONNECT", b"/chat", (b":protocol", b"websocket")), ended=False)
    other = client.session.request(_fields(b"GET", b"/next"), ended=True)
    came = client.until_over(wanted, other)
    client.close()
    answers = {one.stream_id: dict(one.fields)[b":status"] for one in came if isinstance(one, Head)}
    assert answers.get(wanted, b"501") == b"501"
    assert answers[other] == b"200"
