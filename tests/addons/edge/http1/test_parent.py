"""A parent proxy's answer to CONNECT, in memory."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy.proxy import commands, layer
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode

from tests.addons.edge.http1.test_sections import cut
from tests.addons.edge.talk import Talk

CONNECT = b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


def _http_inside(hook: commands.StartHook) -> None:
    if isinstance(hook, layer.NextLayerHook):
        hook.data.layer = HttpLayer(hook.data.context, HTTPMode.transparent)


def asked() -> Talk:
    """A client's request in a tunnel, for which the parent is asked for another one."""
    talk = Talk(HTTPMode.upstream, mode="upstream:http://parent.test:3128", on_hook=_http_inside)
    talk.client(CONNECT, GET)
    assert talk.to_server == CONNECT
    return talk


@settings(max_examples=50, deadline=None)
@given(places=st.lists(st.integers(0, 200), max_size=6))
def test_the_tunnel_stands_when_the_parent_says_so(places: list[int]) -> None:
    """Not at an interim answer, and however the network cuts what it says."""
    sent = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"
    talk = asked().server(*cut(sent, places))
    assert talk.to_server == CONNECT + GET


def test_a_refusal_of_the_parent_is_told() -> None:
    """As a server that cannot be reached: what the parent said of us is for the log."""
    talk = asked().server(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    assert talk.status == "502"
    assert b"cannot be connected to" in talk.to_client
    assert b"407" not in talk.to_client


def test_an_answer_without_end_is_refused() -> None:
    """It is not kept in memory, and counted."""
    talk = asked().server(b"HTTP/1.1 200 OK\r\n", *[b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 1000] * 4)
    assert talk.status == "502"
    assert talk.kinds == ["oversized-head"]


def test_an_answer_that_is_none_is_refused() -> None:
    """The client is told what was wrong."""
    talk = asked().server(b"HTTP/1.1 200 OK\nX: a\n\n")
    assert talk.status == "502"
    assert talk.kinds == ["malformed-response"]


def test_a_parent_that_never_answers_is_told_of() -> None:
    """When the time for connecting has passed the client hears of it, and its connection is closed. Where the parent is
    is no client's business."""
    talk = asked().server(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
    assert talk.to_client.count(b"HTTP/1.1 ") == 1
    talk.later()
    assert talk.status == "504"
    assert b"did not answer in time" in talk.to_client
    assert b"parent.test" not in talk.to_client
    assert "server" in talk.closed


def test_a_parent_that_has_answered_has_all_its_time() -> None:
    """The tunnel stands for as long as it is used."""
    talk = asked().server(b"HTTP/1.1 200 OK\r\n\r\n")
    talk.later()
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
    assert talk.to_client.endswith(b"late")
    assert "server" not in talk.closed
