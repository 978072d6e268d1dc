"""Heads and trailer sections as they arrive: bytes in, whole lines out, and never more kept than the bounds say.

Pure: no socket, no clock. Each byte is looked at a fixed number of times, however small the pieces in which it comes.
"""

from __future__ import annotations

import re

from addons.edge.http1.faults import FaultError, MalformedError, OversizedHeadError

EMPTY_LINES = 4
"""Before a request line (RFC 9112 section 2.2: at least one is ignored)."""

_END = b"\r\n\r\n"
_BROKEN = re.compile(rb"\x00|\r[^\n]|(?<!\r)\n")
"""What no section has. It is looked for as it arrives: who ends lines with LF alone never sends the end we wait for."""


class Section:
    """One head, or the trailers of one message."""

    def __init__(
        self, most_bytes: int, fields: int, field_bytes: int, *, oversized: type[FaultError] = OversizedHeadError,
        empty_lines: int = 0, trailers: bool = False,
    ) -> None:  # fmt: skip
        """`empty_lines` may stand in front. Trailers, unlike heads, may be none: then an empty line is all there is."""
        self._most_bytes = most_bytes
        self._fields = fields
        self._field_bytes = field_bytes
        self._oversized = oversized
        self._empty_lines = empty_lines
        # An empty line ends a section wherever it stands: with the line end that came before it, so do no trailers.
        self._kept = bytearray(b"\r\n" if trailers else b"")
        self._begin = len(self._kept)
        self._line = self._begin
        self._line_ends = 0
        self.lines: list[bytes] | None = None
        """The lines without their ends, once the section is whole."""

    @property
    def kept(self) -> int:
        """Bytes that wait for the section's end."""
        return len(self._kept) - self._begin

    def take(self, data: bytes, at: int) -> int:
        """Read on at `data[at:]`; returns where what follows the section begins. Raises FaultError."""
        if not self._kept and data[at] != 13:  # the usual head: whole, in one piece
            end = data.find(_END, at)
            if end >= 0:
                self._whole(data[at:end])
                return end + 4
        kept = self._kept
        before = len(kept)
        kept += data[at:]
        if not self._begin:
            before -= self._leading_line_ends()
        end = kept.find(_END, max(before - 3, 0))
        if end >= 0:
            self._whole(bytes(kept[self._begin : end]))
            return at + end + 4 - before
        self._check(before)
        return len(data)

    def _leading_line_ends(self) -> int:
        """Bytes of empty lines that were dropped at the begin."""
        dropped = 0
        while self._kept.startswith(b"\r\n"):
            if not self._empty_lines:
                raise MalformedError("An empty line stands where the first line should.")
            self._empty_lines -= 1
            del self._kept[:2]
            dropped += 2
        return dropped

    def _check(self, before: int) -> None:
        """What has come of an unfinished section, of which `before` bytes were looked at already."""
        kept = self._kept
        if len(kept) - self._begin > self._most_bytes:
            raise self._too_large()
        if (broken := _BROKEN.search(kept, max(before - 1, 0))) is not None:
            raise MalformedError(_broken_sentence(broken[0]))
        self._line_ends += kept.count(b"\n", max(before, self._begin))
        self._line = max(self._line, kept.rfind(b"\n", max(before, 0)) + 1)
        if self._line_ends > self._fields + 1:
            raise self._too_many()
        if len(kept) - self._line > self._field_bytes:
            raise self._too_long()

    def _whole(self, text: bytes) -> None:
        if len(text) > self._most_bytes:
            raise self._too_large()
        lines = text.split(b"\r\n") if text else []
        if len(lines) > self._fields + 1:
            raise self._too_many()
        if len(text) > self._field_bytes and max(map(len, lines)) > self._field_bytes:
            raise self._too_long()
        self.lines = lines
        self._kept = bytearray()

    @property
    def _what(self) -> str:
        return "trailer section" if self._begin else "head"

    def _too_large(self) -> FaultError:
        return self._oversized(f"The {self._what} is larger than {self._most_bytes} bytes.")

    def _too_many(self) -> FaultError:
        return self._oversized(f"The {self._what} has more than {self._fields} fields.")

    def _too_long(self) -> FaultError:
        return self._oversized(f"A line of the {self._what} is longer than {self._field_bytes} bytes.")


def _broken_sentence(broken: bytes) -> str:
    if broken == b"\x00":
        return "There is a NUL in it."
    if broken == b"\n":
        return "A line ends with LF alone, not with CRLF."
    return "There is a CR that no LF follows."
