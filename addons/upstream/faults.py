"""What can be wrong with a server's certificate: OpenSSL's complaints, as the faults that a profile names. No I/O.

What OpenSSL does not mind, or only at some security levels, is looked for here: keys below the profile's size, MD5 and
SHA-1, a leaf that is a CA. It gets the code that OpenSSL has for it. What OpenSSL has read and we cannot is nothing of
that kind, and what it has said of it stands.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AuthorityInformationAccessOID

from addons.records.facts import ErrorClass, Verification
from addons.revocation.named import STRANGE

_REMEMBERED = 64
"""Servers' certificates: each new connection shows one again. A stranger's may have 100 kB."""

Fault = Literal[
    "revoked",
    "self_signed",
    "untrusted",
    "incomplete_chain",
    "expired",
    "name_mismatch",
    "weak_key",
    "status_unknown",
    "status_timeout",
]
"""Named as the profile's fields."""
KINDS: dict[Fault, ErrorClass] = {
    "revoked": "server-revoked",
    "self_signed": "server-self-signed",
    "untrusted": "server-untrusted",
    "incomplete_chain": "server-incomplete-chain",
    "expired": "server-expired",
    "name_mismatch": "server-name",
    "weak_key": "server-weak-key",
    "status_unknown": "status-unknown",
    "status_timeout": "status-timeout",
}
"""Each with its class; the earlier is told where several weigh the same."""

NOT_YET_VALID, EXPIRED, SELF_SIGNED, REVOKED = 9, 10, 18, 23
NO_ISSUER = frozenset({2, 20, 21})
"""X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, _LOCALLY, _UNABLE_TO_VERIFY_LEAF_SIGNATURE: the chain ends too early."""
INVALID_NON_CA, WEAK_LEAF, WEAK_CA, WEAK_DIGEST = 37, 66, 67, 68
"""X509_V_ERR_INVALID_NON_CA, _EE_KEY_TOO_SMALL, _CA_KEY_TOO_SMALL, _CA_MD_TOO_WEAK."""
_FAULTS: dict[int, Fault] = {
    NOT_YET_VALID: "expired",
    EXPIRED: "expired",
    SELF_SIGNED: "self_signed",
    REVOKED: "revoked",
    62: "name_mismatch",  # X509_V_ERR_HOSTNAME_MISMATCH
    64: "name_mismatch",  # X509_V_ERR_IP_ADDRESS_MISMATCH
    WEAK_LEAF: "weak_key",
    WEAK_CA: "weak_key",
    WEAK_DIGEST: "weak_key",
}
"""X509_V_ERR_* of OpenSSL's x509_vfy.h. What is not here means that nobody who is trusted vouches for the server."""
BESIDE_THE_CHAIN = frozenset({NOT_YET_VALID, EXPIRED, 62, 64, WEAK_LEAF, WEAK_CA, WEAK_DIGEST})
"""Complaints about a chain whose signatures lead to a trusted root."""
_CONSTRAINED = "the CA that issued its certificate may not issue any for this name (name constraints)"
_CLAUSES = {
    EXPIRED: "{whose} has expired{ends}",
    NOT_YET_VALID: "{whose} is not valid yet{begins}",
    SELF_SIGNED: "its certificate is self-signed",
    19: "its chain ends in a CA that is not trusted here",
    26: "{whose} is not one for servers (extended key usage)",
    INVALID_NON_CA: "its certificate is that of a CA, and not of a server",
    47: _CONSTRAINED,
    48: _CONSTRAINED,
    62: "its certificate is for other names",
    64: "its certificate is for other names",
    WEAK_LEAF: "{whose} has a weak key ({words})",
    WEAK_CA: "{whose} has a weak key ({words})",
    WEAK_DIGEST: "{whose} has a weak signature ({words})",
}
_OLD_DIGESTS = ("md5", "sha1")


def fault_of(said: Verification, *, incomplete: bool) -> Fault:
    """What `said` is. `incomplete`: a chain that ends too early says where its next certificate is."""
    if said.code in NO_ISSUER:
        return "incomplete_chain" if incomplete else "untrusted"
    return _FAULTS.get(said.code, "untrusted")


def clause(said: Verification, certificates: Sequence[x509.Certificate], *, incomplete: bool) -> str:
    """`said` of the chain `certificates` (the server's own first) in words, to follow a host's name."""
    if said.code in NO_ISSUER:
        if incomplete:
            return "it did not send the certificates between its own and a trusted CA"
        return "its certificate was issued by a CA that is not trusted here"
    ends = begins = ""
    if said.depth < len(certificates):
        one = certificates[said.depth]
        with suppress(*STRANGE):
            ends = f" ({one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC)"
            begins = f" (but from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC)"
    whose = "its certificate" if said.depth == 0 else f"a certificate above its own (number {said.depth})"
    pattern = _CLAUSES.get(said.code, "{whose} does not verify ({words})")
    return pattern.format(whose=whose, words=said.words, ends=ends, begins=begins)


def is_incomplete(certificates: Sequence[x509.Certificate]) -> bool:
    """Whether a chain that ends too early names a place where its next certificate can be had (RFC 5280 section
    4.2.2.1). Where it does not, the next one is a root that is not trusted here, for all that can be known."""
    if not certificates:
        return False
    try:
        named = certificates[-1].extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, *STRANGE):
        return False
    return any(one.access_method == AuthorityInformationAccessOID.CA_ISSUERS for one in named)


def own_complaints(certificates: Sequence[x509.Certificate], min_rsa: int) -> Iterator[Verification]:
    """What OpenSSL may not mind: a leaf that is a CA, RSA below `min_rsa` bits, MD5 and SHA-1 in signatures but a
    root's. Most self-signed certificates say that they are a CA's: that is no fault of its own."""
    for depth, one in enumerate(certificates):
        root = is_root(one)
        if depth == 0 and not root and is_ca(one):
            yield Verification(INVALID_NON_CA, 0, "invalid non-CA certificate (has CA markings)")
        if (bits := rsa_bits(one)) is not None and bits < min_rsa:
            yield Verification(
                WEAK_CA if depth else WEAK_LEAF, depth, f"RSA of {bits} bits, where {min_rsa} are wanted"
            )
        if not root and (digest := _digest(one)) in _OLD_DIGESTS:
            yield Verification(WEAK_DIGEST, depth, f"made with {digest.upper()}")


def is_ours(said: Verification, certificates: Sequence[x509.Certificate]) -> bool:
    """Whether OpenSSL's complaint is about the size of an RSA key: that is the profile's business."""
    if said.code not in (WEAK_LEAF, WEAK_CA) or said.depth >= len(certificates):
        return False
    return rsa_bits(certificates[said.depth]) is not None


@functools.lru_cache(maxsize=_REMEMBERED)
def is_ca(certificate: x509.Certificate) -> bool:
    """Whether it says that it is a CA's (RFC 5280 section 4.2.1.9). Without the extension it does not."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *STRANGE):
        return False


def rsa_bits(certificate: x509.Certificate) -> int | None:
    """The size of its key; None for what is not RSA, or is not known to us."""
    try:
        key = certificate.public_key()
    except STRANGE:
        return None
    return key.key_size if isinstance(key, rsa.RSAPublicKey) else None


def is_root(certificate: x509.Certificate) -> bool:
    """Whether its issuer has its own name."""
    try:
        return certificate.issuer == certificate.subject
    except STRANGE:
        return False


def _digest(certificate: x509.Certificate) -> str:
    try:
        algorithm = certificate.signature_hash_algorithm
    except STRANGE:
        return ""
    return algorithm.name if algorithm is not None else ""
