"""What came of a TLS handshake, noted in a connection's facts: with clients and servers, by OpenSSL and by GnuTLS."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from mitmproxy import connection
from OpenSSL import SSL

from addons.records.facts import CertificateFacts, Leg, Verification

_MOST_CERTIFICATES = 4096
_MOST_OF_A_NAME = 1024
"""Characters: a stranger's certificate may have a hundred thousand, and a record's line has 4,096 bytes."""
_known: dict[bytes, CertificateFacts] = {}


def note(leg: Leg, peer: connection.Connection, session: object) -> None:
    """The handshake with `peer` is complete; `session` is the connection object of whichever library made it."""
    leg.version = peer.tls_version or ""
    leg.cipher = peer.cipher or ""
    leg.alpn = peer.alpn.decode("ascii", "backslashreplace") if peer.alpn else ""
    if isinstance(session, SSL.Connection):
        leg.group = session.get_group_name() or ""
        leg.resumed = bool(SSL._lib.SSL_session_reused(session._ssl))  # type: ignore[attr-defined]  # noqa: SLF001  # not in pyOpenSSL's interface
    else:  # GnuTLS's, as `addons.gnutls` has it, or a script's own
        found: Callable[[], str | None] | None = getattr(session, "get_group_name", None)
        leg.group = (found() or "") if found is not None else ""
        leg.resumed = getattr(session, "resumed", None)
        if der := getattr(session, "shown", b""):
            leg.certificate = _of_der(der)


def verification(session: object) -> Verification | None:
    """What OpenSSL says of the chain that a server has shown; None where another library was at work."""
    if not isinstance(session, SSL.Connection):
        return None
    said: Verification | None = getattr(session, "verification", None)
    if said is not None:  # of all that OpenSSL said, what decided, and at which depth
        return said
    lib: Any = SSL._lib  # type: ignore[attr-defined]  # noqa: SLF001  # not in pyOpenSSL's interface
    code = int(lib.SSL_get_verify_result(session._ssl))  # noqa: SLF001
    return GOOD if code == 0 else Verification(code, 0, words(code))


def shown(session: object) -> x509.Certificate | None:
    """The certificate of a peer whose handshake was not completed, as far as OpenSSL has kept it."""
    if not isinstance(session, SSL.Connection):
        return None
    try:
        return session.get_peer_certificate(as_cryptography=True)
    except (ValueError, x509.InvalidVersion):
        return None


def words(code: int) -> str:
    """OpenSSL's words for an X509_V_* code."""
    lib: Any = SSL._lib  # type: ignore[attr-defined]  # noqa: SLF001
    return cast(bytes, SSL._ffi.string(lib.X509_verify_cert_error_string(code))).decode()  # type: ignore[attr-defined]  # noqa: SLF001


GOOD = Verification(0, 0, "ok")


@functools.lru_cache(64)
def _of_der(der: bytes) -> CertificateFacts:
    """Of our own sites there are few."""
    return certificate(x509.load_der_x509_certificate(der))


def certificate(seen: x509.Certificate) -> CertificateFacts:
    """The facts of a certificate. The same are seen again and again, and writing names costs more than all else."""
    digest = seen.fingerprint(hashes.SHA256())
    found = _known.get(digest)
    if found is None:
        while len(_known) >= _MOST_CERTIFICATES:
            del _known[next(iter(_known))]
        subject, issuer = _read(lambda: _named(seen.subject)), _read(lambda: _named(seen.issuer))
        found = _known[digest] = CertificateFacts(subject, issuer, _read(lambda: _end(seen)), digest.hex())
    return found


def _read(part: Callable[[], str]) -> str:
    try:
        return part()
    except ValueError:  # what cannot be read, or no text can hold: it is a stranger's
        return ""


def _named(name: x509.Name) -> str:
    return name.rfc4514_string()[:_MOST_OF_A_NAME]


def _end(seen: x509.Certificate) -> str:
    return seen.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
