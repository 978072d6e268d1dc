"""A worker that stops: clients hear that they should ask somebody else, and what they have asked is answered."""

from __future__ import annotations

import pytest
from mitmproxy.proxy import events

from addons.edge.http2.events import Ended, GoAway, Head
from addons.engine.leaving import Leaving
from tests.addons.edge.proxied import Peer, Proxy, body, talk
from tests.addons.edge.talk import Talk
from tests.addons.edge.wire2 import OK, REQUEST

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker stops."""
    monkeypatch.setattr(Leaving, "begun", True)


def _leave(proxy: Proxy) -> None:
    while (told := proxy.shortcut.turns.leaves()) is not None:
        proxy.event(events.Wakeup(told))


def test_streams_in_progress_end_as_they_should() -> None:
    """GOAWAY names the last stream that is answered; it is, a later one is not begun, and then the connection ends."""
    proxy = Proxy()
    client, server = Peer(proxy, client=True), Peer(proxy, client=False)
    stream = client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    server.session.respond(1, OK, ended=False)
    server.session.send(1, b"half ")
    talk(proxy, client, server)
    _leave(proxy)
    talk(proxy, client, server)
    came = client.taken()
    assert [(one.last_stream_id, one.code) for one in came if isinstance(one, GoAway)] == [(stream, 0)]
    assert proxy.client not in proxy.closed
    assert client.session.request(REQUEST, ended=True) < 0
    server.session.send(1, b"and half")
    server.session.end(1)
    talk(proxy, client, server)
    came += client.taken()
    assert body(came, stream) == b"half and half"
    assert Ended(stream) in came
    assert proxy.client in proxy.closed


def test_a_request_that_is_on_its_way_is_not_begun() -> None:
    """A client of HTTP/2 with nothing in progress is let go at once, and knows that what it sends meanwhile was not
    seen."""
    proxy = Proxy()
    client, server = Peer(proxy, client=True), Peer(proxy, client=False)
    talk(proxy, client, server)
    _leave(proxy)
    client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    assert [one.last_stream_id for one in client.taken() if isinstance(one, GoAway)] == [0]
    assert not [one for one in server.taken() if isinstance(one, Head)]
    assert proxy.client in proxy.closed


@pytest.mark.usefixtures("stopping")
def test_a_client_that_comes_late_goes_elsewhere() -> None:
    """Its handshake was in progress when the worker began to stop: it is told before its first request."""
    proxy = Proxy()
    client, server = Peer(proxy, client=True), Peer(proxy, client=False)
    client.session.request(REQUEST, ended=True)
    talk(proxy, client, server)
    assert [one.last_stream_id for one in client.taken() if isinstance(one, GoAway)] == [0]


@pytest.mark.usefixtures("stopping")
@pytest.mark.parametrize("said", [b"", b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n"])
def test_the_next_answer_of_http_1_is_the_last(said: bytes) -> None:
    """It is whole, says so, and the connection ends behind it."""
    talk = Talk().client(GET)
    talk.server(b"HTTP/1.1 200 OK\r\n" + said + b"Content-Length: 2\r\n\r\nok")
    assert talk.to_client == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    assert "client" in talk.closed


@pytest.mark.usefixtures("stopping")
def test_what_becomes_another_protocol_does_not_end_at_once() -> None:
    """An Upgrade is no last answer: what it leads to has its time."""
    talk = Talk().client(GET[:-2] + b"Connection: upgrade\r\nUpgrade: chat\r\n\r\n")
    talk.server(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello")
    assert b"close" not in talk.to_client
    assert talk.to_client.endswith(b"hello")
    assert "client" not in talk.closed
