"""Connections that end while their client still sends."""

from __future__ import annotations

import pytest
from mitmproxy.http import HTTPFlow

from tests.addons.edge.talk import Talk, script

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
TOO_LARGE = b"GET / HTTP/1.1\r\nHost: a.test\r\nX: " + b"a" * 33_000


@pytest.mark.parametrize("way", ["time", "bytes", "end"])
def test_what_still_comes_is_dropped_for_a_while(way: str) -> None:
    """Until the client has had time to read its answer, has sent a mebibyte more, or has ended its direction."""
    talk = Talk().client(TOO_LARGE, GET * 10)
    assert talk.status == "431"
    assert talk.closed == []
    if way == "time":
        talk.later()
    elif way == "bytes":
        talk.client(*[b"a" * 65536] * 16)
    else:
        talk.client_ends(half=True)
    assert talk.closed == ["client"]
    assert talk.to_server == b""


@pytest.mark.parametrize("answered", [False, True])
def test_a_client_that_sends_reads_why_it_is_left(answered: bool) -> None:
    """A server that breaks off in the middle of a request: the page that says so, or the answer that was whole, is not
    lost to what the client still sends."""

    def stream(flow: HTTPFlow) -> None:
        flow.request.stream = True

    talk = Talk(on_hook=script(requestheaders=stream))
    talk.client(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nabc")
    if answered:
        talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    talk.server_ends()
    assert talk.status == ("200" if answered else "502")
    assert "client" not in talk.closed
    talk.client(b"def")
    talk.later()
    assert talk.closed[-1] == "client"
    assert not talk.layer.streams
