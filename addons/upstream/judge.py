"""What becomes of a server's certificate: a leaf of the trust CA, one of the untrust CA, or a page. No I/O, no clock.

The profile says what becomes of each fault, and of several the worst counts. A fault that `[[upstream.accept]]` has
accepted for this host and key is none; another key, or a day after `expires`, is worse than the fault itself: somebody
meant that one key, and until that day. What its CA has revoked is accepted by nobody.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from addons.policy import times
from addons.policy.settings import Accept, Profile
from addons.records.facts import ErrorClass, Verification
from addons.revocation.answers import Answer, Status
from addons.revocation.named import STRANGE
from addons.upstream.faults import (
    KINDS,
    NO_ISSUER,
    REVOKED,
    WEAK_CA,
    WEAK_LEAF,
    Fault,
    clause,
    fault_of,
    is_incomplete,
    is_ours,
    own_complaints,
)

Outcome = Literal["trust", "untrust", "block"]

ORDER: dict[Outcome, int] = {"trust": 0, "untrust": 1, "block": 2}
_STATUS: dict[Status, tuple[Verification, Fault]] = {
    "revoked": (Verification(REVOKED, 0, "certificate revoked"), "revoked"),
    "unknown": (Verification(0, 0, "revocation status unknown"), "status_unknown"),
    "timeout": (Verification(0, 0, "revocation status not told in time"), "status_timeout"),
}
_NOT_TOLD = {"status_unknown", "status_timeout"}
"""Faults of a CA, and of no certificate that could be accepted."""
_SAID: dict[str, Outcome] = {"allow": "trust", "untrusted": "untrust", "block": "block"}
_RANK = {fault: rank for rank, fault in enumerate(KINDS)}


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
    status: Answer | None = None,
) -> Judgement:
    """Judge a server. `verification` is all that OpenSSL complained of, `certificates` the chain that it built, the
    server's own first. `accepts` are those of this `host`. `at` is timezone-aware, `status` the revocation status of a
    chain that verified, None where nobody asked."""
    found = sorted(_found(verification, certificates, profile, status), key=lambda one: _RANK[one.fault])
    if not found:
        return GOOD
    faults = {one.fault for one in found}
    if accepts and "revoked" not in faults and faults - _NOT_TOLD:
        return _accepted(accepts, certificates, at, found, host)
    worst = max(found, key=lambda one: ORDER[consequence(one.fault, profile)])
    first = [worst, *(one for one in found if one is not worst)]
    outcome = consequence(worst.fault, profile)
    return Judgement(outcome, KINDS[worst.fault], _sentence(host, first), worst=worst.said)


def consequence(fault: Fault, profile: Profile) -> Outcome:
    """What the profile makes of one fault. A chain that could not be completed is one that is not trusted."""
    said = getattr(profile, fault)
    return _SAID[profile.untrusted if said == "fetch" else said]


def may_stay_untold(status: Status, profile: Profile) -> bool:
    """Whether this status is none to speak of: most private CAs tell none, and a profile that allows that means it."""
    return status == "good" or (status != "revoked" and consequence(_STATUS[status][1], profile) == "trust")


def possible(code: int, profile: Profile, *, incomplete: bool) -> Outcome:
    """The mildest that can become of OpenSSL's complaint `code`, before all is known. `incomplete`: there is a place
    where the next certificate of the chain can be had."""
    if code in (WEAK_LEAF, WEAK_CA):
        return "trust"  # how long keys must be the profile says, when the chain is known
    if code in NO_ISSUER and incomplete and profile.incomplete_chain == "fetch":
        return "trust"
    return consequence(fault_of(Verification(code, 0, ""), incomplete=incomplete), profile)


def alone(host: str, said: Verification, *, incomplete: bool) -> tuple[ErrorClass, str]:
    """The class of one complaint, and a sentence, where no more of the chain is known."""
    told = clause(said, (), incomplete=incomplete)
    return KINDS[fault_of(said, incomplete=incomplete)], f"{host} did not prove who it is: {told}"


def spki_sha256(certificate: x509.Certificate) -> str:
    """SHA-256 of its SubjectPublicKeyInfo in hex: what `[[upstream.accept]]` names a key by (RFC 7469 section 2.4);
    empty for a key that cannot be read, which nobody can accept."""
    try:
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except STRANGE:
        return ""
    return hashlib.sha256(spki).hexdigest()


def _found(
    verification: Sequence[Verification],
    certificates: Sequence[x509.Certificate],
    profile: Profile,
    status: Answer | None,
) -> Iterator[_Found]:
    seen: set[tuple[Fault, int]] = set()
    incomplete = is_incomplete(certificates)
    theirs = (one for one in verification if not is_ours(one, certificates))
    for said in (*own_complaints(certificates, profile.min_rsa), *theirs):
        fault = fault_of(said, incomplete=incomplete)
        if (fault, said.depth) not in seen:
            seen.add((fault, said.depth))
            yield _Found(fault, said, clause(said, certificates, incomplete=incomplete))
    if status is not None and status.status != "good":
        said, fault = _STATUS[status.status]
        yield _Found(fault, said, status.words)


def _sentence(host: str, found: Sequence[_Found]) -> str:
    clauses = list(dict.fromkeys(one.clause for one in found))
    return f"{host} did not prove who it is: {', and '.join(clauses)}"


def _accepted(
    accepts: Sequence[Accept],
    certificates: Sequence[x509.Certificate],
    at: datetime.datetime,
    found: Sequence[_Found],
    host: str,
) -> Judgement:
    kind, told, worst = KINDS[found[0].fault], _sentence(host, found), found[0].said
    shown = spki_sha256(certificates[0]) if certificates else ""
    ours = [one for one in accepts if one.spki_sha256 == shown]
    if not ours:
        refused = f"{told}; the key that it shows is not the one that [[upstream.accept]] accepts for it"
        return Judgement("block", kind, refused, worst=worst)
    last = max(one.expires for one in ours)
    if times.is_over(last, at):
        return Judgement("block", kind, f"{told}; [[upstream.accept]] accepted that until {last}", worst=worst)
    return Judgement("trust", kind, told, worst=worst)
