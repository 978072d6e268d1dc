"""OCSP for one certificate (RFC 6960; RFC 5019 for what responders really do): the request that asks for its status,
whether a response may be stapled, and when to ask again. No I/O, no clock. `addons/revocation/staples.py` calls it.
"""

from __future__ import annotations

import datetime as dt
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, SignatureAlgorithmOID
from msgspec import Struct

SOONEST_S, LATEST_S = 300.0, 3600.0
"""A responder is asked again not before the first, and after a failure not later than the second."""

_CLOCKS_DIFFER = dt.timedelta(minutes=5)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
# What cryptography raises besides ValueError for what it does not know; KeyError: a string of a name, by its type.
_STRANGE = (
    KeyError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class Validity(Struct, frozen=True):
    """From when until when a response may be shown."""

    this_update: dt.datetime
    next_update: dt.datetime


class ResponseError(ValueError):
    """A response that is not to be stapled."""


class RevokedError(ResponseError):
    """An authentic, current response: the certificate is revoked. `this_update` and `next_update` are its own."""

    def __init__(self, message: str, validity: Validity) -> None:
        super().__init__(message)
        self.this_update, self.next_update = validity.this_update, validity.next_update


def utc(time: dt.datetime) -> str:
    """`time` as messages show it."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def responder(leaf: x509.Certificate) -> str:
    """The http or https URL that the certificate names for OCSP (RFC 5280 section 4.2.2.1). Raises ValueError."""
    try:
        access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        raise ValueError("the certificate names no OCSP responder") from None
    except _STRANGE as error:
        raise ValueError(f"the certificate's extensions do not parse: {error!r}") from error
    locations = [one.access_location.value for one in access if one.access_method == AuthorityInformationAccessOID.OCSP]
    for location in locations:
        if isinstance(location, str) and _is_http(location):
            return location
    named = ", ".join(str(one) for one in locations) or "none"
    raise ValueError(f"the certificate names no OCSP responder with an http or https URL (it names {named})")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_issuer(issuer: x509.Certificate, leaf: x509.Certificate) -> bool:
    """Whether `issuer`'s name and key are behind `leaf`."""
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, *_STRANGE):
        return False
    return True


def request(leaf: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """The status request, in DER. Responders that answer with responses made beforehand look them up by SHA-1 and take
    no nonce (RFC 5019 sections 2.1.1 and 2.1.2); the hash is a name here, it protects nothing.
    """
    return _request(leaf, issuer, hashes.SHA1()).public_bytes(Encoding.DER)  # noqa: S303


def _request(leaf: x509.Certificate, issuer: x509.Certificate, algorithm: hashes.HashAlgorithm) -> ocsp.OCSPRequest:
    return ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, algorithm).build()


def verify(response: bytes, leaf: x509.Certificate, issuer: x509.Certificate | None, now: dt.datetime) -> Validity:
    """From when until when `response` (DER) may be stapled to `leaf`. Raises ResponseError with what is wrong with it.

    Without the issuer its signature is not checked: only a file that the operator names comes without.
    """
    try:
        parsed = _parse(response)
        _check_subject(parsed, leaf, issuer)
        until = _check_signature(parsed, issuer, now) if issuer is not None else None
        validity = _validity(parsed, now)
        _check_status(parsed, validity)
    except ResponseError:
        raise
    except (ValueError, *_STRANGE) as error:
        raise ResponseError(f"the OCSP response cannot be read: {error!r}") from error
    return Validity(validity.this_update, min(validity.next_update, until)) if until else validity


def _parse(response: bytes) -> ocsp.OCSPResponse:
    try:
        parsed = ocsp.load_der_ocsp_response(response)
    except ValueError as error:
        raise ResponseError("what came is no OCSP response in DER") from error
    if parsed.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise ResponseError(f"the OCSP responder answered {parsed.response_status.name}")
    # RFC 5019 section 2.2.1. More would be for others, and of no use to a client that has one certificate before it.
    if (number := len(list(parsed.responses))) != 1:
        raise ResponseError(f"the OCSP response has the status of {number} certificates; one is wanted")
    return parsed


def _check_subject(parsed: ocsp.OCSPResponse, leaf: x509.Certificate, issuer: x509.Certificate | None) -> None:
    if parsed.serial_number != leaf.serial_number:
        raise ResponseError(
            f"the OCSP response is for another certificate, with serial number {parsed.serial_number:x}"
        )
    if issuer is None:
        name = hashes.Hash(parsed.hash_algorithm)
        name.update(leaf.issuer.public_bytes())
        if parsed.issuer_name_hash != name.finalize():
            raise ResponseError("the OCSP response is for a certificate of another issuer")
        return
    # The responder may name the issuer by another hash than we did: only what is named must agree.
    ours = _request(leaf, issuer, parsed.hash_algorithm)
    if (parsed.issuer_name_hash, parsed.issuer_key_hash) != (ours.issuer_name_hash, ours.issuer_key_hash):
        raise ResponseError("the OCSP response is for a certificate of another issuer")


def _check_signature(parsed: ocsp.OCSPResponse, issuer: x509.Certificate, now: dt.datetime) -> dt.datetime | None:
    """When its signer's right to sign ends; None for the issuer's own."""
    signer = next((one for one in (issuer, *parsed.certificates) if _is_responder(one, parsed)), None)
    if signer is None:
        raise ResponseError("the OCSP response is signed by a responder whose certificate is not in it")
    if signer != issuer:
        _check_delegate(signer, issuer, now)
    if not _is_signed(parsed, signer):
        raise ResponseError(f"the OCSP response's signature does not verify with {signer.subject.rfc4514_string()}")
    return signer.not_valid_after_utc if signer != issuer else None


def _is_responder(certificate: x509.Certificate, parsed: ocsp.OCSPResponse) -> bool:
    if parsed.responder_name is not None:
        return certificate.subject == parsed.responder_name
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest == parsed.responder_key_hash


def _check_delegate(signer: x509.Certificate, issuer: x509.Certificate, now: dt.datetime) -> None:
    """RFC 6960 section 4.2.2.2: the issuer itself has certified the responder, and for this purpose."""
    name = signer.subject.rfc4514_string()
    if not is_issuer(issuer, signer) or not isinstance(signer.signature_hash_algorithm, _HASHES):
        raise ResponseError(
            f"the OCSP responder {name} has no certificate of the site's issuer, signed with SHA-256 or more"
        )
    try:
        purposes = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        purposes = x509.ExtendedKeyUsage([])
    if ExtendedKeyUsageOID.OCSP_SIGNING not in purposes:
        raise ResponseError(f"the certificate of the OCSP responder {name} is not for OCSP signing")
    if not signer.not_valid_before_utc <= now < signer.not_valid_after_utc:
        raise ResponseError(
            f"the certificate of the OCSP responder {name} is valid from {utc(signer.not_valid_before_utc)} "
            f"to {utc(signer.not_valid_after_utc)}"
        )


def _is_signed(parsed: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    """Whether `signer` has signed, with SHA-256 or more: clients take no SHA-1 signature either."""
    key, signature, signed = signer.public_key(), parsed.signature, parsed.tbs_response_bytes
    try:
        if parsed.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS and isinstance(key, rsa.RSAPublicKey):
            return _is_pss_signed(key, signature, signed)
        algorithm = parsed.signature_hash_algorithm
        if type(algorithm) not in _HASHES or algorithm is None:
            name = algorithm.name.upper() if algorithm else parsed.signature_algorithm_oid.dotted_string
            raise ResponseError(f"the OCSP response is signed with {name}; SHA-256, SHA-384 and SHA-512 are accepted")
        match key:
            case rsa.RSAPublicKey():
                key.verify(signature, signed, padding.PKCS1v15(), algorithm)
            case ec.EllipticCurvePublicKey():
                key.verify(signature, signed, ec.ECDSA(algorithm))
            case _:
                raise ResponseError("the OCSP response is signed with a key that is neither RSA nor ECDSA")
    except InvalidSignature:
        return False
    return True


def _is_pss_signed(key: rsa.RSAPublicKey, signature: bytes, signed: bytes) -> bool:
    """cryptography 48 reads no PSS parameters from OCSP responses. A signature verifies with its own hash alone, so
    trying says as much as reading them."""
    for algorithm in (one() for one in _HASHES):
        try:
            key.verify(signature, signed, padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO), algorithm)
        except InvalidSignature:
            continue
        return True
    return False


def _validity(parsed: ocsp.OCSPResponse, now: dt.datetime) -> Validity:
    this_update, next_update = parsed.this_update_utc, parsed.next_update_utc
    if this_update > now + _CLOCKS_DIFFER:
        raise ResponseError(f"the OCSP response is valid from {utc(this_update)} on; check the clock")
    if next_update is None:
        # RFC 5019 section 2.2.4 wants it. Without it nobody can say until when the response may be shown again.
        raise ResponseError("the OCSP response does not say when it expires (nextUpdate), so it cannot be stapled")
    if next_update <= now:
        raise ResponseError(f"the OCSP response expired at {utc(next_update)}")
    return Validity(this_update, next_update)


def _check_status(parsed: ocsp.OCSPResponse, validity: Validity) -> None:
    match parsed.certificate_status:
        case ocsp.OCSPCertStatus.REVOKED:
            since = f" since {utc(parsed.revocation_time_utc)}" if parsed.revocation_time_utc else ""
            raise RevokedError(f"the certificate is revoked{since}", validity)
        case ocsp.OCSPCertStatus.UNKNOWN:
            raise ResponseError("the OCSP responder does not know the certificate")
        case ocsp.OCSPCertStatus.GOOD:
            return


def refresh_s(validity: Validity, now: dt.datetime, chance: float) -> float:
    """Seconds until the responder is asked for the next response after it gave one. `chance`: of [0, 1).

    About half of what is left: the half of the validity for a new response; a cache that still gives an old one is
    asked more often as that one ends. A tenth is left to chance, or all hosts would ask together for ever.
    """
    return max(SOONEST_S, (validity.next_update - now).total_seconds() * (0.45 + 0.1 * chance))


def retry_s(failures: int, validity: Validity | None, now: dt.datetime, chance: float) -> float:
    """Seconds until the responder is asked again after it failed for the `failures`-th time in a row (from 1), while
    the response with `validity` is in use. `chance`: of [0, 1).
    """
    # Four doublings are past an hour already; a number of failures as such may be large.
    wait = min(LATEST_S, SOONEST_S * 2.0 ** min(failures - 1, 4) * (1 + 0.2 * chance))
    if validity is not None and now < validity.next_update:
        wait = min(wait, (validity.next_update - now).total_seconds())
    return max(SOONEST_S, wait)
