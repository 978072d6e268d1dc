"""What a head says: request line, status line and fields, by RFC 9112 and RFC 9110.

What may be read in two ways is refused.

Own code, and why: `httptools` (llhttp) refuses methods that it has no number for, runs on over the end of a message
without saying where that was, cannot be told that a response answers HEAD, hides chunk extensions and keeps no bound;
`h11` takes lines that end with LF alone and folded ones, and needs five times the time of these expressions, which are
as quick as llhttp. The tests hold llhttp, at its strictest, against what is accepted here.

Pure: no socket, no clock. Names keep their case, fields their order, as user scripts see them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from mitmproxy import http
from mitmproxy.net.http import url

from addons.edge.http1.faults import MalformedError

Fields = list[tuple[bytes, bytes]]
Named = dict[bytes, list[bytes]]
"""Values by lower-case name, of the names that decide how a message is read."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.([01])").fullmatch
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?").fullmatch
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([\t -~\x80-\xff]*)").fullmatch
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-fvV:.]+\]|(?:[0-9A-Za-z\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"
).fullmatch
"""RFC 9110 section 7.2: uri-host [ ":" port ], the host of RFC 3986 section 3.2.2."""
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]").fullmatch

DECISIVE = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"proxy-connection", b"upgrade", b"te")
)


class RequestHead(NamedTuple):
    """A request as user scripts get it, and what decides how it is read."""

    request: http.Request
    named: Named


class ResponseHead(NamedTuple):
    """A response as user scripts get it, and what decides how it is read."""

    response: http.Response
    named: Named


def read_request(lines: Sequence[bytes]) -> RequestHead:
    """The request of a head's lines. Raises MalformedError."""
    line = _REQUEST_LINE(lines[0]) if lines else None
    if line is None:
        raise MalformedError(_request_line_sentence(lines[0] if lines else b""))
    method, target, minor = line.groups()
    if method not in (b"CONNECT", b"HEAD") and method.upper() in (b"CONNECT", b"HEAD"):
        raise MalformedError("Methods are case-sensitive, and a server may take this one for another.")
    fields, named = read_fields(lines[1:])
    host, port, scheme, authority, path = _read_target(method, target)
    _check_host(method, minor, named.get(b"host", []))
    if authority and method != b"CONNECT":
        _replace_host(fields, named, scheme, authority)
    request = http.Request(
        host=host, port=port, method=method, scheme=scheme, authority=authority, path=path,
        http_version=b"HTTP/1." + minor, headers=http.Headers(fields), content=None, trailers=None,
        timestamp_start=time.time(), timestamp_end=None,
    )  # fmt: skip
    return RequestHead(request, named)


def read_response(lines: Sequence[bytes]) -> ResponseHead:
    """The response of a head's lines. Raises MalformedError."""
    line = _STATUS_LINE(lines[0]) if lines else None
    if line is None:
        raise MalformedError("The status line is not 'HTTP/1.1 NNN reason'.")
    minor, status, reason = line.groups()
    fields, named = read_fields(lines[1:])
    response = http.Response(
        http_version=b"HTTP/1." + minor, status_code=int(status), reason=reason or b"", headers=http.Headers(fields),
        content=None, trailers=None, timestamp_start=time.time(), timestamp_end=None,
    )  # fmt: skip
    return ResponseHead(response, named)


def read_fields(lines: Sequence[bytes]) -> tuple[Fields, Named]:
    """Field lines (RFC 9112 section 5). Raises MalformedError."""
    fields: Fields = []
    named: Named = {}
    for line in lines:
        parts = _FIELD(line)
        if parts is None:
            raise MalformedError(_field_sentence(line))
        name, value = parts.groups()
        value = value.strip(b" \t")  # bytes.strip() alone would take VT and FF, too
        fields.append((name, value))
        lower = name.lower()
        if lower in DECISIVE:
            named.setdefault(lower, []).append(value)
        elif b"_" in lower and lower.replace(b"_", b"-") in DECISIVE:
            # Servers that make variables of names cannot tell the two apart (RFC 3875 section 4.1.18).
            raise MalformedError("There is a field that a server could take for one that frames or routes.")
    return fields, named


def _read_target(method: bytes, target: bytes) -> tuple[str, int, bytes, bytes, bytes]:
    """Host, port, scheme, authority and path of a request target in one of its four forms (RFC 9112 section 3.2)."""
    if method == b"CONNECT":
        host, port = _authority(target, None)
        return host, port, b"", target, b""
    if target.startswith(b"/") or target == b"*":
        return "", 0, b"", b"", target
    scheme, separator, rest = target.partition(b"://")
    if not separator:
        raise MalformedError("The request target is neither a path nor a URL.")
    scheme = scheme.lower()  # RFC 3986 section 3.1
    authority, _, path = rest.partition(b"/")
    host, port = _authority(authority, url.default_port(scheme))
    return host, port, scheme, authority, b"/" + path


def _authority(authority: bytes, default_port: int | None) -> tuple[str, int]:
    try:
        host, port = url.parse_authority(authority, check=True)
    except ValueError:
        raise MalformedError("The request target's host is not valid.") from None
    port = port or default_port
    if not port:
        raise MalformedError("The request target has no port.")
    return host, port


def _check_host(method: bytes, minor: bytes, hosts: list[bytes]) -> None:
    """RFC 9112 section 3.2.

    A CONNECT without Host is let be: nothing of it goes on, its target says all, and clients send such ones.
    """
    if len(hosts) > 1:
        raise MalformedError("There is more than one Host field.")
    if not hosts:
        if minor == b"1" and method != b"CONNECT":
            raise MalformedError("There is no Host field.")
    elif _HOST(hosts[0]) is None:
        raise MalformedError("The Host field is not a host and a port.")


def _replace_host(fields: Fields, named: Named, scheme: bytes, authority: bytes) -> None:
    """With a URL as its target a request goes where that says, and its Host does not count (RFC 9112 section 3.2.2).

    One that says the same in other words stays as it is.
    """
    (said,) = named.get(b"host", [None])
    if said is not None and _place(said, scheme) != _place(authority, scheme):
        fields[:] = [(name, authority if name.lower() == b"host" else value) for name, value in fields]
        named[b"host"] = [authority]


def _place(authority: bytes, scheme: bytes) -> tuple[bytes, bytes]:
    host, separator, port = authority.lower().rpartition(b":")
    if not separator or port.endswith(b"]"):
        host, port = authority.lower(), b""
    default = url.default_port(scheme)
    return host, port or (b"%d" % default if default else b"")


def _request_line_sentence(line: bytes) -> str:
    words = line.split(b" ")
    if len(words) == 3 and _VERSION(words[2]):
        if words[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
            return "The version is neither HTTP/1.1 nor HTTP/1.0."
        return "There is a byte in the request line that may not be there."
    return "The request line is not 'method target HTTP/1.1' with a single space between."


def _field_sentence(line: bytes) -> str:
    name, colon, value = line.partition(b":")
    faults = (
        (not line, "An empty line stands among the fields."),
        (line[:1] in (b" ", b"\t"), "A field goes on over a second line (obs-fold)."),
        (not colon, "There is a line without a colon among the fields."),
        (name[-1:] in (b" ", b"\t"), "There is a space between a field's name and its colon."),
        (b"\x00" in value, "There is a NUL in a field's value."),
        (b"\r" in value, "There is a CR in a field's value."),
        (b"\n" in value, "There is an LF in a field's value."),
        (_FIELD(name + b":") is None, "There is a byte in a field's name that may not be there."),
    )
    return next((sentence for fault, sentence in faults if fault), "There is a control character in a field's value.")


def is_request_line(line: bytes) -> bool:
    """Whether the line can be read in one way alone."""
    return _REQUEST_LINE(line) is not None
