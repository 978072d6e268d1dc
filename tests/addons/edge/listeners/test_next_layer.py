"""What a client speaks is decided on enough bytes, and what is neither TLS nor HTTP has no way through."""

from __future__ import annotations

import pytest

from addons.edge.listeners.next_layer import looks_like_http

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
