"""Content as it arrives: bytes in, content out, by one of the three ways in which HTTP/1 says where it ends.

Pure, and it keeps no content: of what has come nothing but an unfinished line is left. What came in one piece goes on
in one, whatever number of chunks it was in.
"""

from __future__ import annotations

import re
from typing import Protocol

from addons.edge import trailers
from addons.edge.http1 import framing, heads
from addons.edge.http1.faults import MalformedError, OversizedTrailersError
from addons.edge.http1.sections import Section
from addons.edge.settings import Bounds

_CHUNK = re.compile(
    rb"([0-9A-Fa-f]{1,16})"
    rb"((?:[ \t]*+;[ \t]*+[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
    rb"(?:[ \t]*+=[ \t]*+(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++|\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+\"))?+)*+)"
    rb"[ \t]*+\r\n"
).fullmatch
"""RFC 9112 section 7.1: chunk-size [ chunk-ext ] CRLF, with the spaces that some servers put behind the size."""
_MOST_CHUNK = 2**63 - 1
_LINE_BYTES = 32
"""A chunk-size line without extensions."""


class Body(Protocol):
    """The content of one message."""

    content: bytes
    """What the last `take` found."""
    done: bool
    trailers: heads.Fields

    def take(self, data: bytes, at: int) -> int:
        """Read on at `data[at:]`; returns where what follows the message begins. Raises FaultError."""

    def end(self) -> None:
        """The connection has ended: so has the message, if it may end there. Raises MalformedError."""


def body(length: int, bounds: Bounds, *, strict: bool) -> Body:
    """The reader for a length that `framing` found. `strict`: no spaces behind a chunk's size (a request)."""
    if length == framing.CHUNKED:
        return Chunked(bounds, strict=strict)
    if length == framing.UNTIL_CLOSE:
        return UntilClose()
    return Length(length)


class Length:
    """So many bytes."""

    def __init__(self, length: int) -> None:
        self.content = b""
        self.trailers: heads.Fields = []
        self._left = length
        self.done = not length

    def take(self, data: bytes, at: int) -> int:
        """As Body says it."""
        end = min(at + self._left, len(data))
        self.content = data if at == 0 and end == len(data) else data[at:end]
        self._left -= end - at
        self.done = not self._left
        return end

    def end(self) -> None:
        """As Body says it."""
        raise MalformedError(f"peer closed connection {self._left} bytes before the message's end")


class UntilClose:
    """All that comes."""

    def __init__(self) -> None:
        self.content = b""
        self.trailers: heads.Fields = []
        self.done = False

    def take(self, data: bytes, at: int) -> int:
        """As Body says it."""
        self.content = data[at:] if at else data
        return len(data)

    def end(self) -> None:
        """As Body says it."""
        self.content = b""
        self.done = True


class Chunked:
    """Chunks (RFC 9112 section 7.1), and the trailers behind them."""

    def __init__(self, bounds: Bounds, *, strict: bool) -> None:
        self.content = b""
        self.trailers: heads.Fields = []
        self.done = False
        self._bounds = bounds
        self._strict = strict
        self._line = bytearray()
        self._left = 0
        self._in_chunk = False
        self._section: Section | None = None
        # Extensions may be as long as the content and the bound together: what is signed chunk by chunk goes through.
        self._extension_bytes = bounds.chunk_extension_bytes

    def take(self, data: bytes, at: int) -> int:
        """As Body says it."""
        parts: list[bytes] = []
        while at < len(data) and not self.done:
            if self._section is not None:
                at = self._take_trailers(self._section, data, at)
            elif self._left:
                end = min(at + self._left, len(data))
                parts.append(data[at:end])
                self._left -= end - at
                at = end
            else:
                at = self._take_line(data, at)
        self.content = parts[0] if len(parts) == 1 else b"".join(parts)
        return at

    def end(self) -> None:
        """As Body says it."""
        raise MalformedError("peer closed connection before the last chunk")

    def _take_line(self, data: bytes, at: int) -> int:
        """A chunk's first line, or the line end behind its content."""
        end = data.find(b"\n", at) + 1
        self._line += data[at : end or len(data)]
        most = 2 if self._in_chunk else _LINE_BYTES + self._extension_bytes
        if len(self._line) > most:
            if self._in_chunk:
                raise MalformedError("A chunk is longer than it said.")
            raise OversizedTrailersError("The extensions of chunks are too long.")
        if not end:
            if self._in_chunk and self._line != b"\r":
                raise MalformedError("A chunk is longer than it said.")
            if b"\r" in self._line[:-1]:
                raise MalformedError("There is a CR that no LF follows in the line before a chunk.")
            return len(data)
        line, self._line = bytes(self._line), bytearray()
        if self._in_chunk:
            if line != b"\r\n":
                raise MalformedError("A chunk is longer than it said.")
            self._in_chunk = False
        else:
            self._begin(line)
        return end

    def _begin(self, line: bytes) -> None:
        parts = _CHUNK(line)
        if parts is None or (self._strict and line[-3:-2] in (b" ", b"\t")):
            raise MalformedError("The line before a chunk is not its size in hexadecimal and extensions.")
        size = int(parts[1], 16)
        if size > _MOST_CHUNK:
            raise MalformedError("A chunk is larger than any can be.")
        left = self._extension_bytes + size - len(parts[2])
        self._extension_bytes = min(left, self._bounds.chunk_extension_bytes)
        if self._extension_bytes < 0:
            raise OversizedTrailersError("The extensions of chunks are too long.")
        self._left, self._in_chunk = size, size > 0
        if not size:
            self._section = Section(
                self._bounds.trailer_bytes, self._bounds.fields, self._bounds.field_bytes,
                oversized=OversizedTrailersError, trailers=True,
            )  # fmt: skip

    def _take_trailers(self, section: Section, data: bytes, at: int) -> int:
        at = section.take(data, at)
        if section.lines is not None:
            fields, _ = heads.read_fields(section.lines)
            self.trailers = trailers.passing(fields)
            self.done = True
        return at
