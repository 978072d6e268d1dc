"""Which fields may come behind the content (RFC 9110 section 6.5.1), in HTTP/1 and HTTP/2 alike. Pure.

Whoever merges trailers into the head would take them for what the head said: so none goes on that frames, routes,
authorizes, changes how a message is understood, or that a server could read as one of ours.
"""

from __future__ import annotations

from collections.abc import Iterable

_NAMES = frozenset(
    (
        # Framing and the connection.
        b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
        # Where a request goes, and from where it comes.
        b"host", b"forwarded", b"via", b"max-forwards", b"x-real-ip", b"true-client-ip", b"client-ip", b"origin",
        b"referer", b"x-http-method", b"x-http-method-override", b"x-method-override", b"x-original-url",
        b"x-rewrite-url",
        # Who asks, and what they may.
        b"authorization", b"www-authenticate", b"cookie", b"cookie2", b"set-cookie", b"set-cookie2",
        b"client-cert", b"client-cert-chain",
        # How a message is to be treated.
        b"cache-control", b"pragma", b"expect", b"range", b"age", b"expires", b"date", b"location", b"retry-after",
        b"vary", b"warning", b"refresh", b"link", b"alt-svc", b"allow",
    )
)  # fmt: skip
_BEGINS = (
    b"-", b"proxy-", b"if-", b"content-", b"x-forwarded-", b"x-client-", b"x-ssl-", b"access-control-", b"sec-",
    b"accept-", b"cross-origin-", b"strict-transport-",
)  # fmt: skip
_READ_AS = bytes(byte if chr(byte).isascii() and chr(byte).isalnum() else ord("-") for byte in range(256))
"""How a server reads names that makes variables of them (RFC 3875 section 4.1.18): whatever is no letter or digit is
all one there. A name that begins so, as HTTP/2's pseudo-fields do, is no trailer's."""
_YET = frozenset((b"content-digest",))
"""Of those, what is meant to come as a trailer (RFC 9530 section 6.5)."""


def may_pass(name: bytes) -> bool:
    """Whether a trailer of this name may go on."""
    read = name.lower().translate(_READ_AS)
    return read in _YET or not (read in _NAMES or read.startswith(_BEGINS))


def passing(fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those that may go on, in their order."""
    return [(name, value) for name, value in fields if may_pass(name)]
