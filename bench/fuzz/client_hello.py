"""A ClientHello taken apart and put together again (RFC 8446 section 4.1.2): so that a change to one part of it leaves
the lengths around it right, and what is wrong reaches the code that looks at that part."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
_RECORD_HEAD, _MESSAGE_HEAD = 5, 4
_RECORD_SIZE = 16384


@dataclass
class ClientHello:
    """What a client says first. `extensions` are pairs of type and body, in their order."""

    version: int
    random: bytes
    session: bytes
    suites: bytes
    compressions: bytes
    extensions: list[tuple[int, bytes]]

    @classmethod
    def parse(cls, flight: bytes) -> Self:
        """From the record that a client's first flight begins with. Raises ValueError where it does not."""
        if len(flight) < _RECORD_HEAD + _MESSAGE_HEAD or flight[0] != HANDSHAKE_RECORD or flight[5] != _CLIENT_HELLO:
            raise ValueError("no ClientHello")
        body = _Reader(flight[_RECORD_HEAD + _MESSAGE_HEAD : _RECORD_HEAD + int.from_bytes(flight[3:5])])
        version, random = int.from_bytes(body.take(2)), body.take(32)
        session, suites, compressions = body.vector(1), body.vector(2), body.vector(1)
        listed, extensions = _Reader(body.vector(2)), []
        while listed.left:
            extensions.append((int.from_bytes(listed.take(2)), listed.vector(2)))
        return cls(version, random, session, suites, compressions, extensions)

    def message(self) -> bytes:
        """As a handshake message. What is longer than its length can say gets the length's last bits."""
        listed = b"".join(struct.pack("!H", kind) + _vector(2, body) for kind, body in self.extensions)
        body = struct.pack("!H", self.version) + self.random + _vector(1, self.session) + _vector(2, self.suites)
        body += _vector(1, self.compressions) + _vector(2, listed)
        return bytes((_CLIENT_HELLO,)) + _vector(3, body)


def records(message: bytes, size: int = _RECORD_SIZE) -> list[bytes]:
    """A handshake message in records of at most `size` bytes of content (RFC 8446 section 5.1)."""
    return [
        struct.pack("!BHH", HANDSHAKE_RECORD, 0x0301, len(part)) + part
        for part in (message[at : at + size] for at in range(0, len(message), size))
    ]


def split(data: bytes) -> list[bytes]:
    """The records that `data` consists of; its last may be a part of one."""
    found = []
    while data:
        size = _RECORD_HEAD + int.from_bytes(data[3:5])
        found.append(data[:size])
        data = data[size:]
    return found


def _vector(size: int, content: bytes) -> bytes:
    return (len(content) % (1 << (8 * size))).to_bytes(size) + content


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError("a ClientHello that is cut short")
        self._at += size
        return self._data[self._at - size : self._at]

    def vector(self, size: int) -> bytes:
        return self.take(int.from_bytes(self.take(size)))
