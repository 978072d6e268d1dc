"""pyOpenSSL's connection over memory, with pieces of the size that they come in.

mitmproxy takes out what is to be sent 65,535 bytes at a time, each of which goes through all its layers: a read of as
many bytes, encrypted again, is a little more, and was two pieces and two writes.
"""

from __future__ import annotations

from OpenSSL import SSL

from addons.records.classes import UNNAMED

_PIECE = 262_144
_RECORD = 16_384
"""No record has more (RFC 8446 section 5.1), and pyOpenSSL makes room for as much as it is asked for."""


class PiecewiseConnection(SSL.Connection):
    """A connection whose bytes are taken out in one piece, and that remembers what became of it.

    `broken` is why nothing passes any more, in OpenSSL's words: a handshake that has failed, a record that was wrong,
    the peer's fatal alert; empty while all is well. `certificate_wanted` is whether the server asked for a
    client certificate (`note_certificate_request`). `doubt` is what stands in the handshake's way, as whoever made the
    connection knows: the sentence for when it fails.
    """

    broken = ""
    doubt = ""
    certificate_wanted = False

    def bio_read(self, bufsiz: int) -> bytes:
        """As pyOpenSSL's, and more than `bufsiz` bytes at once if there are."""
        return super().bio_read(max(bufsiz, _PIECE))

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """As pyOpenSSL's: one record's bytes. Where the connection is broken there are none: `broken` says why, in
        place of a line in which mitmproxy would list OpenSSL's errors."""
        try:
            return super().recv(min(bufsiz, _RECORD), flags)
        except (SSL.WantReadError, SSL.ZeroReturnError):
            raise
        except SSL.Error as error:
            self.broken = self.broken or reason(error)
            raise SSL.WantReadError from None

    def do_handshake(self) -> None:
        """As pyOpenSSL's: one step, and what it failed with is kept."""
        try:
            super().do_handshake()
        except SSL.WantReadError:
            raise
        except SSL.Error as error:
            self.broken = self.broken or reason(error)
            raise

    @property
    def staple(self) -> bytes:
        """The OCSP response (DER) that the server has stapled to its certificate, for who asked with `request_ocsp`;
        empty where there is none (RFC 6066 section 8; RFC 8446 section 4.4.2.1)."""
        found = SSL._ffi.new("unsigned char **")  # type: ignore[attr-defined]  # noqa: SLF001
        size = SSL._lib.SSL_get_tlsext_status_ocsp_resp(self._ssl, found)  # type: ignore[attr-defined]  # noqa: SLF001
        return bytes(SSL._ffi.buffer(found[0], size)) if size > 0 else b""  # type: ignore[attr-defined]  # noqa: SLF001

    def note_certificate_request(self) -> None:
        """Have OpenSSL tell of a server's CertificateRequest (RFC 8446 section 4.3.2; RFC 5246 section 7.4.4): it asks
        for a certificate then, and no sooner."""
        SSL._lib.SSL_set_cert_cb(self._ssl, _wanted, SSL._ffi.NULL)  # type: ignore[attr-defined]  # noqa: SLF001  # not in pyOpenSSL's interface


@SSL._ffi.callback("int (*)(SSL *, void *)")  # type: ignore[attr-defined, untyped-decorator]  # noqa: SLF001
def _wanted(ssl: object, _: object) -> int:
    asked = SSL.Connection._reverse_mapping.get(ssl)  # noqa: SLF001  # as its own callbacks do
    if isinstance(asked, PiecewiseConnection):
        asked.certificate_wanted = True
    return 1  # go on, with a certificate or without


def reason(error: SSL.Error) -> str:
    """OpenSSL's words for what was wrong first, as far as it has some."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return (str(entries[0][2]) or UNNAMED) if entries and len(entries[0]) > 2 else str(error)
