"""Where a received message ends, and whether its connection goes on after it (RFC 9112 sections 6 and 9.3).

What would end in two places, depending on who reads it, is refused: that is how requests are smuggled. Pure.
"""

from __future__ import annotations

import re

from mitmproxy import http
from mitmproxy.net.http import validate

from addons.edge.http1.faults import MalformedError
from addons.edge.http1.heads import Named, RequestHead, ResponseHead

CHUNKED, UNTIL_CLOSE = -1, -2
"""Instead of a number of bytes."""

_LENGTH = re.compile(rb"[0-9]{1,18}").fullmatch
"""RFC 9110 section 8.6, below 2^63: a larger number overflows where we send it."""


def request_length(head: RequestHead) -> int:
    """Bytes of the request's content, or CHUNKED. Raises MalformedError."""
    request, named = head
    length = _declared_length(request, named)
    if length in (None, 0):
        return 0
    assert length is not None
    if request.data.method == b"CONNECT":
        raise MalformedError("A CONNECT request has no content.")
    if length == UNTIL_CLOSE:
        raise MalformedError("The last transfer coding of a request must be chunked.")
    return length


def response_length(method: bytes, head: ResponseHead) -> int:
    """Bytes of the response's content to a request with this method, CHUNKED or UNTIL_CLOSE. Raises MalformedError."""
    response, named = head
    status = response.data.status_code
    if method == b"CONNECT" and 200 <= status <= 299:
        return 0  # a tunnel from here on, whatever its fields say
    length = _declared_length(response, named)
    if (status <= 199 or status == 204) and b"transfer-encoding" in named:
        raise MalformedError(f"A response {status} has a Transfer-Encoding.")
    if method == b"HEAD" or status <= 199 or status in (204, 304):
        return 0
    return UNTIL_CLOSE if length is None else length


def _declared_length(message: http.Message, named: Named) -> int | None:
    codings, lengths = named.get(b"transfer-encoding"), named.get(b"content-length")
    if codings:
        if lengths:
            raise MalformedError("There are both Transfer-Encoding and Content-Length.")
        if len(codings) > 1:
            raise MalformedError("There is more than one Transfer-Encoding field.")
        if message.data.http_version != b"HTTP/1.1":
            raise MalformedError("There is a Transfer-Encoding in a message of HTTP/1.0.")
        try:
            coding = validate.parse_transfer_encoding(codings[0])
        except ValueError:
            raise MalformedError("The transfer codings are unknown, or applied twice.") from None
        return CHUNKED if coding.endswith("chunked") else UNTIL_CLOSE
    if lengths is None:
        return None
    if len(lengths) > 1:
        raise MalformedError("There is more than one Content-Length field.")
    if _LENGTH(lengths[0]) is None or (lengths[0][:1] == b"0" and len(lengths[0]) > 1):
        raise MalformedError("The Content-Length is not a number.")
    return int(lengths[0])


def ends_connection(message: http.Message) -> bool:
    """Whether the message says that its connection ends after it (RFC 9112 section 9.3)."""
    options = message.headers.get("connection", "")
    if options:
        tokens = [one.strip(" \t") for one in options.lower().split(",")]
        if "close" in tokens:
            return True
        if "keep-alive" in tokens:
            return False
    return message.http_version == "HTTP/1.0"
