"""A TLS connection that only says no: one fatal alert, then an error. For clients that no leaf could be had for."""

from __future__ import annotations

from OpenSSL import SSL

INTERNAL_ERROR = 80
"""RFC 8446 section 6.2: an internal error unrelated to the peer makes it impossible to continue."""


def alert(description: int) -> bytes:
    """A fatal alert as a plain record (RFC 8446 sections 5.1 and 6), for before there are keys."""
    return bytes((21, 3, 3, 0, 2, 2, description))


class Refusal:
    """The part of `OpenSSL.SSL.Connection` that mitmproxy's TLS layer calls during a handshake.

    mitmproxy closes a connection without an alert where it gets no TLS object, and clients then report a broken server.
    """

    def __init__(self, description: int = INTERNAL_ERROR) -> None:
        """`description` is the alert's code."""
        self._output = alert(description)
        self._said = False

    def bio_write(self, data: bytes) -> int:
        """What the client says does not matter any more."""
        return len(data)

    def bio_read(self, _size: int) -> bytes:
        """The alert, once."""
        if not self._output:
            raise SSL.WantReadError
        output, self._output = self._output, b""
        return output

    def do_handshake(self) -> None:
        """Have the alert sent at the first call; fail at the next, when the client has answered or gone."""
        if not self._said:
            self._said = True
            raise SSL.WantReadError
        raise SSL.Error([("hsmitm", "", self.broken)])

    broken = "there is no certificate for this client"
    resumed = False

    def abort(self, description: int) -> None:
        """It has said its alert."""

    def shutdown(self) -> None:
        """Nothing is left to shut down."""

    def get_shutdown(self) -> int:
        """Neither side has said goodbye."""
        return 0
