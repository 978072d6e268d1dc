"""Where a message ends: in one place, or nowhere."""

from __future__ import annotations

import pytest

from addons.edge.http1.faults import MalformedError
from addons.edge.http1.framing import CHUNKED, UNTIL_CLOSE, ends_connection, request_length, response_length
from addons.edge.http1.heads import read_request, read_response


def asked(*fields: bytes, line: bytes = b"POST / HTTP/1.1") -> int:
    """The length of a request with these fields."""
    return request_length(read_request([line, b"Host: a", *fields]))


def answered(*fields: bytes, status: bytes = b"200", version: bytes = b"1.1", method: bytes = b"GET") -> int:
    """The length of a response with these fields."""
    return response_length(method, read_response([b"HTTP/" + version + b" " + status + b" X", *fields]))


TE = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "fields",
    [
        [TE, b"Content-Length: 5"], [b"Content-Length: 5", TE], [TE, TE], [b"Transfer-Encoding: chunked, chunked"],
        [b"Transfer-Encoding: \xa0chunked"], [b"Transfer-Encoding: chunked;q=1"], [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding: chunked,"], [b"Transfer-Encoding:"], [b'Transfer-Encoding: "chunked"'],
        [b"Transfer-Encoding: chunke\xc4\xb5"], [b"Transfer-Encoding: br, chunked"],
        [b"Content-Length: 5", b"Content-Length: 5"], [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: 5, 5"], [b"Content-Length: 5,6"], [b"Content-Length: +5"], [b"Content-Length: -5"],
        [b"Content-Length: 0x5"], [b"Content-Length: 5 5"], [b"Content-Length: 5a"], [b"Content-Length:"],
        [b"Content-Length: 05"], [b"Content-Length: 1_0"], [b"Content-Length: \xb2"], [b"Content-Length: 5.0"],
        [b"Content-Length: 9223372036854775808"], [b"Content-Length: " + b"9" * 5000], [b"Content-Length: 1e3"],
    ],
)  # fmt: skip
def test_two_lengths_or_a_wrong_one_are_refused(fields: list[bytes]) -> None:
    """What two readers could end in two places goes neither to a server nor to a client (RFC 9112 section 6.3)."""
    with pytest.raises(MalformedError):
        asked(*fields)
    with pytest.raises(MalformedError):
        answered(*fields)


def test_lengths_that_are_right_are_found() -> None:
    """A number of bytes, chunks, the connection's end for an answer, and nothing for a request that says nothing."""
    assert asked() == 0
    assert asked(b"content-LENGTH: 123") == 123
    assert asked(b"transfer-encoding: Chunked") == CHUNKED
    assert asked(b"Transfer-Encoding: gzip ,\tchunked") == CHUNKED
    assert answered() == UNTIL_CLOSE
    assert answered(b"Content-Length: 0") == 0
    assert answered(TE) == CHUNKED
    assert answered(b"Transfer-Encoding: gzip") == UNTIL_CLOSE
    assert answered(version=b"1.0") == UNTIL_CLOSE


@pytest.mark.parametrize("coding", [b"gzip", b"identity", b"chunked, gzip"])
def test_a_request_whose_end_is_not_said_is_refused(coding: bytes) -> None:
    """The last coding of a request is chunked, or nobody knows where it ends."""
    with pytest.raises(MalformedError):
        asked(b"Transfer-Encoding: " + coding)


def test_chunks_are_not_of_http_1_0() -> None:
    """A message of HTTP/1.0 with a transfer coding has been passed on by somebody who did not know what it is."""
    with pytest.raises(MalformedError):
        asked(TE, line=b"POST / HTTP/1.0")
    with pytest.raises(MalformedError):
        answered(TE, version=b"1.0")


@pytest.mark.parametrize("status", [b"204", b"304", b"103"])
def test_answers_without_content_have_none_whatever_they_say(status: bytes) -> None:
    """What comes behind a 204 or 304 is no content, but the next thing on the connection."""
    assert answered(b"Content-Length: 5", status=status) == 0
    assert answered(b"Content-Length: 5", method=b"HEAD") == 0


@pytest.mark.parametrize("status", [b"204", b"101", b"100"])
def test_codings_where_no_content_can_be_are_refused(status: bytes) -> None:
    """RFC 9112 section 6.1."""
    with pytest.raises(MalformedError):
        answered(TE, status=status)


def test_a_tunnel_has_no_content() -> None:
    """A CONNECT with content would put it in front of the tunnel's bytes; a 2xx to it is a tunnel whatever it says."""
    with pytest.raises(MalformedError):
        asked(b"Content-Length: 5", line=b"CONNECT a:1 HTTP/1.1")
    with pytest.raises(MalformedError):
        asked(TE, line=b"CONNECT a:1 HTTP/1.1")
    assert asked(b"Content-Length: 0", line=b"CONNECT a:1 HTTP/1.1") == 0
    assert answered(TE, b"Content-Length: 5", method=b"CONNECT") == 0


@pytest.mark.parametrize(
    ("version", "options", "ends"),
    [
        (b"1.1", [], False), (b"1.1", [b"close"], True), (b"1.1", [b"Close"], True), (b"1.1", [b"x, CLOSE"], True),
        (b"1.1", [b"x", b"close"], True), (b"1.0", [], True), (b"1.0", [b"Keep-Alive"], False),
        (b"1.1", [b"clos"], False),
    ],
)  # fmt: skip
def test_a_connection_ends_when_its_message_says_so(version: bytes, options: list[bytes], ends: bool) -> None:
    """In any case of letters, and in any of several fields."""
    head = read_response([b"HTTP/" + version + b" 200 OK", *(b"Connection: " + one for one in options)])
    assert ends_connection(head.response) is ends
