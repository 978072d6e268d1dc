"""What a client speaks is decided on enough bytes, and what is neither TLS nor HTTP has no way through."""

from __future__ import annotations

import pytest

from addons.edge.listeners.next_layer import begins_tls, looks_like_http

HTTP = [
    b"GET / HTTP/1.1\r\n", b"G / HTTP/1.0\n", b"\r\nPOST http://a/ HTTP/1.1\r\n", b"M-SEARCH * HTTP/1.1\r\n",
    b"GET /a b HTTP/1.1\r\n", b"CONNECT a:1 HTTP/1.1 \r\n", b"GET /" + b"a" * 600,
]  # fmt: skip
OTHER = [
    b"EHLO a\r\n", b"SSH-2.0-x\r\n", b"\x00", b"\x80\x2e\x01\x03", b"PRI * HTTP/2.0\r\n\r\n", b"GET /\r\n", b"\r\n" * 9,
    b"a1 STARTTLS\r\n", b"A" * 33, b"GET:/ HTTP/1.1\r\n",
]  # fmt: skip


@pytest.mark.parametrize("data", HTTP)
def test_a_request_is_http(data: bytes) -> None:
    """A line that can be a request goes to the HTTP layer, which is strict; until then more bytes are waited for."""
    assert looks_like_http(data) is True
    assert not any(looks_like_http(data[:i]) is False for i in range(len(data)))


@pytest.mark.parametrize("data", OTHER)
def test_anything_else_is_none(data: bytes) -> None:
    """However it comes, it is decided, and never taken for HTTP on the way."""
    assert looks_like_http(data) is False
    assert not any(looks_like_http(data[:i]) for i in range(len(data)))


@pytest.mark.parametrize("data", [b"\x16\3\1", b"\x16\4\0", b"\x16\xff\xff", b"\x15\3\3", b"\x14\3\3", b"\x17\3\3"])
def test_a_record_of_tls_is_answered_in_tls(data: bytes) -> None:
    """Whatever its version says, and also where it must not come first: the client gets an alert, and no bare end."""
    assert begins_tls(data)


@pytest.mark.parametrize("data", [b"\x16", b"\x15\4\0", b"\x18\4\0", b"\x19\3\3", b"GET /", b"\x80\x2e\1\3"])
def test_anything_else_is_not_tls(data: bytes) -> None:
    """It is HTTP, or closed, or passed where the operator says so."""
    assert not begins_tls(data)


def test_where_anything_may_pass_only_a_hello_is_tls() -> None:
    """A protocol of somebody's own that begins with one of TLS' content types still passes."""
    assert begins_tls(b"\x16\3\1", exactly=True)
    assert not any(begins_tls(one, exactly=True) for one in (b"\x15\3\3", b"\x17\3\3", b"\x16\4\0"))
