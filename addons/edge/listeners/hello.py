"""A ClientHello as it comes from the network: read once, in time linear in its bytes, with a bound on all of it.

mitmproxy parses what has come from its start at each read, and reads without end. `HelloReader` takes bytes as they
come; `HelloWatch` finds a ClientHello that begins anywhere in a stream of something else. Neither does any I/O.
"""

from __future__ import annotations

import re
from typing import Literal

from mitmproxy.tls import ClientHello

from addons.tls.read_hello import ReadHello, TwiceError

HANDSHAKE = 22
"""RFC 8446 section 5.1: the content type of records that carry a handshake."""
_MAJOR, _NEWEST_MINOR = 3, 3
_HEADER = 5
_CLIENT_HELLO = 1
_MAX_RECORD = 16384
_MOST_OF_A_PREFIX = 6
"""Bytes of a handshake message that tell a ClientHello from all else: its type, its length, its version."""
_SSL2_PREFIX = 11
_SERVER_NAME, _ALPN = 0, 16
"""RFC 7301 section 3.1: neither the list nor a name in it is empty."""
_CANDIDATE = re.compile(rb"\x16\x03.[\x00-\x40].\x01|\x16(?:\x03(?:.(?:[\x00-\x40].?)?)?)?\Z", re.DOTALL)
"""Where a ClientHello could begin: a record's header with the message's type, or as much of it as stands at the end."""

UNEXPECTED_MESSAGE, RECORD_OVERFLOW, ILLEGAL_PARAMETER, DECODE_ERROR = 10, 22, 47, 50
"""RFC 8446 section 6."""
_NO_HELLO = "the client does not begin with a ClientHello"


class HelloError(ValueError):
    """No ClientHello that we read; `kind` is the refusal's class, `alert` what the client is told."""

    def __init__(self, kind: Literal["malformed-hello", "oversized-hello"], alert: int, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.alert = alert


class HelloReader:
    """One connection's first message."""

    def __init__(self, max_bytes: int, max_records: int) -> None:
        """The bounds: bytes with the records' headers, and records."""
        self.raw = bytearray()
        self._max_bytes = max_bytes
        self._max_records = max_records
        self._records = 0
        self._read = 0
        self._message = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """Take what has come; the ClientHello once it is whole. `raw` is all that was taken, as it came.

        Raises HelloError: not a handshake, an empty record (RFC 8446 section 5.1 forbids both here), too much of it.
        Records' versions are no matter (the same section).
        """
        self.raw += data
        while len(self.raw) - self._read >= _HEADER:
            size = self._record_size()
            if len(self.raw) - self._read < _HEADER + size:
                break
            self._records += 1
            if self._records > self._max_records:
                raise HelloError("oversized-hello", DECODE_ERROR, f"a ClientHello of over {self._max_records} records")
            start = self._read + _HEADER
            self._message += self.raw[start : start + size]
            self._read = start + size
            if (found := self._whole()) is not None:
                return found
        if len(self.raw) > self._read and self.raw[self._read] != HANDSHAKE:
            raise HelloError("malformed-hello", UNEXPECTED_MESSAGE, _NO_HELLO)
        if len(self.raw) > self._max_bytes:
            raise HelloError("oversized-hello", DECODE_ERROR, f"a ClientHello of over {self._max_bytes} bytes")
        return None

    def _record_size(self) -> int:
        if self.raw[self._read] != HANDSHAKE:
            raise HelloError("malformed-hello", UNEXPECTED_MESSAGE, _NO_HELLO)
        size = int.from_bytes(self.raw[self._read + 3 : self._read + _HEADER])
        if not size:
            raise HelloError("malformed-hello", UNEXPECTED_MESSAGE, "a ClientHello with an empty record")
        if size > _MAX_RECORD:
            raise HelloError("malformed-hello", RECORD_OVERFLOW, "a ClientHello with a record that is too long")
        return size

    def _whole(self) -> ClientHello | None:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise HelloError("malformed-hello", UNEXPECTED_MESSAGE, _NO_HELLO)
        if len(message) < 4:
            return None
        size = int.from_bytes(message[1:4])
        if size + 4 > self._max_bytes:
            raise HelloError("oversized-hello", DECODE_ERROR, f"a ClientHello of {size} bytes")
        if len(message) < size + 4:
            return None
        return parsed(bytes(message[4 : size + 4]))


def parsed(body: bytes) -> ReadHello:
    """A ClientHello's body (RFC 8446 section 4.1.2). Raises HelloError."""
    try:
        hello = ReadHello(body)
    except ValueError as error:
        said = ILLEGAL_PARAMETER if isinstance(error, TwiceError) else DECODE_ERROR
        raise HelloError("malformed-hello", said, f"a ClientHello that cannot be parsed: {error}") from error
    offered = hello.alpn_protocols
    if not all(offered) or (not offered and _ALPN in hello.by_kind):
        raise HelloError("malformed-hello", DECODE_ERROR, "a ClientHello with an empty list, or name, of ALPN")
    return hello


def names_one(hello: ClientHello) -> bool:
    """Whether a ClientHello names one host in one way, or none: with a second name, or one that cannot be read (RFC
    6066 section 3) its server may take it for another than we do. A second list of names is malformed."""
    return hello.sni is not None or all(kind != _SERVER_NAME for kind, _ in hello.extensions)


def normal(data: bytes) -> bytes:
    """A client's first records as libraries want them: of version 3.3 where they say what no TLS is (OpenSSL and GnuTLS
    look at the version, which RFC 8446 section 5.1 forbids; no transcript holds it)."""
    made, start = bytearray(data), 0
    while len(made) - start >= _HEADER and made[start] == HANDSHAKE:
        if made[start + 1] != _MAJOR or made[start + 2] > _NEWEST_MINOR:
            made[start + 1 : start + 3] = _MAJOR, _NEWEST_MINOR
        start += _HEADER + int.from_bytes(made[start + 3 : start + _HEADER])
    return bytes(made)


class HelloWatch:
    """One direction of a stream that is no TLS, in which a client may begin to speak TLS at any byte.

    What could be the first bytes of a ClientHello is kept back until the next ones tell: `held`. `found` is whether
    `held` begins with one. Whoever cannot keep it back any longer takes it with `release`; where it turns out to be a
    ClientHello after that, it is `lost`.
    """

    def __init__(self) -> None:
        self.held = b""
        self.found = False
        self.lost = False
        self._released = b""
        self._history = b""

    def feed(self, data: bytes) -> bytes:
        """Take what has come; what may go on. The rest is `held`. Nothing goes on once `found` or `lost`."""
        if self.found or self.lost:
            self.held += data
            return b""
        if self._ssl2(data):
            self.lost = True
            self.held += data
            return b""
        given, self._released = self._released, b""
        stream = given + self.held + data
        start = 0
        while (begins := _CANDIDATE.search(stream, start)) is not None:
            start = begins.start()
            verdict = _is_hello(stream, start)
            if verdict is not False:
                break
            start += 1
        else:
            self.held = b""
            return stream[len(given) :]
        # What begins within bytes that were let go can no longer be taken back.
        passing, self.held = stream[len(given) : max(start, len(given))], stream[max(start, len(given)) :]
        if start < len(given):
            self.lost = verdict is True
            if not self.lost:
                self._released = given[start:]
        else:
            self.found = verdict is True
        return passing

    def release(self) -> bytes:
        """What is held goes on after all, and is remembered; nothing once `found` or `lost`."""
        if self.found or self.lost:
            return b""
        passing, self.held = self.held, b""
        self._released += passing
        return passing

    def _ssl2(self, data: bytes) -> bool:
        """Whether a ClientHello in SSL 2.0's form (RFC 5246 appendix E.2) begins here: servers with OpenSSL take it
        for a TLS handshake, and it cannot be inspected. Its 11 first bytes agree with each other."""
        stream, position = self._history + data, 2
        self._history = stream[-_SSL2_PREFIX + 1 :]
        while (position := stream.find(b"\x01\x03", position)) >= 0:
            head = stream[position - 2 : position - 2 + _SSL2_PREFIX]
            position += 1
            if len(head) < _SSL2_PREFIX or not head[0] & 0x80:
                continue
            suites, session, challenge = (int.from_bytes(head[i : i + 2]) for i in (5, 7, 9))
            length = int.from_bytes(head[:2]) & 0x7FFF
            if suites and suites % 3 == 0 and 16 <= challenge <= 32 and length == 9 + suites + session + challenge:
                return True
        return False


def _is_hello(stream: bytes, start: int) -> bool | None:
    """Whether a ClientHello begins at `start`, where a 22 stands; None where more bytes must tell.

    Its first bytes may be spread over records, and what stands between those need not be a handshake: after one record
    that begins like a ClientHello, a second one of any kind is proof enough.
    """
    message, position = b"", start
    while len(message) < _MOST_OF_A_PREFIX:
        header = stream[position : position + _HEADER]
        if not _may_be_a_header(header, first=not message):
            return False
        if len(header) < _HEADER:
            return None
        size = int.from_bytes(header[3:])
        if message and (header[0] != HANDSHAKE or not size):
            return True
        position += _HEADER
        message += stream[position : position + min(size, _MOST_OF_A_PREFIX)]
        position += size
        if not _begins_a_hello(message):
            return False
        if len(stream) < position and len(message) < _MOST_OF_A_PREFIX:
            return None
    return True


def _may_be_a_header(header: bytes, *, first: bool) -> bool:
    """Whether a record begins like this, as far as it is here; the `first` one has something in it."""
    size = int.from_bytes(header[3:]) if len(header) == _HEADER else None
    return (
        (not header or header[0] == HANDSHAKE or (20 <= header[0] <= 24 and not first))
        and header[1:2] in {b"", bytes((_MAJOR,))}
        and (size is None or (size <= _MAX_RECORD and (size > 0 or not first)))
    )


def _begins_a_hello(message: bytes) -> bool:
    """Whether a handshake message begins like a ClientHello of less than 128 KiB, as far as it is here."""
    return message[:1] in {b"", bytes((_CLIENT_HELLO,))} and message[1:2] <= b"\x01" and message[4:5] in {b"", b"\x03"}
