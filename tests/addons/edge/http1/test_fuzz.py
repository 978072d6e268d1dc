"""Whatever a client and a server send: nothing breaks, and what goes on is messages that node's parser reads, too."""

from __future__ import annotations

import httptools
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy.http import HTTPFlow

from tests.addons.edge.http1.test_sections import cut
from tests.addons.edge.talk import Talk, script

_PARTS = [
    b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\n", b"HEAD / HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 103 Early Hints\r\n", b"HTTP/1.0 200\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n", b"HTTP/1.1 304 \r\n", b"Host: a.test\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Connection: X, Upgrade\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"X: y\r\n", b"\r\n",
    b"\r\n", b"\r\n", b"[ello", b"5\r\n[ello\r\n", b"0\r\n\r\n",
    b"0\r\nSum: 1\r\n\r\n", b"\r", b"\n", b"\x00", b" ", b"5;a=b\r\n[ello\r\n",
]  # fmt: skip
_GOOD = [
    b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n[ello",
    b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[ello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[ello", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[ello\r\n0\r\nSum: 1\r\n\r\n",
]  # fmt: skip
_SENT = st.lists(st.sampled_from(_GOOD + _PARTS), max_size=12).map(b"".join)


class Counted:
    """Messages that llhttp sees begin."""

    def __init__(self, parser: type[httptools.HttpRequestParser] | type[httptools.HttpResponseParser]) -> None:
        self.begun = 0
        self.ended = 0
        self._parser = parser(self)

    def on_message_begin(self) -> None:
        """As httptools calls it."""
        self.begun += 1

    def on_message_complete(self) -> None:
        """As httptools calls it."""
        self.ended += 1

    def read(self, data: bytes) -> None:
        """Raises HttpParserError."""
        self._parser.feed_data(data)


@settings(max_examples=400, deadline=None)
@given(
    turns=st.lists(st.tuples(st.booleans(), _SENT, st.lists(st.integers(0, 300), max_size=4)), max_size=8),
    ends=st.sampled_from(["", "client", "client, half", "server"]), streamed=st.booleans(),
    mode=st.sampled_from(["regular", "inbound:0"]),
)  # fmt: skip
def test_nothing_breaks(turns: list[tuple[bool, bytes, list[int]]], ends: str, streamed: bool, mode: str) -> None:
    """Requests, answers, and pieces of them in any order, on both sides, in any cut, and an end of either."""

    def stream(flow: HTTPFlow) -> None:
        message = flow.request if flow.response is None else flow.response
        message.stream = streamed

    talk = Talk(mode=mode, on_hook=script(requestheaders=stream, responseheaders=stream))
    for of_client, sent, places in turns:
        (talk.client if of_client else talk.server)(*cut(sent, places))
    if ends.startswith("client"):
        talk.client_ends(half=ends.endswith("half"))
    elif ends:
        talk.server_ends()
    talk.later()
    upgraded = b"101 Switching" in talk.to_client
    asked = Counted(httptools.HttpRequestParser)
    try:
        asked.read(talk.to_server)
    except httptools.HttpParserUpgrade:
        upgraded = True
    assert asked.begun <= talk.hooks.count("requestheaders") or upgraded
    if b"HEAD" not in talk.to_server and not upgraded:
        Counted(httptools.HttpResponseParser).read(talk.to_client)
