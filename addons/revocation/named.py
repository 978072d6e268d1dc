"""What a certificate says about where more is to be learnt of it and of its issuer. No I/O.

Only http is gone after: an https URL needs a certificate of its own that would have to be looked at likewise, without
end (RFC 5280 section 8), and ldap has no bounds of ours. Whoever wrote the certificate wrote the URLs, so they are few.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import AuthorityInformationAccessOID

URLS = 2
"""Of each kind that are tried."""
_LONGEST_URL = 2048
_NO_REVOCATION = x509.ObjectIdentifier("2.5.29.56")
_SHORT_LIVED = dt.timedelta(days=7, minutes=1)
"""CA/Browser Forum, Baseline Requirements, section 1.6.1: such certificates need not say how they are revoked."""
STRANGE = (
    ValueError,
    KeyError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for what it cannot read; KeyError: a string of a name, by its type."""


def responders(certificate: x509.Certificate) -> list[str]:
    """The OCSP responders (RFC 5280 section 4.2.2.1)."""
    return _some(_access(certificate, AuthorityInformationAccessOID.OCSP))


def issuers(certificate: x509.Certificate) -> list[str]:
    """Where the issuer's certificate is (caIssuers, RFC 5280 section 4.2.2.1)."""
    return _some(_access(certificate, AuthorityInformationAccessOID.CA_ISSUERS))


def lists(certificate: x509.Certificate) -> list[str]:
    """Where CRLs are that cover the certificate for all reasons and are its issuer's own."""
    return _some(points(certificate))


def points(certificate: x509.Certificate) -> list[str]:
    """All names of such lists, which they have for themselves, too (RFC 5280 section 4.2.1.13)."""
    found = _extension(certificate, x509.CRLDistributionPoints)
    whole = [one for one in found or [] if one.full_name and not one.reasons and not one.crl_issuer]
    return [name.value for one in whole for name in one.full_name or [] if isinstance(name.value, str)]


def is_never_revoked(certificate: x509.Certificate) -> bool:
    """Whether its issuer does without revocation: it says so (RFC 9608, not for CAs), or the certificate is short-lived
    and names no place to ask."""
    try:
        if _NO_REVOCATION in [one.oid for one in certificate.extensions]:
            return not is_ca(certificate)
        lives = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    except STRANGE:
        return False
    return lives <= _SHORT_LIVED and not is_ca(certificate) and not responders(certificate) and not lists(certificate)


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether it is one of a CA."""
    basic = _extension(certificate, x509.BasicConstraints)
    return basic is not None and basic.ca


def _access(certificate: x509.Certificate, method: x509.ObjectIdentifier) -> Iterator[object]:
    access = _extension(certificate, x509.AuthorityInformationAccess)
    return (one.access_location.value for one in access or [] if one.access_method == method)


def _extension[T: x509.ExtensionType](certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, *STRANGE):
        return None


def _some(places: Iterable[object]) -> list[str]:
    found = [one for one in places if isinstance(one, str) and _is_http(one)]
    return list(dict.fromkeys(found))[:URLS]


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        fit = len(url) <= _LONGEST_URL and url.isascii() and url.isprintable() and " " not in url
        return fit and parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
