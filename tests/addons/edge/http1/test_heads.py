"""Heads of HTTP/1: what is accepted is read byte for byte, what can be read in two ways is not."""

from __future__ import annotations

import re

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from addons.edge.http1 import heads
from addons.edge.http1.faults import MalformedError

GET = b"GET / HTTP/1.1"
HOST = b"Host: a.test"


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET / HTTP/0.9", b"GET / HTTP/1.10", b"GET / http/1.1",
        b"GET / HTTP/1.", b"GET / HTTP/1,1", b"GET / HTTP/11", b"PRI * HTTP/2.0", b"GET /", b"GET", b"",
        b"GET\t/ HTTP/1.1",
        b"GET /\tHTTP/1.1", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 ",
        b"GET / HTTP/1.1\t", b"GET /a b HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /\r HTTP/1.1", b"GET /\n HTTP/1.1",
        b"GET /\x0b HTTP/1.1", b"GET\x0b/ HTTP/1.1", b"GET /\x7f HTTP/1.1", b"G(T / HTTP/1.1", b"G\xc4T / HTTP/1.1",
        b"GET nonsense HTTP/1.1", b"GET a.test:80 HTTP/1.1", b"head / HTTP/1.1", b"Connect a.test:1 HTTP/1.1",
        b"CONNECT / HTTP/1.1", b"CONNECT a.test HTTP/1.1", b"CONNECT a.test:0 HTTP/1.1",
        b"CONNECT a.test:99999 HTTP/1.1",
        b"CONNECT http://a.test/ HTTP/1.1",
        b"GET http:///x HTTP/1.1", b"GET http://a..test/ HTTP/1.1",
        b"GET http://a.test:x/ HTTP/1.1", b"GET http://u@a.test/ HTTP/1.1", b"GET nntp://a.test/ HTTP/1.1",
        b"GET http://a.test\\@b.test/ HTTP/1.1",
    ],
)  # fmt: skip
def test_a_request_line_that_is_none_is_refused(line: bytes) -> None:
    """Spaces, tabs, versions and targets that two servers would read in two ways go no further."""
    with pytest.raises(MalformedError):
        heads.read_request([line, HOST])


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        (b"X: a\x00b", "NUL in a field's value"), (b"X: a\rb", "CR in a field's value"),
        (b"X: a\nb", "LF in a field's value"), (b"X: a\r", "CR in a field's value"), (b" X: folded", "obs-fold"),
        (b"\tfolded", "obs-fold"), (b"X : a", "space between a field's name and its colon"),
        (b"X\t: a", "space between a field's name and its colon"), (b"X", "without a colon"), (b": a", "field's name"),
        (b"X Y: a", "field's name"), (b"X\x00: a", "field's name"), (b"X\xe4: a", "field's name"),
        (b"X\r: a", "field's name"), (b"(X): a", "field's name"), (b"X: a\x0bb", "control character"),
        (b"X: \x0ca", "control character"), (b"X: a\x7f", "control character"), (b"X: a\x1b[0m", "control character"),
        (b"", "empty line"), (b"Content_Length: 5", "frames or routes"), (b"transfer_Encoding: chunked", "frames or"),
        (b"Proxy_Connection: close", "frames or routes"),
    ],
)  # fmt: skip
def test_a_field_that_is_none_is_refused(field: bytes, sentence: str) -> None:
    """A line end, a NUL or a fold within a field is a field of its own to some servers; so neither request nor answer
    may have one, and the page says what it was."""
    with pytest.raises(MalformedError, match=sentence):
        heads.read_request([GET, HOST, field, b"Z: z"])
    with pytest.raises(MalformedError, match=sentence):
        heads.read_response([b"HTTP/1.1 200 OK", b"A: a", field, b"Z: z"])


@pytest.mark.parametrize(
    "fields",
    [
        [], [HOST, HOST], [HOST, b"Host: b.test"], [HOST, b"host: a.test"], [b"Host: a b"], [b"Host: a/b"],
        [b"Host: a.test:x"], [b"Host: a.test:80:80"], [b"Host: u@a.test"], [b"Host: a.test, b.test"],
        [b"Host: [::1"], [b"Host: a.test:999999"], [b"Host: \xc3\xa4.test"], [b"Host: a%zz.test"], [b"Host: http://a"],
        [b"Host: a.test#"], [b"Host: a.test?x"], [b"Host: a.test\\b"],
    ],
)  # fmt: skip
def test_no_host_or_two_or_a_wrong_one_is_refused(fields: list[bytes]) -> None:
    """Where a request goes is said once, and as a host and a port (RFC 9112 section 3.2)."""
    with pytest.raises(MalformedError, match="Host"):
        heads.read_request([GET, *fields])


@pytest.mark.parametrize(
    "host", [b"a.test", b"a.test:8080", b"[::1]", b"[::1]:80", b"127.0.0.1:1", b"a_b.test", b"A.Test.", b"x:", b"%41"]
)
def test_hosts_as_they_are_written_are_taken(host: bytes) -> None:
    """Ports, addresses, underscores and a dot at the end are all in use."""
    assert heads.read_request([GET, b"Host: " + host]).request.headers["host"] == host.decode()


def test_old_clients_and_connect_need_no_host() -> None:
    """HTTP/1.0 had none, and a CONNECT says in its target where it goes."""
    assert heads.read_request([b"GET / HTTP/1.0"]).request.http_version == "HTTP/1.0"
    connect = heads.read_request([b"CONNECT a.test:443 HTTP/1.1"]).request
    assert (connect.host, connect.port, connect.authority) == ("a.test", 443, "a.test:443")


@pytest.mark.parametrize(
    ("target", "said", "passed"),
    [
        (b"http://a.test/", b"a.test", b"a.test"), (b"http://a.test:80/", b"a.test", b"a.test"),
        (b"http://A.test/", b"a.Test:80", b"a.Test:80"), (b"https://a.test/", b"a.test:443", b"a.test:443"),
        (b"http://a.test/", b"b.test", b"a.test"), (b"http://a.test:81/", b"a.test", b"a.test:81"),
        (b"http://a.test/", b"", b"a.test"), (b"http://[::1]:80/", b"[::1]", b"[::1]"),
    ],
)  # fmt: skip
def test_a_url_as_target_says_the_host(target: bytes, said: bytes, passed: bytes) -> None:
    """Nobody is sent to one server with another one's name in Host; the same name in other words stays as it is."""
    request = heads.read_request([b"GET " + target + b" HTTP/1.1", b"A: b", b"Host: " + said, b"C: d"]).request
    assert request.headers.fields == ((b"A", b"b"), (b"Host", passed), (b"C", b"d"))


def test_what_is_right_is_kept_byte_for_byte() -> None:
    """Scripts see names in their case, fields in their order, twice if they came twice, and methods nobody knows."""
    lines = [
        b"BREW /pot?a=1&b=\xc3\xa4 HTTP/1.1", b"hOSt: a.test", b"X-One:1", b"x-one: \t 2\t", b"Empty:", b"X: \xff\"',;",
    ]  # fmt: skip
    request = heads.read_request(lines).request
    assert (request.data.method, request.data.path) == (b"BREW", b"/pot?a=1&b=\xc3\xa4")
    assert request.headers.fields == (
        (b"hOSt", b"a.test"), (b"X-One", b"1"), (b"x-one", b"2"), (b"Empty", b""), (b"X", b"\xff\"',;"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.2 200 OK", b"HTTP/2.0 200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 200\tOK", b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK", b"HTTP/1.1 +20 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 OK", b"ICY 200 OK", b"", b"HTTP/1.1",
        b"HTTP/1.1 200 O\rK", b"HTTP/1.1 200 O\x00K", b" HTTP/1.1 200 OK", b"HTTP/1.1\x0b200 OK", b"HTTP/1.1 2_0 OK",
    ],
)  # fmt: skip
def test_a_status_line_that_is_none_is_refused(line: bytes) -> None:
    """An answer whose first line could be anything is no answer."""
    with pytest.raises(MalformedError, match="status line"):
        heads.read_response([line])


@pytest.mark.parametrize(
    ("line", "reason"),
    [(b"HTTP/1.1 200 OK", "OK"), (b"HTTP/1.0 404", ""), (b"HTTP/1.1 299 ", ""), (b"HTTP/1.1 999 \xe4 b", "\xe4 b")],
)
def test_reasons_are_what_they_are(line: bytes, reason: str) -> None:
    """Servers leave the reason out, or write it as they like."""
    assert heads.read_response([line]).response.reason == reason


class Llhttp:
    """What llhttp, at its strictest, reads of a head."""

    def __init__(self, head: bytes) -> None:
        """A method that it has no number for is taken for another."""
        self.fields: list[tuple[bytes, bytes]] = []
        self.whole = False
        self.refused = ""
        try:
            self._feed(head)
        except httptools.HttpParserInvalidMethodError:
            self._feed(b"GET" + head[head.index(b" ") :])

    def _feed(self, head: bytes) -> None:
        try:
            httptools.HttpRequestParser(self).feed_data(head)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserInvalidMethodError:
            raise
        except httptools.HttpParserError as error:
            self.refused = str(error)

    def on_header(self, name: bytes, value: bytes) -> None:
        """As httptools calls it."""
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        """As httptools calls it."""
        self.whole = True


_LINES = st.lists(
    st.sampled_from([
        b"X: a", b"Content-Length: 5", b"content-length: 0", b"Transfer-Encoding: chunked", b"Connection: close",
        b"Connection: X", b"Cookie: a=b; c", b"Expect: 100-continue", b"Upgrade: websocket", b"TE: trailers",
    ])
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(
    line=st.sampled_from([GET, b"POST /a?b#c HTTP/1.1", b"PUT http://a.test/ HTTP/1.1", b"GET / HTTP/1.0"]),
    more=_LINES, at=st.integers(0, 200), cut=st.integers(0, 3), put=st.binary(max_size=3),
)  # fmt: skip
def test_llhttp_takes_what_is_taken_here(line: bytes, more: list[bytes], at: int, cut: int, put: bytes) -> None:
    """Whatever bytes are wrong in a head: nothing goes on that node's parser refuses, or reads as other fields."""
    head = b"\r\n".join([line, HOST, *more])
    head = head[:at] + put + head[at + cut :]
    try:
        found = heads.read_request(head.split(b"\r\n"))
    except MalformedError:
        return
    if any(byte > 0x7F for byte in head.partition(b"\r\n")[0]):
        return  # llhttp takes ASCII alone in a target, and there are clients that send UTF-8
    other = Llhttp(head + b"\r\n\r\n")
    # Framing is judged behind the head (`http1_framing`), and whether a URL is one by its host and port.
    if other.refused and re.search("Content-Length|Transfer-Encoding|url|URL", other.refused):
        return
    assert not other.refused
    assert other.whole
    if line.startswith(b"PUT"):
        return  # Host may have been replaced
    assert list(found.request.headers.fields) == [(name, value.rstrip(b" \t")) for name, value in other.fields]
