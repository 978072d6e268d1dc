"""What becomes of a server's certificate: a leaf of the trust CA, one of the untrust CA, or a page. No I/O, no clock.

OpenSSL says what is wrong, with all its complaints; what it does not mind is looked at here: keys below `min_rsa`, old
signatures, a leaf that is a CA. The profile says what becomes of each fault, and of several faults the worst counts. A
fault that `[[upstream.accept]]` has accepted for this host and key is none; another key, or a day after `expires`, is
worse than the fault itself: somebody meant that one key, and until that day.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from addons.policy.settings import Accept, Profile
from addons.records.facts import ErrorClass, Verification

Outcome = Literal["trust", "untrust", "block"]
Status = Literal["good", "revoked", "unknown", "timeout"]
"""What a CA says of a certificate; "timeout": it said nothing in time."""
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
"""Named as the profile's fields. Of several with one outcome the first of this order is the one that is told."""

ORDER: dict[Outcome, int] = {"trust": 0, "untrust": 1, "block": 2}
_SAID: dict[str, Outcome] = {"allow": "trust", "untrusted": "untrust", "block": "block"}
_RANK: dict[Fault, int] = {
    one: rank
    for rank, one in enumerate(
        (
            "revoked",
            "self_signed",
            "untrusted",
            "incomplete_chain",
            "expired",
            "name_mismatch",
            "weak_key",
            "status_unknown",
            "status_timeout",
        )
    )
}
_KINDS: dict[Fault, ErrorClass] = {
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

NO_ISSUER = frozenset({2, 20, 21})
"""X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, _LOCALLY, _UNABLE_TO_VERIFY_LEAF_SIGNATURE: the chain ends too early."""
INVALID_NON_CA, WEAK_LEAF, WEAK_CA, WEAK_DIGEST = 37, 66, 67, 68
"""X509_V_ERR_INVALID_NON_CA, _EE_KEY_TOO_SMALL, _CA_KEY_TOO_SMALL, _CA_MD_TOO_WEAK, which are also said here."""
_CODES: dict[int, Fault] = {
    18: "self_signed",
    9: "expired",
    10: "expired",
    23: "revoked",
    62: "name_mismatch",
    64: "name_mismatch",
    WEAK_LEAF: "weak_key",
    WEAK_CA: "weak_key",
    WEAK_DIGEST: "weak_key",
}
"""X509_V_ERR_* of x509_vfy.h. What is not here means that nobody who is trusted vouches for the server."""
_UNTRUSTED = {
    19: "its chain ends in a CA that is not trusted here",
    26: "its certificate is not one for servers (extended key usage)",
    37: "its certificate is that of a CA, and not of a server",
    47: "the CA that issued its certificate may not issue any for this name (name constraints)",
    48: "the CA that issued its certificate may not issue any for this name (name constraints)",
}
_OLD_DIGESTS = ("md5", "sha1")
_AIA_ISSUERS = x509.AuthorityInformationAccessOID.CA_ISSUERS


class Judgement(Struct, frozen=True):
    """What becomes of a server. `kind` and `sentence` (for page and log, without a full stop) say why, also where a
    fault is allowed; None and "" where there is none. `proved`: the server is who it says, and a page about it may come
    under the trust CA. `worst` is the complaint that decided."""

    outcome: Outcome
    kind: ErrorClass | None = None
    sentence: str = ""
    proved: bool = False
    worst: Verification | None = None


GOOD = Judgement("trust", proved=True)


class _Found(Struct, frozen=True):
    fault: Fault
    said: Verification
    clause: str


def judge(
    verification: Sequence[Verification],
    certificates: Sequence[x509.Certificate],
    profile: Profile,
    accepts: Sequence[Accept],
    at: datetime.datetime,
    *,
    host: str,
    status: Status = "good",
) -> Judgement:
    """Judge a server. `verification` is all that OpenSSL complained of, `certificates` the chain that it built, the
    server's own first. `accepts` are those of this `host`. `at` is timezone-aware, `status` the revocation status of a
    chain that verified."""
    found = sorted(
        _faults(verification, certificates, profile, status), key=lambda one: (_RANK[one.fault], one.said.depth)
    )
    if not found:
        return GOOD
    told = _sentence(host, found)
    if accepts and not any(one.fault == "revoked" for one in found):
        return _accepted(accepts, certificates, at, found, told)
    outcome: Outcome = max((consequence(one.fault, profile) for one in found), key=ORDER.__getitem__)
    worst = next(one for one in found if consequence(one.fault, profile) == outcome)
    first = [worst, *(one for one in found if one is not worst)]
    return Judgement(outcome, _KINDS[worst.fault], _sentence(host, first), worst=worst.said)


def consequence(fault: Fault, profile: Profile) -> Outcome:
    """What the profile makes of one fault. A chain that could not be completed is one that is not trusted."""
    said = getattr(profile, fault)
    return _SAID[profile.untrusted if said == "fetch" else said]


def possible(code: int, profile: Profile) -> Outcome:
    """The mildest that can become of OpenSSL's complaint `code`, before the chain is known."""
    if code in NO_ISSUER:
        if profile.incomplete_chain == "fetch":
            return "trust"
        return min((consequence(one, profile) for one in ("untrusted", "incomplete_chain")), key=ORDER.__getitem__)
    if code in (WEAK_LEAF, WEAK_CA):
        return "trust"  # OpenSSL has a limit of its own
    return consequence(_CODES.get(code, "untrusted"), profile)


def kind_of(code: int) -> ErrorClass:
    """The class of OpenSSL's complaint `code`."""
    return _KINDS["untrusted" if code in NO_ISSUER else _CODES.get(code, "untrusted")]


def alone(host: str, said: Verification) -> str:
    """A sentence for one complaint, where the chain is not known."""
    return f"{host} did not prove who it is: {_clause(said, ())}"


def spki_sha256(certificate: x509.Certificate) -> str:
    """SHA-256 of its SubjectPublicKeyInfo in hex: what `[[upstream.accept]]` names a key by (RFC 7469 section 2.4)."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def is_incomplete(certificates: Sequence[x509.Certificate]) -> bool:
    """Whether a chain that ends too early names a place where its next certificate can be had (RFC 5280 section
    4.2.2.1). Where it does not, the next one is a root that is not trusted here, for all that can be known."""
    if not certificates:
        return False
    try:
        named = certificates[-1].extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension):
        return False
    return any(one.access_method == _AIA_ISSUERS for one in named)


def own_complaints(certificates: Sequence[x509.Certificate], min_rsa: int) -> list[Verification]:
    """What OpenSSL may not mind: a leaf that is a CA, RSA below `min_rsa` bits, MD5 and SHA-1 in signatures but a
    root's. A certificate that cannot be read is a complaint, too."""
    said: list[Verification] = []
    for depth, one in enumerate(certificates):
        is_root = one.issuer == one.subject
        if depth == 0 and not is_root and is_ca(one):
            said.append(Verification(INVALID_NON_CA, 0, "invalid non-CA certificate (has CA markings)"))
        if (bits := rsa_bits(one)) is not None and bits < min_rsa:
            code = WEAK_LEAF if depth == 0 else WEAK_CA
            said.append(Verification(code, depth, f"an RSA key of {bits} bits, of which {min_rsa} are wanted"))
        digest = _digest(one)
        if not is_root and digest in _OLD_DIGESTS:
            said.append(Verification(WEAK_DIGEST, depth, f"a signature with {digest.upper()}"))
    return said


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether it says that it is a CA's (RFC 5280 section 4.2.1.9). Without the extension it does not."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension):
        return False


def rsa_bits(certificate: x509.Certificate) -> int | None:
    """The size of its key; None for what is not RSA, or cannot be read."""
    try:
        key = certificate.public_key()
    except (ValueError, x509.InvalidVersion):
        return None
    except Exception:  # noqa: BLE001  # UnsupportedAlgorithm: a key that OpenSSL could read all the same
        return None
    return key.key_size if isinstance(key, rsa.RSAPublicKey) else None


def _digest(certificate: x509.Certificate) -> str:
    try:
        algorithm = certificate.signature_hash_algorithm
    except Exception:  # noqa: BLE001  # UnsupportedAlgorithm
        return ""
    return algorithm.name if algorithm is not None else ""


def _faults(
    verification: Sequence[Verification], certificates: Sequence[x509.Certificate], profile: Profile, status: Status
) -> Iterable[_Found]:
    ours = own_complaints(certificates, profile.min_rsa)
    seen: set[tuple[str, int]] = set()
    for said in [*ours, *(one for one in verification if not _is_ours(one, certificates, ours))]:
        fault = _fault(said, certificates)
        if (fault, said.depth) not in seen:
            seen.add((fault, said.depth))
            yield _Found(fault, said, _clause(said, certificates))
    if status == "revoked":
        yield _Found("revoked", Verification(23, 0, "certificate revoked"), "its certificate has been revoked by its CA")
    elif status == "unknown":
        words = "whether its certificate has been revoked is not known to its CA"
        yield _Found("status_unknown", Verification(0, 0, "revocation status unknown"), words)
    elif status == "timeout":
        words = "its CA did not say in time whether its certificate has been revoked"
        yield _Found("status_timeout", Verification(0, 0, "revocation status not told in time"), words)


def _is_ours(said: Verification, certificates: Sequence[x509.Certificate], ours: Sequence[Verification]) -> bool:
    """Whether OpenSSL's complaint about a key or digest is one that is judged here, by the profile's limit. What is not
    RSA, or a digest that is not known here, stays its own."""
    if any((one.code, one.depth) == (said.code, said.depth) for one in ours):
        return True
    if said.code in (WEAK_LEAF, WEAK_CA) and said.depth < len(certificates):
        return rsa_bits(certificates[said.depth]) is not None
    return False


def _fault(said: Verification, certificates: Sequence[x509.Certificate]) -> Fault:
    if said.code in NO_ISSUER:
        return "incomplete_chain" if is_incomplete(certificates) else "untrusted"
    return _CODES.get(said.code, "untrusted")


def _clause(said: Verification, certificates: Sequence[x509.Certificate]) -> str:
    whose = "its certificate" if said.depth == 0 else f"a certificate above its own (number {said.depth})"
    one = certificates[said.depth] if said.depth < len(certificates) else None
    if said.code == 10:  # noqa: PLR2004  # X509_V_ERR_CERT_HAS_EXPIRED
        return f"{whose} has expired" + (f" ({one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC)" if one else "")
    if said.code == 9:  # noqa: PLR2004  # X509_V_ERR_CERT_NOT_YET_VALID
        return f"{whose} is not valid yet" + (f" (from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC)" if one else "")
    if said.code == 18:  # noqa: PLR2004  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
        return "its certificate is self-signed"
    if said.code in NO_ISSUER:
        if is_incomplete(certificates):
            return "it did not send the certificates between its own and a trusted CA"
        return "its certificate was issued by a CA that is not trusted here"
    if _CODES.get(said.code) == "name_mismatch":
        return "its certificate is for other names"
    if _CODES.get(said.code) == "weak_key":
        return f"{whose} has a weak key or signature: {said.words}"
    return _UNTRUSTED.get(said.code, f"{whose} does not verify: {said.words}")


def _sentence(host: str, found: Sequence[_Found]) -> str:
    clauses = list(dict.fromkeys(one.clause for one in found))
    return f"{host} did not prove who it is: {', and '.join(clauses)}"


def _accepted(
    accepts: Sequence[Accept],
    certificates: Sequence[x509.Certificate],
    at: datetime.datetime,
    found: Sequence[_Found],
    told: str,
) -> Judgement:
    kind, worst = _KINDS[found[0].fault], found[0].said
    shown = spki_sha256(certificates[0]) if certificates else ""
    ours = [one for one in accepts if one.spki_sha256 == shown]
    if not ours:
        words = "[[upstream.accept]] accepts another key than the one it shows"
        return Judgement("block", kind, f"{told}; {words}", worst=worst)
    last = max(one.expires for one in ours)
    if at.astimezone(datetime.UTC).date() > last:
        return Judgement("block", kind, f"{told}; [[upstream.accept]] accepted it until {last}", worst=worst)
    return Judgement("trust", kind, told, worst=worst)
