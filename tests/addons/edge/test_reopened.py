"""A server that is reached anew, and speaks HTTP/1.1 this time: what an HTTP/2 client asks stays one request."""

from __future__ import annotations

import struct

import pytest
from mitmproxy import hooks
from mitmproxy.proxy import events
from mitmproxy.proxy.layers import http

from addons.edge.http2.events import Ended
from tests.addons.edge import wire2
from tests.addons.edge.proxied import Peer, Proxy, body, talk
from tests.addons.edge.wire2 import REQUEST

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"%s / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(SMUGGLED), SMUGGLED)
TRAILERS = [(b"sum", b"1")]
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Reopened:
    """A client of HTTP/2, whose server goes away before it has begun and speaks HTTP/1.1 from then on."""

    def __init__(self, *, streamed: bool) -> None:
        def script(hook: hooks.Hook) -> None:
            if isinstance(hook, http.HttpRequestHeadersHook):
                hook.flow.request.stream = streamed

        self.proxy = Proxy(script=script)
        self.client = Peer(self.proxy, client=True)
        self._server = Peer(self.proxy, client=False)
        talk(self.proxy, self.client, self._server)

    def begin(self, method: bytes, content: bytes) -> int:
        """A request without a length, whose end is still to come."""
        stream = self.client.session.request([(b":method", method), *REQUEST[1:]], ended=False)
        self.client.session.send(stream, content)
        talk(self.proxy, self.client, self._server)
        return stream

    def go_away(self) -> None:
        """The server has begun nothing; the next one speaks HTTP/1.1."""
        old = self.proxy.server
        old.alpn = b"http/1.1"
        self.proxy.feed(old, wire2.frame(wire2.GOAWAY, struct.pack(">II", 0, 0)))
        self.proxy.settle()

    def end(self, stream: int, trailers: list[tuple[bytes, bytes]] | None = None) -> None:
        """The request's end."""
        self.client.session.end(stream, trailers)
        talk(self.proxy, self.client)

    def answer(self, stream: int) -> bool:
        """The new server answers; whether the client gets it."""
        self.proxy.feed(self.proxy.server, _ANSWER)
        talk(self.proxy, self.client)
        came = self.client.taken()
        return body(came, stream) == b"ok" and Ended(stream) in came


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE", b"GET"])
@pytest.mark.parametrize("trailers", [None, TRAILERS])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "as it comes"])
def test_a_body_without_a_length_is_framed(
    method: bytes, trailers: list[tuple[bytes, bytes]] | None, streamed: bool
) -> None:
    """In chunks, or with its length where it is known: unframed, it would be the server's next request."""
    reopened = Reopened(streamed=streamed)
    stream = reopened.begin(method, SMUGGLED)
    reopened.end(stream, trailers)
    reopened.go_away()
    said = reopened.proxy.out(reopened.proxy.server)
    if streamed or trailers:
        end = b"0\r\nsum: 1\r\n\r\n" if trailers else b"0\r\n\r\n"
        assert said == HEAD % method + CHUNKED + end
    else:
        assert said == HEAD % method + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
    assert reopened.answer(stream)


def test_an_upload_that_is_being_passed_on_is_framed() -> None:
    """What had gone to the first server goes to the next one in chunks, and so does the rest."""
    reopened = Reopened(streamed=True)
    stream = reopened.begin(b"POST", SMUGGLED)
    reopened.go_away()
    reopened.client.session.send(stream, b"more")
    talk(reopened.proxy, reopened.client)
    reopened.end(stream, TRAILERS)
    said = reopened.proxy.out(reopened.proxy.server)
    assert said == HEAD % b"POST" + CHUNKED + b"4\r\nmore\r\n0\r\nsum: 1\r\n\r\n"
    assert reopened.answer(stream)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "as it comes"])
def test_the_next_request_is_framed_as_well(streamed: bool) -> None:
    """The server's connection has ended between two requests, and is opened anew for the second one."""
    reopened = Reopened(streamed=streamed)
    old = reopened.proxy.server
    old.alpn, old.state = b"http/1.1", type(old.state)(0)
    reopened.proxy.event(events.ConnectionClosed(old))
    stream = reopened.client.session.request([(b":method", b"POST"), *REQUEST[1:]], ended=False)
    reopened.client.session.send(stream, SMUGGLED)
    reopened.end(stream)
    said = reopened.proxy.out(reopened.proxy.server)
    assert said in (
        HEAD % b"POST" + CHUNKED + b"0\r\n\r\n",
        HEAD % b"POST" + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    )
    assert reopened.answer(stream)
