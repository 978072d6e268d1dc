"""Requests that a server has not begun: asked again of another connection, and nobody notices."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from mitmproxy import hooks
from mitmproxy.connection import Connection, ConnectionState
from mitmproxy.proxy import events
from mitmproxy.proxy.layers import http

from addons.edge.http2 import nghttp2
from addons.edge.http2.events import Ended, Head, Reset
from tests.addons.edge import wire2
from tests.addons.edge.proxied import Peer, Proxy, body, talk
from tests.addons.edge.wire2 import OK, POST, REQUEST


def _on_stream(hook: hooks.Hook) -> None:
    """A script that has every message passed on as it comes."""
    if isinstance(hook, http.HttpRequestHeadersHook):
        hook.flow.request.stream = True


class Servers:
    """A client of HTTP/2, and one server after another."""

    def __init__(self, **options: Any) -> None:
        self.proxy = Proxy(**options)
        self.client = Peer(self.proxy, client=True)
        self.server = Peer(self.proxy, client=False)
        talk(self.proxy, self.client, self.server)
        self.olds: list[Connection] = []

    def ask(self, content: bytes | None = None, trailers: list[tuple[bytes, bytes]] | None = None) -> int:
        """A request, whole; its stream's number at the client."""
        stream = self.client.session.request(REQUEST if content is None else POST, ended=content is None)
        if content is not None:
            self.client.session.send(stream, content)
            self.client.session.end(stream, trailers)
        talk(self.proxy, self.client, self.server)
        return stream

    def refuse(self, stream: int) -> None:
        """The server has not begun with it. What is asked of a new connection then goes to the next server."""
        self.server.session.reset(stream, nghttp2.REFUSED_STREAM)
        self._say(self.server.session.pull(1 << 20))

    def go_away(self, last: int) -> None:
        """The server has begun with streams up to this one."""
        self._say(wire2.frame(wire2.GOAWAY, struct.pack(">II", last, 0)))

    def _say(self, data: bytes) -> None:
        old = self.proxy.server
        self.proxy.feed(old, data)
        self.proxy.settle()
        if self.proxy.server is not old:
            self.olds.append(old)
            self.server = Peer(self.proxy, client=False)
        talk(self.proxy, self.client, self.server)

    def answer(self, stream: int, content: bytes = b"done") -> None:
        """The last server answers."""
        self.server.session.respond(stream, OK, ended=False)
        self.server.session.send(stream, content)
        self.server.session.end(stream)
        talk(self.proxy, self.client, self.server)


@pytest.mark.parametrize("script", [lambda _: None, _on_stream], ids=["whole", "as it comes"])
@pytest.mark.parametrize("content", [None, b"", b"question", bytes(60_000)])
@pytest.mark.parametrize("way", ["refuse", "go_away"])
def test_a_refused_request_is_asked_again(script: Any, content: bytes | None, way: str) -> None:
    """By GOAWAY or for one stream, with a body or without: the server gets the same again, the client its answer."""
    servers = Servers(script=script, stream_large_bodies="1m")
    stream = servers.ask(content, [(b"sum", b"1")] if content else None)
    seen = servers.server.taken()
    if way == "refuse":
        servers.refuse(1)
    else:
        servers.go_away(0)
    again, number = servers.server.taken(), 3 if way == "refuse" else 1
    first, second = ([one.fields for one in came if isinstance(one, Head)] for came in (seen, again))
    assert first == second
    assert body(again, number) == body(seen, 1) == (content or b"")
    assert Ended(number) in again
    servers.answer(number)
    got = servers.client.taken()
    assert (body(got, stream), Ended(stream) in got) == (b"done", True)
    assert not servers.proxy.refused


def test_what_a_leaving_server_has_begun_is_finished_there() -> None:
    """Of three requests one was begun: it is answered by the old connection, the other two by one new one."""
    servers = Servers()
    streams = [servers.ask() for _ in range(3)]
    old, connection = servers.server.session, servers.proxy.server
    servers.go_away(1)
    assert len(servers.olds) == 1
    assert [one.stream_id for one in servers.server.taken() if isinstance(one, Head)] == [1, 3]
    old.respond(1, OK, ended=True)
    servers.proxy.feed(connection, old.pull(1 << 20))
    for number in (1, 3):
        servers.answer(number)
    got = servers.client.taken()
    assert sorted(one.stream_id for one in got if isinstance(one, Ended)) == streams


def test_a_server_that_takes_one_at_a_time() -> None:
    """Sixty requests at once to a server that closes after each one: all are answered, each in its turn."""
    servers = Servers()
    streams = [servers.ask() for _ in range(60)]
    for _ in range(60):
        old, connection = servers.server.session, servers.proxy.server
        servers.server.taken()
        servers.go_away(1)
        old.respond(1, OK, ended=True)
        servers.proxy.feed(connection, old.pull(1 << 20))
        talk(servers.proxy, servers.client)
    assert [one.stream_id for one in servers.client.taken() if isinstance(one, Ended)] == streams


def test_a_server_that_takes_none() -> None:
    """One that goes away each time before it has taken any is not asked for ever."""
    servers = Servers()
    stream = servers.ask()
    for _ in range(17):
        servers.go_away(0)
    assert len(servers.olds) == 16
    assert Reset(stream, nghttp2.REFUSED_STREAM, by_peer=True) in servers.client.taken()


def test_who_has_waited_longest_is_next() -> None:
    """Forty requests at a time to a server that takes three on a connection: each is asked again in its turn."""
    servers = Servers()
    streams = [servers.ask() for _ in range(40)]
    for _ in range(30):
        old, connection = servers.server.session, servers.proxy.server
        servers.server.taken()
        servers.go_away(5)
        for number in (1, 3, 5):
            old.respond(number, OK, ended=False)
            old.send(number, b"done")
            old.end(number)
        servers.proxy.feed(connection, old.pull(1 << 20))
        talk(servers.proxy, servers.client)
        assert [one.stream_id for one in servers.client.taken() if isinstance(one, Ended)] == streams[:3]
        streams = [*streams[3:], *(servers.ask() for _ in range(3))]


def test_a_server_says_goodbye_and_closes_at_once() -> None:
    """What one read holds is more than one turn's work, and the close is behind it: nothing of it is lost."""
    servers = Servers()
    streams = [servers.ask() for _ in range(40)]
    old, connection = servers.server.session, servers.proxy.server
    bye = wire2.frame(wire2.GOAWAY, struct.pack(">II", 59, 0))
    for number in range(1, 61, 2):
        old.respond(number, OK, ended=False)
        old.send(number, b"done")
        old.end(number)
    answers = bye + old.pull(1 << 20)
    assert len(answers) < 65_536
    servers.proxy.event(events.DataReceived(connection, answers))
    connection.state = ConnectionState.CLOSED
    servers.proxy.event(events.ConnectionClosed(connection))
    servers.proxy.settle()
    assert servers.proxy.server is not connection
    servers.server = Peer(servers.proxy, client=False)
    talk(servers.proxy, servers.client, servers.server)
    for number in range(1, 21, 2):
        servers.answer(number)
    got = servers.client.taken()
    assert [body(got, stream) for stream in streams] == [b"done"] * 40


def test_a_client_that_closes_asks_for_nothing_more() -> None:
    """What of its last read has not been looked at is not asked of a server."""
    servers = Servers()
    for _ in range(90):
        servers.client.session.request(REQUEST, ended=True)
    proxy = servers.proxy
    proxy.event(events.DataReceived(proxy.client, servers.client.session.pull(1 << 20)))
    proxy.client.state = ConnectionState.CLOSED
    proxy.event(events.ConnectionClosed(proxy.client))
    proxy.settle()
    assert servers.server.talk()
    assert len([one for one in servers.server.taken() if isinstance(one, Head)]) < 90


def test_a_body_that_is_still_coming_goes_on() -> None:
    """A request that was refused in the middle of its body: what had come is sent again, and the rest behind it."""
    servers = Servers(script=_on_stream)
    stream = servers.client.session.request(POST, ended=False)
    servers.client.session.send(stream, b"first ")
    talk(servers.proxy, servers.client, servers.server)
    servers.refuse(1)
    servers.client.session.send(stream, b"second")
    servers.client.session.end(stream)
    talk(servers.proxy, servers.client, servers.server)
    assert body(servers.server.taken(), 3) == b"first second"


def test_a_body_that_comes_byte_by_byte_costs_its_bytes() -> None:
    """What is kept for another try is no larger for being cut into pieces, and goes out whole."""
    servers = Servers(script=_on_stream)
    stream = servers.client.session.request(POST, ended=False)
    for _ in range(2000):
        servers.client.session.send(stream, b"x")
        servers.proxy.feed(servers.proxy.client, servers.client.session.pull(1 << 20))
    talk(servers.proxy, servers.client, servers.server)
    (asked,) = servers.proxy.layer.streams.values()
    assert (bytes(asked._body), asked._ends) == (b"x" * 2000, [])
    servers.refuse(1)
    servers.client.session.end(stream)
    talk(servers.proxy, servers.client, servers.server)
    assert body(servers.server.taken(), 3) == b"x" * 2000


def test_a_body_that_is_no_longer_here_is_not_made_up() -> None:
    """More of it has gone than is kept: the client hears that its request was not begun, and may ask again itself."""
    servers = Servers(script=_on_stream)
    stream = servers.client.session.request(POST, ended=False)
    servers.client.session.send(stream, bytes(100_000))
    talk(servers.proxy, servers.client, servers.server)
    servers.refuse(1)
    assert Reset(stream, nghttp2.REFUSED_STREAM, by_peer=True) in servers.client.taken()
    assert servers.olds == []


def test_a_server_that_refuses_everything() -> None:
    """It is asked four times, twice on its first connection, and then the client hears of it."""
    servers = Servers()
    stream = servers.ask()
    for number in (1, 3, 1, 1):
        servers.refuse(number)
    assert len(servers.olds) == 2
    assert Reset(stream, nghttp2.REFUSED_STREAM, by_peer=True) in servers.client.taken()


def test_an_answer_that_has_begun_is_not_begun_anew() -> None:
    """A server that refuses what it is answering already is broken; nothing is sent twice."""
    servers = Servers()
    stream = servers.ask()
    servers.server.session.respond(1, OK, ended=False)
    talk(servers.proxy, servers.client, servers.server)
    servers.refuse(1)
    assert servers.olds == []
    assert any(isinstance(one, Reset) and one.stream_id == stream for one in servers.client.taken())


def test_a_client_of_http_1_gets_a_page() -> None:
    """Who cannot be told in HTTP/2's words gets a 502 with the reason."""
    proxy = Proxy(client=b"http/1.1", script=_on_stream)
    server = Peer(proxy, client=False)
    talk(proxy, server)
    proxy.feed(proxy.client, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + bytes(99_000))
    talk(proxy, server)
    server.session.reset(1, nghttp2.REFUSED_STREAM)
    talk(proxy, server)
    said = proxy.out(proxy.client)
    assert said.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"localhost has refused this request before it began with it" in said
