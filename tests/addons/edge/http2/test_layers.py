"""HTTP/2 through mitmproxy's HTTP layer, in memory: messages, back-pressure, floods, what is malformed."""

from __future__ import annotations

import struct
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import hooks
from mitmproxy.proxy import events
from mitmproxy.proxy.layers import http

from addons.edge.http2 import nghttp2
from addons.edge.http2.events import Body, Ended, GoAway, Head, Reset
from addons.edge.http2.paced import EVENTS_A_TURN
from addons.edge.http2.session import parting
from addons.edge.settings import Bounds
from tests.addons.edge import wire2
from tests.addons.edge.proxied import Peer, Proxy, body, talk
from tests.addons.edge.wire2 import OK, POST, REQUEST

BOUNDS = Bounds()
ONE_READ = 65535


def met(**options: Any) -> tuple[Proxy, Peer, Peer]:
    """A proxy between two HTTP/2 peers that have greeted it."""
    proxy = Proxy(**options)
    client, server = Peer(proxy, client=True), Peer(proxy, client=False)
    talk(proxy, client, server)
    return proxy, client, server


def heads(peer: Peer) -> list[Head]:
    """The header blocks that a peer got."""
    return [one for one in peer.taken() if isinstance(one, Head)]


def test_messages_pass_as_they_are() -> None:
    """Fields in their order and number, bodies and trailers reach the other side, in both directions."""
    proxy, client, server = met()
    request = [*POST, (b"b", b"1"), (b"a", b"2"), (b"b", b"3"), (b"cookie", b"x=1"), (b"cookie", b"y=2")]
    stream = client.session.request(request, ended=False)
    client.session.send(stream, b"question")
    client.session.end(stream, [(b"req-trailer", b"r")])
    talk(proxy, client, server)
    events_ = server.taken()
    head = next(one for one in events_ if isinstance(one, Head))
    assert dict(head.fields[:4]) == dict(POST) | {b":scheme": b"http"}  # the server's connection has no TLS here
    assert head.fields[4:] == request[4:]
    assert body(events_, head.stream_id) == b"question"
    assert Head(head.stream_id, [(b"req-trailer", b"r")], ended=True, trailers=True) in events_
    server.session.inform(head.stream_id, [(b":status", b"103")])
    server.session.respond(head.stream_id, [*OK, (b"set-cookie", b"a"), (b"set-cookie", b"b")], ended=False)
    server.session.send(head.stream_id, b"answer")
    server.session.end(head.stream_id, [(b"resp-trailer", b"r")])
    talk(proxy, client, server)
    assert client.taken()[1:] == [
        Head(stream, [(b":status", b"103")], ended=False),
        Head(stream, [*OK, (b"set-cookie", b"a"), (b"set-cookie", b"b")], ended=False),
        Body(stream, [b"answer"]),
        Head(stream, [(b"resp-trailer", b"r")], ended=True, trailers=True),
        Ended(stream),
    ]
    assert not proxy.refused


class Sides:
    """A body on its way: who sends it, who gets it, and what the proxy has of it."""

    def __init__(
        self, sender: bytes, receiver: bytes, *, up: bool, size: int, getting: Bounds = BOUNDS, **options: Any
    ) -> None:
        self.up, self.size, self.sender, self.receiver = up, size, sender, receiver
        one, other = (sender, receiver) if up else (receiver, sender)
        self.proxy = Proxy(client=one, server=other, **options)
        bounds = (BOUNDS, getting) if up else (getting, BOUNDS)
        self.client = Peer(self.proxy, client=True, bounds=bounds[0]) if one == b"h2" else None
        self.server = Peer(self.proxy, client=False, bounds=bounds[1]) if other == b"h2" else None
        self.peers = [one for one in (self.client, self.server) if one is not None]
        self.sent = self.got = 0
        self.ended = False
        self._begin()

    @property
    def source(self) -> Any:
        """The connection that the body comes from."""
        return self.proxy.client if self.up else self.proxy.server

    @property
    def sink(self) -> Any:
        """The connection that it goes to."""
        return self.proxy.server if self.up else self.proxy.client

    @property
    def sending(self) -> Peer | None:
        """Who sends it, over HTTP/2."""
        return self.client if self.up else self.server

    @property
    def getting(self) -> Peer | None:
        """Who gets it, over HTTP/2."""
        return self.server if self.up else self.client

    def _begin(self) -> None:
        length = b"%d" % self.size
        talk(self.proxy, *self.peers)
        if self.client is not None:
            fields = [*POST, (b"content-length", length)] if self.up else REQUEST
            self.client.session.request(fields, ended=not self.up)
        else:
            head = b"POST / HTTP/1.1\r\nContent-Length: %s" % length if self.up else b"GET / HTTP/1.1"
            self.proxy.feed(self.proxy.client, head + b"\r\nHost: localhost\r\n\r\n")
        talk(self.proxy, *self.peers)
        if not self.up and self.server is None:
            self.proxy.out(self.proxy.server)
            self.proxy.feed(self.proxy.server, b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % length)
        elif not self.up and self.server is not None:
            self.server.session.respond(1, [*OK, (b"content-length", length)], ended=False)
        if self.sending is not None:
            self.sending.session.send(1, bytes(self.size))
            self.sending.session.end(1)

    def run(self) -> None:
        """As far as it goes."""
        while True:
            before = (self.sent, self.got)
            talk(self.proxy, *self.peers)
            if self.sending is not None:
                self.sent = self.size - self.sending.session.waits(1)
            elif self.proxy.read_from(self.source) and self.sent < self.size:
                part = min(ONE_READ, self.size - self.sent)
                self.proxy.feed(self.source, bytes(part))
                self.sent += part
            if self.getting is not None:
                for event in self.getting.taken():
                    self.got += sum(map(len, event.chunks)) if isinstance(event, Body) else 0
                    self.ended = self.ended or isinstance(event, Ended)
            if before == (self.sent, self.got):
                return


PAIRS = [(b"h2", b"h2"), (b"http/1.1", b"h2")]


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
def test_what_is_kept_for_a_peer_that_gives_no_window_is_bounded(sender: bytes, receiver: bytes, up: bool) -> None:
    """A receiver that takes one window's worth and no more costs the proxy one window, whatever the sender would
    send; when it reads on, every byte comes."""
    sides = Sides(sender, receiver, up=up, size=6_000_000)
    assert sides.getting is not None
    sides.getting.gives_back = False
    sides.run()
    assert 0 < sides.got < 1_000_000
    assert sides.sent - sides.got <= BOUNDS.stream_window_bytes
    sides.getting.gives_back = True
    sides.getting.session.give_back(1, sides.got)
    sides.run()
    assert (sides.got, sides.ended) == (6_000_000, True)


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
def test_what_is_written_to_a_socket_that_takes_nothing_is_bounded(sender: bytes, receiver: bytes, up: bool) -> None:
    """A body that a script has collected is not copied, encrypted and written all at once, however wide the receiver's
    windows are, when its socket is not read from."""
    wide = Bounds(stream_window_bytes=16_777_216, connection_window_bytes=67_108_864)
    sides = Sides(sender, receiver, up=up, size=4_000_000, getting=wide, stream_large_bodies=None)
    assert sides.getting is not None
    sides.getting.reads = sides.proxy.sockets_take = False
    sides.run()
    assert sides.sent == 4_000_000
    assert len(sides.proxy.sent[sides.sink]) < BOUNDS.stream_window_bytes
    sides.getting.reads = sides.proxy.sockets_take = True
    sides.run()
    assert (sides.got, sides.ended) == (4_000_000, True)


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
def test_what_a_script_collects_is_not_held_back(sender: bytes, receiver: bytes, up: bool) -> None:
    """A script that wants whole bodies gets them: that bound is mitmproxy's body_size_limit."""
    sides = Sides(sender, receiver, up=up, size=3_000_000, stream_large_bodies=None)
    sides.run()
    assert (sides.got, sides.ended) == (3_000_000, True)


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
@pytest.mark.parametrize(("sender", "receiver"), [*PAIRS, (b"h2", b"http/1.1"), (b"http/1.1", b"http/1.1")])
def test_a_script_that_thinks_about_a_head_holds_the_body_back(sender: bytes, receiver: bytes, up: bool) -> None:
    """While a hook is awaited, no more of the body comes than a window's worth, and all of it comes behind that."""
    wanted = http.HttpRequestHeadersHook if up else http.HttpResponseHeadersHook
    sides = Sides(sender, receiver, up=up, size=3_000_000, script=lambda hook: isinstance(hook, wanted))
    sides.run()
    assert sides.proxy.held
    assert 0 < sides.sent <= BOUNDS.stream_window_bytes + 2 * ONE_READ
    sides.proxy.resume()
    sides.run()
    assert sides.sent == 3_000_000


def test_many_streams_that_are_not_read_have_one_bound() -> None:
    """All streams together keep no more than the connection's bound."""
    proxy, client, server = met()
    client.gives_back = False
    streams = [client.session.request(REQUEST, ended=True) for _ in range(30)]
    talk(proxy, client, server)
    for stream in streams:
        server.session.respond(stream, [*OK, (b"content-length", b"1000000")], ended=False)
        server.session.send(stream, bytes(1_000_000))
        server.session.end(stream)
    talk(proxy, client, server)
    events_ = client.taken()
    got = sum(len(body(events_, one)) for one in streams)
    sent = 30_000_000 - server.session.backlog
    assert sent - got <= BOUNDS.connection_window_bytes


def test_answers_count_for_as_long_as_they_are_kept() -> None:
    """Answers that fit into one window each have one bound, too, when the client reads none of them."""
    proxy = Proxy()
    client, server = Peer(proxy, client=True), Peer(proxy, client=False)
    client.gives_back = False
    talk(proxy, client, server)
    streams = [client.session.request(REQUEST, ended=True) for _ in range(90)]
    talk(proxy, client, server)
    for head in heads(server):
        server.session.respond(head.stream_id, [*OK, (b"content-length", b"200000")], ended=False)
        server.session.send(head.stream_id, bytes(200_000))
        server.session.end(head.stream_id)
    talk(proxy, client, server)
    events_ = client.taken()
    got = sum(len(body(events_, one)) for one in streams)
    assert 90 * 200_000 - server.session.backlog - got <= BOUNDS.connection_window_bytes
    client.gives_back = True
    for one in streams:
        client.session.give_back(one, len(body(events_, one)))
    talk(proxy, client, server)
    events_ += client.taken()
    assert all(len(body(events_, one)) == 200_000 for one in streams)


@pytest.mark.parametrize("kind", ["rapid reset", "SETTINGS", "PING", "PRIORITY", "empty DATA", "reset by us", "mixed"])
def test_a_flood_ends_its_connection(kind: str) -> None:
    """Frames that cost us and not their sender end the connection with ENHANCE_YOUR_CALM, are told once, and what was
    begun upstream is ended."""
    proxy, _client, server = met()
    made = {
        "SETTINGS": wire2.settings(),
        "PING": wire2.frame(wire2.PING, bytes(8)),
        "PRIORITY": wire2.frame(wire2.PRIORITY, struct.pack(">IB", 0, 1), stream=3),
        "empty DATA": wire2.frame(wire2.DATA, b"", stream=1),
    }
    if kind == "empty DATA":
        proxy.feed(proxy.client, wire2.headers(POST, 1, flags=0))
    for number in range(1000):
        stream = 2 * number + 3
        if kind in made:
            data = made[kind]
        elif kind == "mixed":
            data = list(made.values())[number % 3]
        else:
            data = wire2.headers([*POST, (b"content-length", b"1")], stream, flags=0)
            data += (
                wire2.frame(wire2.RST_STREAM, struct.pack(">I", 8), stream=stream)
                if kind == "rapid reset"
                else wire2.frame(wire2.DATA, b"more than one", stream=stream)
            )
        proxy.feed(proxy.client, data)
        proxy.settle()
        if proxy.client in proxy.closed:
            break
    assert proxy.client in proxy.closed
    assert number < 450
    assert [one.kind for one in proxy.refused if one.kind == "http2-flood"] == ["http2-flood"]
    assert parting(bytes(proxy.out(proxy.client)))[0] == nghttp2.ENHANCE_YOUR_CALM
    talk(proxy, server)
    assert not server.session.streams


@pytest.mark.parametrize("frame", [wire2.settings(), wire2.headers([(b":status", b"103")], 1, flags=0)])
def test_a_server_that_floods_is_ended(frame: bytes) -> None:
    """A flood from a server, of frames or of interim answers, ends the connection to it, and the client hears of an
    error."""
    proxy, client, server = met()
    stream = client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    for _ in range(20):
        proxy.feed(proxy.server, frame * 50)
    talk(proxy, client)
    assert proxy.server in proxy.closed
    assert [one.kind for one in proxy.refused] == ["http2-flood"]
    assert any(head.fields[0] == (b":status", b"502") for head in heads(client) if head.stream_id == stream)


def test_requests_that_are_reset_in_the_same_read_are_never_made() -> None:
    """A request and its reset in one read cost no flow."""
    seen: list[hooks.Hook] = []
    proxy, _client, _server = met(script=seen.append)
    del seen[:]
    proxy.feed(
        proxy.client,
        b"".join(
            wire2.headers(REQUEST, stream) + wire2.frame(wire2.RST_STREAM, struct.pack(">I", 8), stream=stream)
            for stream in range(1, 101, 2)
        ),
    )
    assert not [hook for hook in seen if isinstance(hook, http.HttpRequestHeadersHook)]


def test_a_read_of_many_requests_is_dealt_with_in_steps() -> None:
    """Others have their turn after a bounded number of events, and the connection is not read from meanwhile."""
    seen: list[hooks.Hook] = []
    proxy, _client, _server = met(script=seen.append)
    del seen[:]
    data = b"".join(wire2.headers(REQUEST, stream) for stream in range(1, 200, 2))
    proxy.event(events.DataReceived(proxy.client, data))
    first = [hook for hook in seen if isinstance(hook, http.HttpRequestHeadersHook)]
    assert len(first) <= EVENTS_A_TURN
    assert not proxy.read_from(proxy.client)
    proxy.settle()
    assert proxy.read_from(proxy.client)
    assert len([hook for hook in seen if isinstance(hook, http.HttpRequestHeadersHook)]) == 100


def test_an_oversized_request_head_is_answered() -> None:
    """431 for the one request (RFC 6585 section 5), and the connection goes on."""
    proxy, client, server = met()
    stream = client.session.request([*REQUEST, (b"x", b"v" * 40_000)], ended=True)
    good = client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    assert [(one.stream_id, one.fields[0]) for one in heads(client)] == [(stream, (b":status", b"431"))]
    assert [one.kind for one in proxy.refused] == ["oversized-head"]
    assert len(heads(server)) == 1
    assert good in client.session.streams


def test_an_oversized_response_head_is_a_bad_gateway() -> None:
    """502 for the one request, and the server's stream is ended."""
    proxy, client, server = met()
    stream = client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    server.session.respond(1, [*OK, *[(b"h%d" % number, b"v" * 1000) for number in range(80)]], ended=False)
    talk(proxy, client, server)
    assert [(one.stream_id, one.fields[0]) for one in heads(client)] == [(stream, (b":status", b"502"))]
    assert [one.kind for one in proxy.refused] == ["oversized-head"]
    assert not server.session.streams


@pytest.mark.parametrize("up", [True, False], ids=["request", "response"])
def test_oversized_trailers_end_their_message(up: bool) -> None:
    """Trailers beyond their bound are not forwarded, in either direction."""
    proxy, client, server = met()
    trailers = [(b"t%d" % number, b"v" * 1000) for number in range(20)]
    stream = client.session.request(POST if up else REQUEST, ended=not up)
    talk(proxy, client, server)
    if up:
        client.session.end(stream, trailers)
    else:
        server.session.respond(1, OK, ended=False)
        server.session.end(1, trailers)
    talk(proxy, client, server)
    assert "oversized-trailers" in [one.kind for one in proxy.refused]
    assert not any(one.trailers for one in heads(client) + heads(server))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([*REQUEST, (b"host", b"other.example")], b"400"),
        ([*REQUEST, (b"host", b"localhost:8443")], b"400"),
        ([(b":method", b"CONNECT"), (b":authority", b"localhost:443")], b"501"),
        ([*REQUEST[:3], (b":authority", b"user@localhost")], b"400"),
        ([*REQUEST[:3], (b":authority", b"local host")], None),
    ],
)
def test_a_request_for_two_places_is_refused(fields: list[tuple[bytes, bytes]], status: bytes | None) -> None:
    """Host and :authority that differ, and what is no place at all, are answered and never forwarded."""
    proxy, client, server = met()
    stream = client.session.request(fields, ended=True)
    talk(proxy, client, server)
    events_ = client.taken()
    if status is None:
        assert Reset(stream, nghttp2.PROTOCOL_ERROR, by_peer=True) in events_
    else:
        assert (b":status", status) in next(one for one in events_ if isinstance(one, Head)).fields
    assert not heads(server)
    assert [one.kind for one in proxy.refused] == ["malformed-request"]


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST", b"localhost:443"])
def test_a_host_that_agrees_passes(host: bytes) -> None:
    """Host beside :authority is no fault where they name one place."""
    proxy, client, server = met()
    client.session.request([*REQUEST, (b"host", host)], ended=True)
    talk(proxy, client, server)
    assert len(heads(server)) == 1
    assert not proxy.refused


def test_a_malformed_response_is_a_bad_gateway() -> None:
    """What a server must not send never reaches the client, and the connection goes on."""
    proxy, client, server = met()
    stream = client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    server.session.respond(1, [*OK, (b"transfer-encoding", b"chunked")], ended=True)
    talk(proxy, client, server)
    assert (b":status", b"502") in next(one for one in heads(client) if one.stream_id == stream).fields
    assert [one.kind for one in proxy.refused] == ["malformed-response"]
    assert proxy.server not in proxy.closed


def test_a_server_that_goes_away_finishes_what_it_has() -> None:
    """Requests that a leaving server has are answered, and the next one gets another connection meanwhile."""
    proxy, client, server = met()
    first = client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    old = proxy.server
    server.session.leave()
    talk(proxy, client, server)
    client.session.request(REQUEST, ended=True)
    talk(proxy, client)
    assert proxy.server is not old
    assert proxy.out(proxy.server).startswith(wire2.MAGIC)
    server.session.respond(1, OK, ended=True)
    proxy.feed(old, server.session.pull(1 << 20))
    talk(proxy, client)
    assert [(one.stream_id, one.fields[0]) for one in heads(client)] == [(first, (b":status", b"200"))]
    assert old in proxy.closed


def test_a_client_that_goes_away_gets_its_answers() -> None:
    """A client that says GOAWAY and waits for its answers gets them."""
    proxy, client, server = met()
    stream = client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    client.session.leave()
    talk(proxy, client, server)
    server.session.respond(1, OK, ended=True)
    talk(proxy, client, server)
    assert Ended(stream) in client.taken()
    assert proxy.client in proxy.closed
    assert not proxy.refused


def test_a_server_that_wants_no_more_of_a_request_is_obeyed() -> None:
    """A complete answer with RST_STREAM(NO_ERROR) behind it reaches the client whole (RFC 9113 section 8.1)."""
    proxy, client, server = met(stream_large_bodies="1", script=_streaming)
    stream = client.session.request(POST, ended=False)
    client.session.send(stream, bytes(2_000_000))
    talk(proxy, client, server)
    server.session.respond(1, OK, ended=False)
    server.session.send(1, b"enough")
    server.session.end(1)
    talk(proxy, client, server)
    server.session.reset(1, nghttp2.NO_ERROR)
    talk(proxy, client, server)
    client.session.end(stream)
    talk(proxy, client, server)
    events_ = client.taken()
    assert body(events_, stream) == b"enough"
    assert Ended(stream) in events_


def _streaming(hook: hooks.Hook) -> None:
    if isinstance(hook, http.HttpRequestHeadersHook):
        hook.flow.request.stream = True
    elif isinstance(hook, http.HttpResponseHeadersHook):
        assert hook.flow.response is not None
        hook.flow.response.stream = True


def test_before_a_server_has_spoken_few_streams_are_opened() -> None:
    """Most requests wait for the server's settings and keep their order; those that were one too many before it said so
    are asked again. All are answered."""
    proxy = Proxy()
    client, server = Peer(proxy, client=True), Peer(proxy, client=False, bounds=Bounds(http2_streams=3))
    for number in range(25):
        client.session.request([*REQUEST[:2], (b":path", b"/%d" % number), REQUEST[3]], ended=True)
    talk(proxy, client)
    early = [one for one in wire2.frames(bytes(proxy.sent[proxy.server])) if one[0] == wire2.HEADERS]
    assert len(early) == 10
    served: list[bytes] = []
    for _ in range(60):
        talk(proxy, client, server)
        for head in heads(server):
            served.append(dict(head.fields)[b":path"])
            server.session.respond(head.stream_id, OK, ended=True)
    assert len([one for one in heads(client) if one.fields[0] == (b":status", b"200")]) == 25
    waited = [number for path in served if (number := int(path[1:])) >= 10]
    assert waited == sorted(waited)


def test_a_cancelled_request_ends_upstream() -> None:
    """What a client does not want any more is ended at the server, with what waits for it."""
    proxy, client, server = met(stream_large_bodies="1", script=_streaming)
    server.gives_back = False
    stream = client.session.request(POST, ended=False)
    client.session.send(stream, bytes(3_000_000))
    talk(proxy, client, server)
    assert server.session.streams
    client.session.reset(stream, nghttp2.CANCEL)
    talk(proxy, client, server)
    assert Reset(1, nghttp2.CANCEL, by_peer=True) in server.taken()
    assert not server.session.streams


def test_garbage_is_told_and_ended() -> None:
    """What is no HTTP/2 at all, or breaks its rules, ends the connection with its reason."""
    proxy = Proxy()
    proxy.feed(proxy.client, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert proxy.client in proxy.closed
    assert [one.kind for one in proxy.refused] == ["http2-error"]
    proxy, client, _server = met()
    proxy.feed(proxy.client, wire2.frame(wire2.DATA, b"x", stream=0))
    assert parting(bytes(proxy.out(proxy.client)))[0] == nghttp2.PROTOCOL_ERROR
    assert [one.kind for one in proxy.refused] == ["http2-error"]
    assert client.session.failed is None


def test_a_worker_can_leave() -> None:
    """A client that is told GOAWAY by us gets what it asked for, and the connection ends then."""
    proxy, client, server = met()
    stream = client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    layer = proxy.layer.connections[proxy.client]
    layer.session.leave()  # type: ignore[attr-defined]
    server.session.respond(1, OK, ended=True)
    talk(proxy, client, server)
    events_ = client.taken()
    assert any(isinstance(one, GoAway) for one in events_)
    assert Ended(stream) in events_
    assert proxy.client in proxy.closed


_PARTS = st.one_of(
    st.builds(
        wire2.frame,
        st.integers(0, 11),
        st.one_of(st.binary(max_size=30), st.builds(struct.pack, st.just(">I"), st.integers(0, 2**31 - 1))),
        flags=st.sampled_from([0, 1, 4, 5, 8, 32]),
        stream=st.sampled_from([0, 1, 3, 5]),
    ),
    st.builds(
        wire2.headers,
        st.sampled_from([REQUEST, POST, OK, [*POST, (b"host", b"x")]]),
        st.sampled_from([1, 3, 5, 7]),
        flags=st.sampled_from([0, 1]),
    ),
)


@given(st.lists(_PARTS, max_size=15), st.lists(_PARTS, max_size=15))
def test_any_two_peers_are_survived(ups: list[bytes], downs: list[bytes]) -> None:
    """Whatever frames a client and a server send, in whatever order, nothing breaks but their own connections."""
    proxy, _client, _server = met()
    for number in range(15):
        for connection, parts in ((proxy.client, ups), (proxy.server, downs)):
            if number < len(parts) and connection not in proxy.closed:
                proxy.feed(connection, parts[number])
        proxy.settle()
    for connection in (proxy.client, proxy.server):
        if connection not in proxy.closed:
            proxy.event(events.ConnectionClosed(connection))
    proxy.settle()


def test_a_client_that_asks_for_nothing_is_told_that_we_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `idle_s` without a request the connection ends with GOAWAY, and not while one is under way."""
    now = [1000.0]
    monkeypatch.setattr("addons.edge.http2.server.time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    proxy = Proxy()
    client, server = Peer(proxy, client=True), Peer(proxy, client=False)
    (idle,) = proxy.timers
    proxy.timers.clear()
    stream = client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    now[0] += BOUNDS.idle_s + 1
    proxy.event(idle)
    (idle,) = proxy.timers
    assert proxy.client not in proxy.closed
    server.session.respond(1, OK, ended=True)
    talk(proxy, client, server)
    assert Ended(stream) in client.taken()
    now[0] += BOUNDS.idle_s + 1
    proxy.event(idle)
    assert proxy.client in proxy.closed
    talk(proxy, client)
    assert any(isinstance(one, GoAway) and not one.code for one in client.taken())
    assert not proxy.refused
