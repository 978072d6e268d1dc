"""What a site's server is told of the client, in header fields; and what a client cannot say there itself. No I/O.

Two things are told: the certificate that the client has shown (RFC 9440), and where it is and what it asked for, which
the server would see if nobody stood in between: in X-Forwarded-For, -Host and -Proto, as most servers read it, or in
Forwarded (RFC 7239). What the client wrote in fields of these kinds is taken away, unless it is one of the proxies that
a site trusts: then ours comes behind.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterable

from cryptography.hazmat.primitives.serialization import Encoding
from mitmproxy import certs, http

from addons.inbound.settings import Forwarded, client_address

_CLIENT_CERT, _CLIENT_CERT_CHAIN = "Client-Cert", "Client-Cert-Chain"
"""RFC 9440 section 2."""
_CERTIFICATE = frozenset({_CLIENT_CERT.lower(), _CLIENT_CERT_CHAIN.lower()})
_FORWARDED = frozenset({"forwarded", "x-real-ip"})
_X_FORWARDED = "x-forwarded-"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 section 5.6.2."""


def tell(
    headers: http.Headers, forwarded: Forwarded, address: str, host: str | None, certificates: Iterable[certs.Cert]
) -> None:
    """Put what a server is told into the `headers` of a request for `host`, of the client at `address` (an IP address)
    that has shown `certificates`, its own one first."""
    believed = forwarded.style == "off" or forwarded.believes(address)
    forget(headers, forwarded, address)
    _keep_ours(headers)
    shown = [f":{base64.b64encode(one.to_cryptography().public_bytes(Encoding.DER)).decode()}:" for one in certificates]
    if shown:
        headers[_CLIENT_CERT] = shown[0]
    if len(shown) > 1:
        headers[_CLIENT_CERT_CHAIN] = ", ".join(shown[1:])
    if forwarded.style == "x-forwarded":
        _x_forwarded(headers, str(client_address(address)), host, believed=believed)
    elif forwarded.style == "rfc7239":
        _behind(headers, "Forwarded", _element(client_address(address), host))


def forget(fields: http.Headers, forwarded: Forwarded, address: str) -> None:
    """Take away what a server could read as a field of ours, in headers or trailers."""
    believed = forwarded.style == "off" or forwarded.believes(address)
    for name in {one for one in fields if _is_ours(one, certificate_only=believed)}:
        del fields[name]


def _x_forwarded(headers: http.Headers, address: str, host: str | None, *, believed: bool) -> None:
    _behind(headers, "X-Forwarded-For", address)
    if not believed or "X-Forwarded-Proto" not in headers:
        headers["X-Forwarded-Proto"] = "https"
    if host and (not believed or "X-Forwarded-Host" not in headers):
        headers["X-Forwarded-Host"] = host


def _behind(headers: http.Headers, name: str, value: str) -> None:
    """What others said, then ours, in one field: of several some servers read the first alone."""
    headers[name] = ", ".join([*filter(None, headers.get_all(name)), value])


def _element(address: ipaddress.IPv4Address | ipaddress.IPv6Address, host: str | None) -> str:
    """RFC 7239 section 4; an IPv6 address has brackets and quotes (section 6)."""
    node = f'"[{address}]"' if address.version == 6 else str(address)
    parts = [f"for={node}", f"host={_quoted(host)}" if host else "", "proto=https"]
    return ";".join(filter(None, parts))


def _quoted(text: str) -> str:
    if _TOKEN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_ours(name: str, *, certificate_only: bool = False) -> bool:
    read = _read_as(name)
    return read in _CERTIFICATE or (not certificate_only and (read in _FORWARDED or read.startswith(_X_FORWARDED)))


def _keep_ours(headers: http.Headers) -> None:
    """A server drops what `Connection` names (RFC 9110 section 7.6.1): that must not be a field of ours."""
    options = [one.strip() for value in headers.get_all("Connection") for one in value.split(",")]
    kept = [one for one in options if not _is_ours(one)]
    if kept != options:
        headers.set_all("Connection", [", ".join(kept)] if any(kept) else [])


def _read_as(name: str) -> str:
    """How a server may read `name` that makes variables of headers (CGI's HTTP_CLIENT_CERT, RFC 3875 section 4.1.18):
    what is no letter or digit is all one there, and which of two such headers wins is chance."""
    return "".join(one if one.isalnum() else "-" for one in name.lower())
