"""ClientHellos as clients make them, and as attackers do."""

from __future__ import annotations

import ssl
from collections.abc import Iterator


def hello(name: str = "a.test") -> bytes:
    """A real one, in one record."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")


def records(message: bytes, *sizes: int, version: bytes = b"\x03\x01") -> bytes:
    """A handshake message in records of these sizes; the last size again and again."""
    return b"".join(b"\x16" + version + len(part).to_bytes(2) + part for part in _parts(message, list(sizes)))


def _parts(message: bytes, sizes: list[int]) -> Iterator[bytes]:
    while message:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        part, message = message[:size], message[size:]
        yield part


def padded(size: int) -> bytes:
    """A ClientHello message (no records) whose body has `size` bytes: empty extensions of unknown types."""
    fixed = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\x01" + b"\1\0"
    number = (size - len(fixed) - 2) // 4
    extensions = b"".join((0x5000 + one).to_bytes(2) + b"\0\0" for one in range(number))
    body = fixed + (len(extensions) % 65536).to_bytes(2) + extensions
    return b"\x01" + len(body).to_bytes(3) + body


def built(
    suites: bytes, *extensions: tuple[int, bytes], version: bytes = b"\3\3", compression: bytes = b"\1\0"
) -> bytes:
    """A ClientHello with these extensions, in a record."""
    body = b"".join(kind.to_bytes(2) + len(data).to_bytes(2) + data for kind, data in extensions)
    fixed = version + bytes(32) + b"\0" + len(suites).to_bytes(2) + suites + compression
    message = fixed + len(body).to_bytes(2) + body
    return records(b"\1" + len(message).to_bytes(3) + message, 16384)
