"""Messages as they go out: heads, and content in the framing that they announce.

What another version of HTTP framed by itself gets a framing of HTTP/1.1 here: a request without one would be taken for
the next request (RFC 9112 section 6.3). What does not fit its framing never becomes part of the next message. Pure.
"""

from __future__ import annotations

from mitmproxy import http
from mitmproxy.net.http import status_codes

from addons.edge import trailers
from addons.edge.http1 import heads, hops
from addons.edge.http1.faults import MalformedError
from addons.edge.http1.framing import CHUNKED, UNTIL_CLOSE
from addons.edge.http1.heads import Fields

_CHUNKED_FIELD = (b"Transfer-Encoding", b"chunked")


class Outgoing:
    """The content of one message that goes out."""

    def __init__(self, length: int) -> None:
        """`length` in bytes, CHUNKED or UNTIL_CLOSE."""
        self.length = length
        self._left = length
        self._trailers: Fields = []
        self.exact = True
        """Whether as much came as the head says. If not, the connection cannot go on."""

    def data(self, content: bytes) -> bytes:
        """What to send of `content`."""
        if self.length == CHUNKED:
            return b"%x\r\n%s\r\n" % (len(content), content) if content else b""
        if self.length == UNTIL_CLOSE:
            return content
        if len(content) > self._left:
            self.exact = False
            content = content[: self._left]
        self._left -= len(content)
        return content

    def trailers(self, fields: Fields) -> None:
        """Keep them for the end. Where the framing has no place for them they are left out (RFC 9110 section 6.5.1)."""
        self._trailers = trailers.passing(fields)

    def end(self) -> bytes:
        """What to send at the end."""
        if self.length == CHUNKED:
            return b"0\r\n" + _lines(self._trailers) + b"\r\n"
        if self._left > 0:
            self.exact = False
        return b""


NOTHING = 0
"""The length of content that a message cannot have."""


def request(message: http.Request, *, end_stream: bool) -> tuple[bytes, Outgoing, list[bytes]]:
    """Head, framing, and the protocols that the request offers. `end_stream`: no content follows.

    Raises MalformedError where the head would be another one for who reads it.
    """
    fields = list(message.data.headers.fields)
    authority, version = message.data.authority, message.data.http_version
    foreign = message.is_http2 or message.is_http3
    if foreign:
        fields = _from_http2(message, fields)
        authority, version = b"", b"HTTP/1.1"
    if foreign and not end_stream:
        fields = _with_place_for_trailers(fields)
    length = _announced(fields)
    if length is None:
        length = NOTHING
        if not end_stream:
            content = message.data.content
            if content is not None and not message.data.trailers and b"trailer" not in _names(fields):
                length = len(content)
                fields.append((b"Content-Length", b"%d" % length))
            else:
                length = CHUNKED
                fields.append(_CHUNKED_FIELD)
    fields = hops.sent(fields)
    if message.data.method.upper() == b"CONNECT":
        target = message.data.authority
    elif authority:
        target = b"%s://%s%s" % (message.data.scheme, authority, message.data.path)
    else:
        target = message.data.path
    line = b"%s %s %s" % (message.data.method, target, version)
    if not heads.is_request_line(line):
        raise MalformedError("The request line would not be one.")
    return _head(line, fields), Outgoing(length), hops.offered(fields)


def response(
    asked: http.Request, message: http.Response, *, end_stream: bool, last: bool = False
) -> tuple[bytes, Outgoing]:
    """Head and framing of the answer to `asked`; `last`: the connection ends with it, if it does not become another
    protocol's. Raises MalformedError as `request`."""
    fields = list(message.data.headers.fields)
    status, version, reason = message.data.status_code, message.data.http_version, message.data.reason
    foreign = message.is_http2 or message.is_http3
    if foreign:
        # Not everyone takes an empty reason phrase.
        version, reason = b"HTTP/1.1", status_codes.RESPONSES.get(status, "").encode()
        if not end_stream and asked.data.http_version == b"HTTP/1.1" and asked.data.method.upper() != b"HEAD":
            fields = _with_place_for_trailers(fields)
    length = _announced(fields)
    if (asked.data.method.upper() == b"CONNECT" and 200 <= status <= 299) or status == 101:
        length, last = UNTIL_CLOSE, False  # a tunnel
    elif status in (204, 304) or asked.data.method.upper() == b"HEAD":
        if status == 204 and length:  # RFC 9110 section 8.6; a client that waited for it would wait for ever
            fields = _without(fields, b"content-length", b"transfer-encoding")
        length = NOTHING
    elif length == CHUNKED and asked.data.http_version == b"HTTP/1.0":
        fields, length = _without(fields, b"transfer-encoding"), UNTIL_CLOSE
    elif length is None and foreign and end_stream:
        fields.append((b"Content-Length", b"0"))
        length = NOTHING
    elif length is None and foreign and asked.data.http_version == b"HTTP/1.1":
        fields.append(_CHUNKED_FIELD)
        length = CHUNKED
    elif length is None:
        length = UNTIL_CLOSE
    fields = hops.sent(fields)
    if last:
        fields = [*_without(fields, b"connection", b"keep-alive"), (b"Connection", b"close")]
    return _head(b"%s %d %s" % (version, status, reason), fields), Outgoing(length)


def interim(message: http.Response) -> bytes:
    """The head of a 1xx (RFC 9110 section 15.2): no content, and another one follows."""
    status = message.data.status_code
    reason = message.data.reason or status_codes.RESPONSES.get(status, "").encode()
    fields = _without(list(message.data.headers.fields), b"content-length", b"transfer-encoding")
    return _head(b"HTTP/1.1 %d %s" % (status, reason), hops.sent(fields))


def _head(line: bytes, fields: Fields) -> bytes:
    head = b"%s\r\n%s\r\n" % (line, _lines(fields))
    # A value from HTTP/2, or a script's, may hold what is a line's end here.
    if head.count(b"\n") != len(fields) + 2 or head.count(b"\r") != len(fields) + 2 or b"\x00" in head:
        raise MalformedError("There is a CR, an LF or a NUL in a field.")
    return head


def _lines(fields: Fields) -> bytes:
    return b"".join([b"%s: %s\r\n" % field for field in fields])


def _announced(fields: Fields) -> int | None:
    """The length that a head announces; CHUNKED wins (RFC 9112 section 6.3)."""
    length: int | None = None
    for name, value in fields:
        lower = name.lower()
        if lower == b"transfer-encoding":
            return CHUNKED if b"chunked" in value.lower() else UNTIL_CLOSE
        if lower == b"content-length":
            length = int(value) if value.isdigit() and len(value) <= 18 else UNTIL_CLOSE
    return length


def _with_place_for_trailers(fields: Fields) -> Fields:
    """Without a length where trailers are announced: another version has a place for both, chunks alone have one here
    (RFC 9112 section 7.1.2)."""
    return _without(fields, b"content-length") if b"trailer" in _names(fields) else fields


def _names(fields: Fields) -> set[bytes]:
    return {name.lower() for name, _ in fields}


def _without(fields: Fields, *names: bytes) -> Fields:
    return [field for field in fields if field[0].lower() not in names]


def _from_http2(message: http.Request, fields: Fields) -> Fields:
    """RFC 9113 section 8.3.1: Host from :authority; one Cookie field (section 8.2.3); what HTTP/2 has instead of
    connection options."""
    names = _names(fields)
    if b"host" not in names and message.data.authority:
        fields.insert(0, (b"Host", message.data.authority))
    cookies = [value for name, value in fields if name.lower() == b"cookie"]
    if len(cookies) > 1:
        first = next(at for at, (name, _) in enumerate(fields) if name.lower() == b"cookie")
        fields[first] = (fields[first][0], b"; ".join(cookies))
        fields = [one for at, one in enumerate(fields) if at == first or one[0].lower() != b"cookie"]
    if b"te" in names and b"connection" not in names:
        fields.append((b"Connection", b"TE"))
    return fields
