"""pyOpenSSL's connection over memory, with pieces of the size that they come in.

mitmproxy takes out what is to be sent 65,535 bytes at a time, each of which goes through all its layers: a read of as
many bytes, encrypted again, is a little more, and was two pieces and two writes.
"""

from __future__ import annotations

from OpenSSL import SSL

_PIECE = 262_144
_RECORD = 16_384
"""No record has more (RFC 8446 section 5.1), and pyOpenSSL makes room for as much as it is asked for."""


class PiecewiseConnection(SSL.Connection):
    """A connection whose bytes are taken out in one piece."""

    def bio_read(self, bufsiz: int) -> bytes:
        """As pyOpenSSL's, and more than `bufsiz` bytes at once if there are."""
        return super().bio_read(max(bufsiz, _PIECE))

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """As pyOpenSSL's: one record's bytes."""
        return super().recv(min(bufsiz, _RECORD), flags)
