"""What goes out is one message, whatever it came from."""

from __future__ import annotations

import pytest
from mitmproxy import http

from addons.edge.http1 import sending
from addons.edge.http1.faults import MalformedError


def http2(*fields: tuple[bytes, bytes], content: bytes | None = b"", path: bytes = b"/") -> http.Request:
    """A request as it comes from HTTP/2."""
    return http.Request(
        "a.test", 443, b"POST", b"https", b"a.test", path, b"HTTP/2.0", http.Headers(fields), content, None, 0, 0
    )


def test_a_request_of_http_2_is_framed() -> None:
    """Without a length of its own it would be the start of the next request to an HTTP/1 server."""
    head, outgoing, _ = sending.request(http2(content=b"abc"), end_stream=False)
    assert head == b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\n"
    assert outgoing.data(b"abc") + outgoing.end() == b"abc"
    head, outgoing, _ = sending.request(http2(content=None), end_stream=False)
    assert head == b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    outgoing.trailers([(b"x", b"y"), (b"host", b"b.test")])
    assert outgoing.data(b"abc") + outgoing.end() == b"3\r\nabc\r\n0\r\nx: y\r\n\r\n"
    head, outgoing, _ = sending.request(http2(), end_stream=True)
    assert head == b"POST / HTTP/1.1\r\nHost: a.test\r\n\r\n"
    assert outgoing.data(b"abc") == b""
    assert not outgoing.exact


def test_what_only_http_2_has_becomes_what_http_1_has() -> None:
    """Several cookie fields, and TE without a connection option (RFC 9113 sections 8.2.2 and 8.2.3)."""
    fields = [(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"te", b"trailers")]
    head, _, _ = sending.request(http2(*fields), end_stream=True)
    assert head.split(b"\r\n")[1:] == [
        b"Host: a.test", b"cookie: a=1; b=2", b"x: y", b"te: trailers", b"Connection: TE", b"", b"",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [b"a\r\nHost: b", b"a\nb", b"a\rb", b"a\x00b"])
def test_no_value_becomes_a_line(value: bytes) -> None:
    """What HTTP/2, or a script, has in a value is no field of HTTP/1."""
    with pytest.raises(MalformedError):
        sending.request(http2((b"x", value)), end_stream=True)
    with pytest.raises(MalformedError):
        sending.response(http2(), http.Response.make(200, b"", [(b"x", value)]), end_stream=True)


@pytest.mark.parametrize("path", [b"/a b", b"/ HTTP/1.1\r\nX: y", b"/\t", b"", b"/\x00"])
def test_no_path_becomes_another_request_line(path: bytes) -> None:
    """A space or a line end in a :path of HTTP/2 is no part of a request line."""
    with pytest.raises(MalformedError):
        sending.request(http2(path=path), end_stream=True)


def answer(*fields: tuple[bytes, bytes], status: int = 200, version: bytes = b"HTTP/1.1") -> http.Response:
    """A response with these fields."""
    return http.Response(version, status, b"", http.Headers(fields), None, None, 0, 0)


@pytest.mark.parametrize(
    ("method", "asked", "response", "end_stream", "sent"),
    [
        (b"GET", b"HTTP/1.1", answer((b"Content-Length", b"3")), False, b"abc"),
        (b"GET", b"HTTP/1.1", answer(version=b"HTTP/2.0"), False, b"3\r\nabc\r\n0\r\n\r\n"),
        (b"GET", b"HTTP/1.0", answer(version=b"HTTP/2.0"), False, b"abc"),
        (b"GET", b"HTTP/1.0", answer((b"Transfer-Encoding", b"chunked")), False, b"abc"),
        (b"GET", b"HTTP/1.1", answer(), False, b"abc"),
        (b"HEAD", b"HTTP/1.1", answer((b"Content-Length", b"3")), False, b""),
        (b"HEAD", b"HTTP/1.1", answer((b"Transfer-Encoding", b"chunked")), False, b""),
        (b"GET", b"HTTP/1.1", answer((b"Content-Length", b"3"), status=204), False, b""),
        (b"GET", b"HTTP/1.1", answer((b"Content-Length", b"3"), status=304), False, b""),
        (b"GET", b"HTTP/1.1", answer((b"Content-Length", b"2")), False, b"ab"),
        (b"CONNECT", b"HTTP/1.1", answer((b"Content-Length", b"0")), True, b"abc"),
        (b"GET", b"HTTP/1.1", answer((b"content-length", b"0"), status=101), True, b"abc"),
    ],
)  # fmt: skip
def test_an_answer_is_framed_for_who_asked(
    method: bytes, asked: bytes, response: http.Response, end_stream: bool, sent: bytes
) -> None:
    """No content where none may be, chunks only to who knows them, and a length of HTTP/1.1 for what has none."""
    request = http.Request("a", 1, method, b"", b"", b"/", asked, http.Headers(), None, None, 0, 0)
    head, outgoing = sending.response(request, response, end_stream=end_stream)
    assert outgoing.data(b"abc") + outgoing.end() == sent
    assert (b"chunked" in head) is (sent.endswith(b"0\r\n\r\n") or (method == b"HEAD" and b"Content" not in head))
    assert b"Content-Length: 3" not in head or response.status_code != 204


def test_a_message_that_is_too_short_is_noticed() -> None:
    """Its connection cannot go on: what comes next would be taken for the rest of it."""
    _, outgoing = sending.response(http2(), answer((b"Content-Length", b"3")), end_stream=False)
    outgoing.data(b"ab")
    outgoing.end()
    assert not outgoing.exact
