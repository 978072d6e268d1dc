"""What a client can verify, and whether it has been here, from its ClientHello. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric import ec
from mitmproxy.tls import ClientHello

_SUPPORTED_GROUPS, _SIGNATURE_ALGORITHMS, _SESSION_TICKET, _PRE_SHARED_KEY, _SUPPORTED_VERSIONS = 10, 13, 35, 41, 43
_SIGNATURE_ALGORITHMS_CERT = 50
_SECP256R1 = 0x0017
_ECDSA_SECP256R1_SHA256 = 0x0403
_TLS_1_3 = 0x0304
ECDSA_SUITES = {
    "ECDHE-ECDSA-AES128-GCM-SHA256": 0xC02B,
    "ECDHE-ECDSA-AES256-GCM-SHA384": 0xC02C,
    "ECDHE-ECDSA-CHACHA20-POLY1305": 0xCCA9,
    "ECDHE-ECDSA-AES128-SHA256": 0xC023,
    "ECDHE-ECDSA-AES256-SHA384": 0xC024,
    "ECDHE-ECDSA-AES128-SHA": 0xC009,
    "ECDHE-ECDSA-AES256-SHA": 0xC00A,
}
"""TLS 1.2 cipher suites that sign with ECDSA (RFC 8422, 5289, 7905) and that mitmproxy offers, by OpenSSL's names."""
_ALL = frozenset(ECDSA_SUITES.values())


def can_ecdsa(hello: ClientHello, *, tls_1_3: bool, suites: frozenset[int] = _ALL) -> bool:
    """Whether the client completes a handshake with a P-256 certificate.

    `tls_1_3` is whether we would speak it, `suites` are those of ECDSA_SUITES that we would. RFC 8446 section 4.2.3 and
    RFC 5246 section 7.4.1.4.1: a client that sends no signature_algorithms means SHA-1, which we do not sign with, so
    it gets RSA (and very old ones need that).
    """
    extensions = dict(hello.extensions)
    algorithms = _list16(extensions.get(_SIGNATURE_ALGORITHMS, b""))
    if _ECDSA_SECP256R1_SHA256 not in algorithms:
        return False
    groups = extensions.get(_SUPPORTED_GROUPS)
    if tls_1_3 and speaks_tls_1_3(hello):
        return True
    if groups is not None and _SECP256R1 not in _list16(groups):
        return False
    return not suites.isdisjoint(hello.cipher_suites)


Schemes = frozenset[int] | None
"""Signature schemes (RFC 8446 section 4.2.3); None for a client that sends none, which means RSA with SHA-1, and gets
RSA with better."""
_RSA = frozenset({0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806})
_ECDSA = {256: 0x0403, 384: 0x0503, 521: 0x0603}
"""By the key's bits: the hash that certificates are signed with goes by them."""


def certificate_schemes(hello: ClientHello) -> Schemes:
    """What the client verifies in certificates: signature_algorithms_cert, else signature_algorithms (RFC 8446 section
    4.2.3)."""
    extensions = dict(hello.extensions)
    found = extensions.get(_SIGNATURE_ALGORITHMS_CERT, extensions.get(_SIGNATURE_ALGORITHMS))
    return frozenset(_list16(found)) if found is not None else None


def can_verify(schemes: Schemes, key: object) -> bool:
    """Whether a client that has sent `schemes` verifies what a CA's public `key` has signed."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return schemes is not None and _ECDSA.get(key.key_size) in schemes
    return schemes is None or not _RSA.isdisjoint(schemes)


def speaks_tls_1_3(hello: ClientHello) -> bool:
    """Whether the client offers TLS 1.3 (RFC 8446 section 4.2.1)."""
    return _TLS_1_3 in _list16(dict(hello.extensions).get(_SUPPORTED_VERSIONS, b""), length_bytes=1)


def returns(hello: ClientHello) -> bool:
    """Whether the client offers to resume a session by a ticket (RFC 5077; RFC 8446 section 4.2.11), for which nobody
    has to sign."""
    extensions = dict(hello.extensions)
    return bool(extensions.get(_SESSION_TICKET)) or _PRE_SHARED_KEY in extensions


def _list16(body: bytes, length_bytes: int = 2) -> Iterable[int]:
    """The 16-bit values of a TLS vector with a length prefix. A body that is cut short gives what is whole of it."""
    values = body[length_bytes:]
    return [int.from_bytes(values[i : i + 2]) for i in range(0, len(values) - 1, 2)]
