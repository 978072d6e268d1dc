"""Which class of the closed list (`facts.ErrorClass`) a failure is: of TLS on both sides, of a server's chain, of the
HSM. What the edge refuses has its class there (`addons.edge.refusal`). No I/O.

TLS libraries name reasons in words: OpenSSL's, and GnuTLS's as `addons.gnutls` hands them on. What the peer's alert
says (RFC 8446 section 6) goes before all else.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from addons.records.facts import ErrorClass
from hsm.errors import DeadlineError, HsmitmError, OverloadedError, TryLaterError

_ALERT = re.compile(r"(?:alert|tlsv1|tlsv13) (?!alert )([a-z0-9 /]+)$")
_NAMES = {
    10: "unexpected_message", 20: "bad_record_mac", 21: "decryption_failed", 22: "record_overflow",
    40: "handshake_failure", 42: "bad_certificate", 43: "unsupported_certificate", 44: "certificate_revoked",
    45: "certificate_expired", 46: "certificate_unknown", 47: "illegal_parameter", 48: "unknown_ca",
    49: "access_denied", 50: "decode_error", 51: "decrypt_error", 70: "protocol_version", 71: "insufficient_security",
    80: "internal_error", 86: "inappropriate_fallback", 90: "user_canceled", 109: "missing_extension",
    110: "unsupported_extension", 112: "unrecognized_name", 113: "bad_certificate_status_response",
    115: "unknown_psk_identity", 116: "certificate_required", 120: "no_application_protocol", 121: "ech_required",
}  # fmt: skip
_DISTRUST = frozenset(
    (
        "unknown_ca", "bad_certificate", "certificate_unknown", "certificate_expired", "certificate_revoked",
        "unsupported_certificate", "access_denied", "bad_certificate_status_response",
    )
)  # fmt: skip
_COMMON: dict[str, ErrorClass] = {
    "protocol_version": "no-common-version",
    "inappropriate_fallback": "no-common-version",
    "handshake_failure": "no-common-cipher",
    "insufficient_security": "no-common-cipher",
    "no_application_protocol": "no-common-cipher",
    "missing_extension": "no-common-cipher",
    "ech_required": "ech-required",
}
_REASONS: tuple[tuple[str, ErrorClass], ...] = (
    ("unsupported protocol", "no-common-version"),
    ("no protocols available", "no-common-version"),
    ("wrong ssl version", "no-common-version"),
    ("inappropriate fallback", "no-common-version"),
    ("no suitable key share", "no-common-group"),
    ("no shared group", "no-common-group"),
    ("no shared cipher", "no-common-cipher"),
    ("no suitable signature algorithm", "no-common-cipher"),
    ("no shared signature algorithm", "no-common-cipher"),
    ("signatures in certificates", "no-common-cipher"),
    ("supported cipher suite", "no-common-cipher"),
    ("no application protocol", "no-common-cipher"),
    ("no common application protocol", "no-common-cipher"),
    ("does not speak tls", "not-tls"),
    ("wrong version number", "not-tls"),
    ("http request", "not-tls"),
    ("packet length too long", "not-tls"),
)
"""Fragments of what a library says of its own accord; the first that is in it is its class."""
_GROUPS = frozenset((23, 24, 25, 29, 30, 256, 257, 4587, 4588, 4589))
"""What OpenSSL agrees to with a client unless it is told otherwise (RFC 8446 section 4.2.7)."""
_VERIFICATION: dict[int, ErrorClass] = {
    9: "server-expired", 10: "server-expired", 13: "server-expired", 14: "server-expired",
    18: "server-self-signed",
    20: "server-incomplete-chain", 21: "server-incomplete-chain",
    23: "server-revoked",
    62: "server-name", 64: "server-name",
    66: "server-weak-key", 67: "server-weak-key", 68: "server-weak-key",
}  # fmt: skip
"""X509_V_ERR_* of openssl/x509_vfy.h; all others are untrusted."""


def alert(reason: str) -> str:
    """The alert that a library's `reason` tells of, as RFC 8446 section 6 writes it; "" where it tells of none."""
    found = _ALERT.search(reason.lower())
    return found[1].strip().replace(" ", "_") if found else ""


def alert_in(record: bytes) -> str:
    """The alert of a plain record (RFC 8446 sections 5.1 and 6) that `record` ends with; "" where it ends otherwise."""
    last = record[-7:]
    return _NAMES.get(last[6], f"alert_{last[6]}") if len(last) == 7 and last[0] == 21 and last[3:5] == b"\0\2" else ""


def of_client(reason: str, *, ech: bool = False, groups: Collection[int] = ()) -> ErrorClass:
    """Of a client's TLS that came to nothing. `ech` and `groups` are its ClientHello's."""
    said = alert(reason)
    if said in _DISTRUST:
        return "client-distrusts-ca"
    if said in _COMMON:
        return _COMMON[said]
    if reason == UNNAMED:
        return "ech-required" if ech else "client-closed"
    found = _of_reason(reason)
    if found == "no-common-cipher" and groups and _GROUPS.isdisjoint(groups):
        return "no-common-group"  # in TLS 1.2 a suite needs a group
    return found or "client-closed"


def of_server(reason: str, *, certificate_wanted: bool = False) -> ErrorClass:
    """Of a server's TLS that came to nothing for another reason than its certificate."""
    said = alert(reason)
    if said == "certificate_required" or (certificate_wanted and said in _DISTRUST | {"handshake_failure"}):
        return "server-wants-client-certificate"
    return _COMMON.get(said) or _of_reason(reason) or "connect-failed"


def of_verification(code: int) -> ErrorClass:
    """Of a server's chain that OpenSSL does not accept, by its X509_V_ERR_* code."""
    return _VERIFICATION.get(code, "server-untrusted")


def of_hsm(error: Exception) -> ErrorClass:
    """Of a signature that could not be had. One that is not of the HSM's is a name that no certificate can carry."""
    if isinstance(error, OverloadedError):
        return "hsm-busy"
    if isinstance(error, TryLaterError | DeadlineError):
        return "hsm-unavailable"
    return "internal" if isinstance(error, HsmitmError) else "malformed-hello"


UNNAMED = "an alert that OpenSSL has no name for"
"""`reason` of an alert newer than OpenSSL's list: today that is ech_required (RFC 9849), and no other."""


def _of_reason(reason: str) -> ErrorClass | None:
    text = reason.lower()
    return next((found for fragment, found in _REASONS if fragment in text), None)
