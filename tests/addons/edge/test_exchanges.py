"""What lasts costs the same at its end as at its begin: connections with many requests, in memory."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from mitmproxy import hooks
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import events
from mitmproxy.proxy.layer import NextLayerHook
from mitmproxy.proxy.layers.http import HTTPMode

from addons.edge.connecting.stream import EdgeStream
from addons.edge.exchanges import Exchanges
from addons.edge.http2.events import Head
from addons.edge.streaming import EVERYTHING
from tests.addons.edge.proxied import Peer, Proxy, talk
from tests.addons.edge.wire2 import OK, REQUEST

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
OK1 = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
_PAIRS = [(b"h2", b"h2"), (b"http/1.1", b"h2"), (b"h2", b"http/1.1"), (b"http/1.1", b"http/1.1")]
_GROWS = 300
"""Objects that a few hundred requests may leave: what is looked at now and then."""


class Pair:
    """A client that asks and a server that answers, again and again."""

    def __init__(self, client: bytes, server: bytes) -> None:
        self.proxy = Proxy(client=client, server=server, around=Exchanges)
        EdgeStream.streamed = EVERYTHING
        self.client = Peer(self.proxy, client=True) if client == b"h2" else None
        self.server = Peer(self.proxy, client=False) if server == b"h2" else None
        self.peers = [one for one in (self.client, self.server) if one is not None]
        talk(self.proxy, *self.peers)

    def exchange(self) -> None:
        """One request, and its answer."""
        proxy = self.proxy
        if self.client is not None:
            self.client.session.request(REQUEST, ended=True)
        else:
            proxy.feed(proxy.client, GET)
        talk(proxy, *self.peers)
        if self.server is not None:
            for head in (one for one in self.server.taken() if isinstance(one, Head)):
                self.server.session.respond(head.stream_id, OK, ended=False)
                self.server.session.send(head.stream_id, b"ok")
                self.server.session.end(head.stream_id, [(b"grpc-status", b"0")])
        else:
            proxy.settle()
            assert proxy.out(proxy.server)
            proxy.feed(proxy.server, OK1)
            if proxy.server in proxy.closed:  # as the worker's handler tells it then
                proxy.event(events.ConnectionClosed(proxy.server))
                proxy.closed.discard(proxy.server)
        talk(proxy, *self.peers)
        proxy.writes.clear()
        proxy.sent.clear()
        answers = self.client.taken() if self.client is not None else []
        assert self.client is None or any(isinstance(one, Head) for one in answers)


def _objects(work: Callable[[], None], times: int) -> int:
    for _ in range(times):
        work()
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.parametrize(("client", "server"), _PAIRS)
def test_a_thousand_requests_leave_nothing(client: bytes, server: bytes) -> None:
    """On one client's connection, whether the server's lasts as long or each request has its own."""
    pair = Pair(client, server)
    before = _objects(pair.exchange, 150)
    assert _objects(pair.exchange, 300) - before < _GROWS
    assert not pair.proxy.layer.streams
    assert len(pair.proxy.layer.connections) < 60


def test_a_connection_that_is_over_is_for_nobody() -> None:
    """What still comes of one that was forgotten changes nothing."""
    proxy = Proxy(client=b"http/1.1", server=b"http/1.1", around=Exchanges)
    over = proxy.server
    del proxy.layer.connections[proxy.client]
    proxy.layer.context.server = type(over)(address=("other", 443))
    proxy.event(events.ConnectionClosed(over))
    proxy.event(events.DataReceived(over, OK1))
    assert not proxy.sent
    assert proxy.layer.mode is HTTPMode.transparent


def test_a_connection_that_is_still_to_be_opened_is_not_forgotten() -> None:
    """Thirty requests within a CONNECT, each by a server's connection of its own: every one is answered."""

    def inside(hook: hooks.Hook) -> None:
        if isinstance(hook, NextLayerHook):
            hook.data.layer = Exchanges(hook.data.context, HTTPMode.transparent)

    proxy = Proxy(client=b"", server=b"", around=Exchanges, mode=HTTPMode.regular, script=inside)
    proxy.server.state = ConnectionState.CLOSED
    proxy.feed(proxy.client, b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n")
    proxy.settle()
    assert proxy.out(proxy.client).startswith(b"HTTP/1.1 200 ")
    servers = set()
    for _ in range(30):
        proxy.feed(proxy.client, GET)
        proxy.settle()
        assert proxy.out(proxy.server)
        servers.add(proxy.server)
        proxy.feed(proxy.server, OK1)
        proxy.server.state, proxy.server.timestamp_end = ConnectionState.CLOSED, 1.0
        proxy.event(events.ConnectionClosed(proxy.server))
        proxy.settle()
        assert proxy.out(proxy.client).endswith(b"2\r\nok\r\n0\r\n\r\n")
    assert len(servers) == 30
    assert len(proxy.layer.connections) < 30
