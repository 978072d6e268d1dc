"""A ClientHello (RFC 8446 section 4.1.2), read in one go. No I/O.

mitmproxy's own reader, which is generated from a grammar, makes an object of each field: a fortieth of a connection's
cost. It also passes over lengths that do not fit, and over a second extension of the same kind, of which our peers may
take the other one. Scripts get what they always got: `ReadHello` is mitmproxy's ClientHello.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

from mitmproxy.net import check
from mitmproxy.tls import ClientHello

_RANDOM_ENDS = 34
_SERVER_NAME, _ALPN = 0, 16
_HOST_NAME = 0
_valid = functools.lru_cache(maxsize=1024)(check.is_valid_host)
_LONGEST_NAME = 255


class TwiceError(ValueError):
    """An extension comes twice, of which our peers may take the other one (RFC 8446 section 4.2)."""


class ReadHello(ClientHello):
    """What a client begins with."""

    def __init__(self, raw_client_hello: bytes) -> None:
        """The message's body. Raises ValueError for what is none: a vector that is cut short, or that does not end
        where its length says. Raises TwiceError."""
        self._raw_bytes = raw_client_hello
        suites, at = _vector(raw_client_hello, _vector(raw_client_hello, _RANDOM_ENDS, 1)[1], 2)
        if len(suites) % 2:
            raise ValueError("half a cipher suite")
        self._suites = list(struct.unpack(f">{len(suites) // 2}H", suites))
        _compression, at = _vector(raw_client_hello, at, 1)
        self._extensions = _extensions(raw_client_hello, at)
        self._by_kind = dict(self._extensions)
        if len(self._by_kind) < len(self._extensions):
            raise TwiceError("an extension that comes twice")
        self._sni = _server_name(self._by_kind.get(_SERVER_NAME))
        self._alpn = _protocols(self._by_kind.get(_ALPN))

    @functools.cached_property
    def _client_hello(self) -> Any:  # type: ignore[override]  # an attribute there
        """The tree of objects that mitmproxy makes, for whoever looks for it."""
        return ClientHello(self._raw_bytes)._client_hello  # noqa: SLF001

    def raw_bytes(self, wrap_in_record: bool = True) -> bytes:
        """As mitmproxy's: the message's body, or one record with the message."""
        if not wrap_in_record:
            return self._raw_bytes
        size = len(self._raw_bytes)
        return b"\x16\3\3" + (size + 4).to_bytes(2) + b"\1" + size.to_bytes(3) + self._raw_bytes

    @property
    def legacy_version(self) -> int:
        """As RFC 8446 section 4.1.2 calls it; the true ones are in an extension."""
        return int.from_bytes(self._raw_bytes[:2])

    @property
    def cipher_suites(self) -> list[int]:
        """As IANA numbers them, in the client's order."""
        return self._suites

    @property
    def sni(self) -> str | None:
        """The host that the client wants (RFC 6066 section 3); None for what is no host's name."""
        return self._sni

    @property
    def alpn_protocols(self) -> list[bytes]:
        """What the client offers to speak (RFC 7301 section 3.1)."""
        return list(self._alpn)

    @property
    def extensions(self) -> list[tuple[int, bytes]]:
        """All of them, in the client's order: type, and body."""
        return self._extensions

    @property
    def by_kind(self) -> dict[int, bytes]:
        """The extensions' bodies by their types."""
        return self._by_kind


def _vector(data: bytes, at: int, length_bytes: int) -> tuple[bytes, int]:
    """A vector (RFC 8446 section 3.4) that begins at `at`, and where it ends."""
    begins = at + length_bytes
    ends = begins + int.from_bytes(data[at:begins])
    if ends > len(data) or begins > len(data):
        raise ValueError("cut short")
    return data[begins:ends], ends


def _whole(data: bytes, at: int, length_bytes: int) -> bytes:
    found, ends = _vector(data, at, length_bytes)
    if ends != len(data):
        raise ValueError("more than its length says")
    return found


def _extensions(data: bytes, at: int) -> list[tuple[int, bytes]]:
    if at == len(data):  # before TLS 1.2 there may be none at all
        return []
    listed, at, found = _whole(data, at, 2), 0, []
    while at < len(listed):
        kind = int.from_bytes(listed[at : at + 2])
        body, at = _vector(listed, at + 2, 2)
        found.append((kind, body))
    return found


def _server_name(body: bytes | None) -> str | None:
    if body is None:
        return None
    listed = _whole(body, 0, 2)
    name, ends = _vector(listed, 1, 2)
    lone = ends == len(listed) and listed[0] == _HOST_NAME
    return name.decode("ascii") if lone and len(name) <= _LONGEST_NAME and name.isascii() and _valid(name) else None


def _protocols(body: bytes | None) -> tuple[bytes, ...]:
    if body is None:
        return ()
    listed, at, found = _whole(body, 0, 2), 0, []
    while at < len(listed):
        name, at = _vector(listed, at, 1)
        found.append(name)
    return tuple(found)
