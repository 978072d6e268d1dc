"""addons/revocation/ocsp.py: which responses may be stapled, and when the next one is due."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp as library
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from addons.revocation import ocsp
from tests.addons.revocation.ocsp_responder import HOUR, NOW, Authority, common_name, der, private_key, unsuccessful

CA = Authority()
RSA_CA = Authority(private_key("rsa"), "RSA CA")
P384_CA = Authority(private_key("p384"), "P-384 CA")
ED25519_CA = Authority(private_key("ed25519"), "Ed25519 CA")
STRANGER = Authority(private_key("stranger"), "stranger")
NAMESAKE = Authority(private_key("namesake"), CA.name)
NAMELESS = Authority(CA.key, "another name")
LEAF = CA.leaf()
VALIDITY = ocsp.Validity(NOW - HOUR, NOW + 24 * HOUR)
MINUTE = dt.timedelta(minutes=1)
BY_NAME = library.OCSPResponderEncoding.NAME


def verify(response: bytes, ca: Authority = CA, leaf: x509.Certificate = LEAF, now: dt.datetime = NOW) -> ocsp.Validity:
    return ocsp.verify(response, leaf, ca.certificate, now)


# the request


def test_request() -> None:
    """The question to the responder is the one that responders with prepared answers know: SHA-1, no nonce, short."""
    asked = ocsp.request(LEAF, CA.certificate)
    parsed = library.load_der_ocsp_request(asked)
    assert parsed.serial_number == LEAF.serial_number
    assert isinstance(parsed.hash_algorithm, hashes.SHA1)
    assert parsed.issuer_key_hash == x509.SubjectKeyIdentifier.from_public_key(CA.key.public_key()).digest
    assert not list(parsed.extensions)
    assert len(asked) < 255


@pytest.mark.parametrize(
    ("urls", "chosen"),
    [
        (["http://ocsp.example.com"], "http://ocsp.example.com"),
        (["https://ocsp.example.com:8443/a?b"], "https://ocsp.example.com:8443/a?b"),
        (["ldap://directory", "http://first", "http://second"], "http://first"),
    ],
)
def test_responder(urls: list[str], chosen: str) -> None:
    """The responder asked is the first one that the certificate names with http or https."""
    assert ocsp.responder(CA.leaf(*urls)) == chosen


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (CA.leaf(), "names no OCSP responder$"),
        (CA.leaf("ldap://directory/x"), r"http or https URL \(it names ldap://directory/x\)"),
        (CA.leaf("file:///etc/passwd"), "it names file:///etc/passwd"),
        (CA.leaf("http://"), "it names http://"),
        (CA.leaf("http://host:99999/"), "it names http://host:99999/"),
        (
            CA.certify(
                "x",
                private_key("leaf"),
                extensions=[
                    x509.AuthorityInformationAccess(
                        [
                            x509.AccessDescription(
                                AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://ca")
                            )
                        ]
                    )
                ],
            ),
            "it names none",
        ),
        (
            CA.certify(
                "x",
                private_key("leaf"),
                extensions=[
                    x509.AuthorityInformationAccess(
                        [
                            x509.AccessDescription(
                                AuthorityInformationAccessOID.OCSP, x509.DirectoryName(common_name("d"))
                            )
                        ]
                    )
                ],
            ),
            r"it names <Name\(CN=d\)>",
        ),
    ],
)
def test_no_responder(leaf: x509.Certificate, message: str) -> None:
    """A certificate without a usable responder is named as such, with what it has instead."""
    with pytest.raises(ValueError, match=message):
        ocsp.responder(leaf)


def test_issuer() -> None:
    """A chain whose second certificate did not issue the first is told from one whose did."""
    assert ocsp.is_issuer(CA.certificate, LEAF)
    assert not ocsp.is_issuer(STRANGER.certificate, LEAF)
    assert not ocsp.is_issuer(NAMESAKE.certificate, LEAF)
    assert ocsp.is_issuer(ED25519_CA.certificate, ED25519_CA.leaf())


# good responses


@pytest.mark.parametrize(
    ("ca", "respond"),
    {
        "the issuer's": (CA, lambda ca, leaf: ca.respond(leaf)),
        "by name": (CA, lambda ca, leaf: ca.respond(leaf, identity=BY_NAME)),
        "RSA": (RSA_CA, lambda ca, leaf: ca.respond(leaf)),
        "RSA with SHA-512": (RSA_CA, lambda ca, leaf: ca.respond(leaf, signature=hashes.SHA512())),
        "P-384 with SHA-384": (P384_CA, lambda ca, leaf: ca.respond(leaf, signature=hashes.SHA384())),
        "the issuer named by SHA-256": (CA, lambda ca, leaf: ca.respond(leaf, certificate_id=hashes.SHA256())),
        "a responder's": (CA, lambda ca, leaf: ca.respond(leaf, signer=ca.delegate())),
        "a responder's by name": (CA, lambda ca, leaf: ca.respond(leaf, signer=ca.delegate(), identity=BY_NAME)),
        "the issuer enclosed": (CA, lambda ca, leaf: ca.respond(leaf, enclosed=[ca.certificate])),
        "a clock four minutes late": (CA, lambda ca, leaf: ca.respond(leaf, this_update=NOW + 4 * MINUTE)),
    }.values(),
)
def test_good(ca: Authority, respond: Callable[[Authority, x509.Certificate], bytes]) -> None:
    """What authorities really sign is accepted, with the time until which it may be shown."""
    leaf = ca.leaf()
    assert verify(respond(ca, leaf), ca, leaf).next_update == VALIDITY.next_update


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_pss(digest: str, tmp_path: Path) -> None:
    """A response that openssl signed with RSA-PSS is accepted."""
    leaf = RSA_CA.leaf()
    response = RSA_CA.respond_by_openssl(tmp_path, [leaf], "-rmd", digest, "-rsigopt", "rsa_padding_mode:pss")
    assert verify(response, RSA_CA, leaf, dt.datetime.now(dt.UTC)).next_update > NOW + 47 * HOUR


def test_responder_certificate_ends_first() -> None:
    """A response is used no longer than its responder's certificate is valid: clients look at both."""
    response = CA.respond(LEAF, signer=CA.delegate(end=NOW + 2 * HOUR))
    assert verify(response) == ocsp.Validity(NOW - HOUR, NOW + 2 * HOUR)


# bad responses


def changed(response: bytes, offset: int = -1) -> bytes:
    """With one bit of its end or of another place changed."""
    at = offset % len(response)
    return response[:at] + bytes([response[at] ^ 1]) + response[at + 1 :]


def with_forged_delegate() -> bytes:
    """Signed by a responder whose certificate is not as the CA signed it."""
    delegate = CA.delegate()
    response = CA.respond(LEAF, signer=delegate)
    inside = der(delegate[0])
    return changed(response, response.index(inside) + len(inside) - 1)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "junk": (lambda: b"<html>Welcome to the captive portal", "no OCSP response in DER"),
    "empty": (lambda: b"", "no OCSP response in DER"),
    "more behind it": (lambda: CA.respond(LEAF) + b"\0", "no OCSP response in DER"),
    "try later": (lambda: unsuccessful(library.OCSPResponseStatus.TRY_LATER), "answered TRY_LATER"),
    "unauthorized": (lambda: unsuccessful(library.OCSPResponseStatus.UNAUTHORIZED), "answered UNAUTHORIZED"),
    "another serial": (lambda: CA.respond(CA.leaf()), "for another certificate, with serial number"),
    "another issuer's name": (
        lambda: NAMELESS.respond(
            NAMELESS.certify("x", private_key("leaf"), serial=LEAF.serial_number), signer=(CA.certificate, CA.key)
        ),
        "a certificate of another issuer",
    ),
    "another issuer's key": (
        lambda: NAMESAKE.respond(LEAF, signer=(CA.certificate, CA.key)),
        "a certificate of another issuer",
    ),
    "revoked": (
        lambda: CA.respond(LEAF, status=library.OCSPCertStatus.REVOKED),
        "the certificate is revoked since",
    ),
    "unknown": (lambda: CA.respond(LEAF, status=library.OCSPCertStatus.UNKNOWN), "does not know the certificate"),
    "from the future": (
        lambda: CA.respond(LEAF, this_update=NOW + 6 * MINUTE),
        "is valid from .* on; check the clock",
    ),
    "without an end": (lambda: CA.respond(LEAF, next_update=None), "does not say when it expires"),
    "expired": (lambda: CA.respond(LEAF, next_update=NOW - MINUTE), "the OCSP response expired at"),
    "expired now": (lambda: CA.respond(LEAF, next_update=NOW), "the OCSP response expired at"),
    "an altered signature": (lambda: changed(CA.respond(LEAF)), "signature does not verify with CN=test CA"),
    "an altered status": (
        lambda: CA.respond(LEAF, status=library.OCSPCertStatus.UNKNOWN).replace(b"\x82\x00\x18", b"\x80\x00\x18"),
        "signature does not verify",
    ),
    "signed by a namesake": (
        lambda: CA.respond(LEAF, signer=(NAMESAKE.certificate, NAMESAKE.key), identity=BY_NAME, enclosed=[]),
        "signature does not verify",
    ),
    "signed by a stranger": (
        lambda: CA.respond(LEAF, signer=(STRANGER.certificate, STRANGER.key)),
        "CN=stranger has no certificate of the site's issuer",
    ),
    "the stranger's delegate": (
        lambda: CA.respond(LEAF, signer=STRANGER.delegate()),
        "CN=responder has no certificate of the site's issuer",
    ),
    "a namesake's delegate": (
        lambda: CA.respond(LEAF, signer=NAMESAKE.delegate()),
        "CN=responder has no certificate of the site's issuer",
    ),
    "a delegate not enclosed": (
        lambda: CA.respond(LEAF, signer=CA.delegate(), enclosed=[]),
        "signed by a responder whose certificate is not in it",
    ),
    "another of the CA's sites": (
        lambda: CA.respond(LEAF, signer=CA.delegate(extensions=[])),
        "CN=responder is not for OCSP signing",
    ),
    "a client of the CA": (
        lambda: CA.respond(
            LEAF, signer=CA.delegate(extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])
        ),
        "CN=responder is not for OCSP signing",
    ),
    "for any purpose": (
        lambda: CA.respond(
            LEAF, signer=CA.delegate(extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])])
        ),
        "CN=responder is not for OCSP signing",
    ),
    "an expired delegate": (
        lambda: CA.respond(LEAF, signer=CA.delegate(end=NOW - MINUTE)),
        "certificate of the OCSP responder CN=responder is valid from .* to",
    ),
    "a delegate of tomorrow": (
        lambda: CA.respond(LEAF, signer=CA.delegate(start=NOW + HOUR)),
        "certificate of the OCSP responder CN=responder is valid from .* to",
    ),
    "a delegate signed with SHA-224": (
        lambda: CA.respond(LEAF, signer=CA.delegate(digest=hashes.SHA224())),
        "CN=responder has no certificate of the site's issuer, signed with SHA-256 or more",
    ),
    "a forged delegate": (with_forged_delegate, "CN=responder has no certificate of the site's issuer"),
    "a name of an unknown type": (
        lambda: CA.respond(LEAF, signer=CA.delegate()).replace(b"\x0c\x09responder", b"\x00\x09responder"),
        r"the OCSP response cannot be read: KeyError\(0\)",
    ),
    "SHA-224": (
        lambda: CA.respond(LEAF, signature=hashes.SHA224()),
        "signed with SHA224; SHA-256, SHA-384 and SHA-512 are accepted",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad(make: Callable[[], bytes], message: str) -> None:
    """A response that clients would not accept, or that could be a forger's, is refused for its reason."""
    with pytest.raises(ocsp.ResponseError, match=message):
        verify(make())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-rmd", "sha1"], "signed with SHA1; SHA-256"),
        (["-rmd", "sha1", "-rsigopt", "rsa_padding_mode:pss"], "signature does not verify"),
    ],
)
def test_sha1(options: list[str], message: str, tmp_path: Path) -> None:
    """A signature with SHA-1, which cryptography would not even make, is refused."""
    leaf = RSA_CA.leaf()
    with pytest.raises(ValueError, match=message):
        verify(RSA_CA.respond_by_openssl(tmp_path, [leaf], *options), RSA_CA, leaf)


def test_ed25519() -> None:
    """A response signed with Ed25519, which OCSP clients of today do not know, is refused."""
    leaf = ED25519_CA.leaf()
    with pytest.raises(ValueError, match=r"signed with 1\.3\.101\.112; SHA-256"):
        verify(ED25519_CA.respond(leaf), ED25519_CA, leaf)


def test_several(tmp_path: Path) -> None:
    """A response with the status of several certificates is refused, for a client has but one before it."""
    leaf = RSA_CA.leaf()
    with pytest.raises(ValueError, match="the status of 2 certificates; one is wanted"):
        verify(RSA_CA.respond_by_openssl(tmp_path, [leaf, RSA_CA.leaf()]), RSA_CA, leaf)


def test_revoked() -> None:
    """That a certificate is revoked is only believed from its authority, and is told from all other refusals."""
    with pytest.raises(ocsp.RevokedError) as caught:
        verify(CA.respond(LEAF, status=library.OCSPCertStatus.REVOKED))
    assert caught.value.this_update == NOW - HOUR
    forged = CA.respond(LEAF, status=library.OCSPCertStatus.REVOKED, signer=STRANGER.delegate())
    with pytest.raises(ValueError, match="no certificate of the site's issuer") as refused:
        verify(forged)
    assert not isinstance(refused.value, ocsp.RevokedError)


def test_without_issuer() -> None:
    """Where the chain has no issuer, all but the signature is still checked."""
    assert ocsp.verify(changed(CA.respond(LEAF)), LEAF, None, NOW) == VALIDITY
    with pytest.raises(ValueError, match="another issuer"):
        ocsp.verify(BAD["another issuer's name"][0](), LEAF, None, NOW)
    with pytest.raises(ValueError, match="another certificate"):
        ocsp.verify(CA.respond(CA.leaf()), LEAF, None, NOW)
    with pytest.raises(ocsp.RevokedError):
        ocsp.verify(CA.respond(LEAF, status=library.OCSPCertStatus.REVOKED), LEAF, None, NOW)


RESPONSES = [CA.respond(LEAF), CA.respond(LEAF, signer=CA.delegate()), CA.respond(LEAF, certificate_id=hashes.SHA384())]


@given(
    st.sampled_from(RESPONSES), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_damaged(response: bytes, changes: list[tuple[int, int]]) -> None:
    """Whatever a broken responder sends ends in a sentence, and never stretches the time that was signed."""
    damaged = bytearray(response)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    with suppress(ocsp.ResponseError):
        assert verify(bytes(damaged)) == VALIDITY


# when


MOMENTS = st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2040, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001
CHANCES = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("rest", "least", "most"),
    [
        (7 * 24 * HOUR, 7 * 24 * 3600 * 0.45, 7 * 24 * 3600 * 0.55),
        (24 * HOUR, 24 * 3600 * 0.45, 24 * 3600 * 0.55),
        (12 * MINUTE, 324, 396),
        (10 * MINUTE, 300, 330),
        (5 * MINUTE, 300, 300),
        (-HOUR, 300, 300),
    ],
)
def test_refresh(rest: dt.timedelta, least: float, most: float) -> None:
    """The next response is asked for when about half of the time is over, and never within five minutes."""
    validity = ocsp.Validity(NOW, NOW + rest)
    assert ocsp.refresh_s(validity, NOW, 0) == pytest.approx(least)
    assert ocsp.refresh_s(validity, NOW, 1) == pytest.approx(most)


@pytest.mark.parametrize(("rest", "wait"), [(HOUR, 2400), (20 * MINUTE, 1200), (MINUTE, 300), (-MINUTE, 2400)])
def test_last_retry(rest: dt.timedelta, wait: float) -> None:
    """The wait for a failed responder is cut short where the response in use would expire meanwhile."""
    assert ocsp.retry_s(4, ocsp.Validity(NOW - HOUR, NOW + rest), NOW, 0) == wait


@given(MOMENTS, MOMENTS, MOMENTS, CHANCES)
def test_refresh_any(this: dt.datetime, following: dt.datetime, now: dt.datetime, chance: float) -> None:
    """No times that a responder gives make workers hammer it, or come too late where there is time."""
    wait = ocsp.refresh_s(ocsp.Validity(this, following), now, chance)
    assert wait >= 300
    assert wait <= max(300, (following - now).total_seconds() * 0.55)


@pytest.mark.parametrize(
    ("failures", "least", "most"),
    [(1, 300, 360), (2, 600, 720), (3, 1200, 1440), (4, 2400, 2880), (5, 3600, 3600), (100000, 3600, 3600)],
)
def test_retry(failures: int, least: float, most: float) -> None:
    """A responder that fails is asked again after five minutes, then twice as much, up to an hour."""
    assert ocsp.retry_s(failures, None, NOW, 0) == least
    assert ocsp.retry_s(failures, None, NOW, 1) == pytest.approx(most)
    assert ocsp.retry_s(failures, ocsp.Validity(NOW - HOUR, NOW + 2 * HOUR), NOW, 0) == least


@given(st.integers(1, 10000), st.timedeltas(-2 * HOUR, 2 * HOUR), MOMENTS, CHANCES)
def test_retry_any(failures: int, rest: dt.timedelta, now: dt.datetime, chance: float) -> None:
    """A failed responder is asked again before the response in use expires, but never within five minutes."""
    following = now + rest
    wait = ocsp.retry_s(failures, ocsp.Validity(now - HOUR, following), now, chance)
    assert 300 <= wait <= 3600
    if following > now:
        assert wait <= max(300, rest.total_seconds())
    else:
        assert wait == ocsp.retry_s(failures, None, now, chance)
