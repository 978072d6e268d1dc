"""A server that speaks HTTP/2 first and HTTP/1.1 when it is connected to again, and what HTTP/2 has that it has not."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Iterator

import pytest

from tests.addons.edge import wire2
from tests.exchanges.client2 import Client2, asked
from tests.exchanges.ends1 import HOST
from tests.exchanges.scene import WAYS, Scene, over_tls

pytestmark = pytest.mark.alone
_GOAWAY = wire2.frame(wire2.GOAWAY, bytes(8))  # nothing was begun
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Reopening:
    """The server. `heard` is what came over HTTP/1.1, by connection."""

    def __init__(self, scene: Scene) -> None:
        self.heard: list[bytes] = []
        self._turns = itertools.cycle((over_tls(_context(scene, "h2"), self._leave),
                                       over_tls(_context(scene, "http/1.1"), self._serve)))  # fmt: skip

    def __call__(self, connection: ssl.SSLSocket) -> None:
        """One connection."""
        next(self._turns)(connection)

    def _leave(self, tls: ssl.SSLSocket) -> None:
        tls.sendall(wire2.settings())
        came = b""
        while not any(kind == wire2.HEADERS for kind, *_ in wire2.frames(came[len(wire2.MAGIC) :])):
            came += tls.recv(65536)
        tls.sendall(_GOAWAY)

    def _serve(self, tls: ssl.SSLSocket) -> None:
        self.heard.append(b"")
        while not self.heard[-1].endswith(b"0\r\n\r\n") and b"GET /next" not in self.heard[-1]:
            if not (data := tls.recv(65536)):
                return
            self.heard[-1] += data
        tls.sendall(_OK)


def _context(scene: Scene, alpn: str) -> ssl.SSLContext:
    return scene.ca.context((HOST,), (alpn,))


@pytest.fixture
def server(scene: Scene) -> Reopening:
    """Behind all ways."""
    return Reopening(scene)


@pytest.fixture(params=WAYS)
def client(request: pytest.FixtureRequest, scene: Scene, server: Reopening) -> Iterator[Client2]:
    """A client of HTTP/2 that has come to it, by each way."""
    with scene.serving(server) as port, scene.tls(request.param, port, "h2") as tls:
        yield Client2(tls)


def test_a_request_without_a_length_is_framed(client: Client2, server: Reopening) -> None:
    """A POST that HTTP/2 frames by itself goes in chunks to a server that answers with HTTP/1.1 when it is connected to
    again: without a framing its body would be that server's next request."""
    stream = client.request(asked("POST", "/upload"), b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
    client.until_over([stream])
    assert client.answer(stream) == (200, b"ok")
    (heard,) = server.heard
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /upload HTTP/1.1\r\n")
    assert b"\r\ntransfer-encoding: chunked" in head.lower()
    assert body.startswith(b"23\r\nGET /smuggled")
    assert body.endswith(b"\r\n0\r\n\r\n")


def test_an_extended_connect_ends_its_stream_alone(client: Client2) -> None:
    """A WebSocket over HTTP/2 (RFC 8441) that is not passed on: the client is told on its stream, and what else it asks
    for on the connection is answered."""
    wanted = client.request(asked("CONNECT", "/chat", (b":protocol", b"websocket")), None)
    other = client.request(asked("GET", "/next"))
    client.until_over([wanted, other])
    assert client.answer(wanted)[0] in (-1, 501)
    assert client.answer(other)[0] == 200
