"""What a leaf is, up to the bytes that verifiers accept."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from asn1crypto.x509 import Certificate as RawCertificate
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from hsm import names
from hsm.certificates.issuer import Issuer
from hsm.certificates.leaf import SERIAL_BITS
from hsm.certificates.settings import BACKDATED, MAX_VALIDITY, LeafProfile
from hsm.errors import RefusedError
from tests.hsm.certificates.software import (
    DAY,
    DIGESTS,
    LONG,
    NOW,
    ca_extensions,
    certified,
    each_ca_key,
    extension,
    foreign_ca,
    key_usage,
    mint,
    named,
    own_ca,
    private_key,
    spki,
    subordinate,
)

# --- what a leaf is ---------------------------------------------------------------------------------------------------


@each_ca_key
@pytest.mark.parametrize("leaf_key", ["rsa", "p256"])
def test_leaf_profile(ca_key: str, leaf_key: str) -> None:
    """A leaf is a server's certificate and nothing else, in the digest that fits the CA's key."""
    key = private_key(leaf_key, 1)
    leaf = mint(["www.example.com", "*.example.com", "192.0.2.1", "2001:db8::1"], ca_key, key=key)
    leaf.verify_directly_issued_by(own_ca(ca_key))
    assert leaf.version is x509.Version.v3
    assert leaf.signature_algorithm_oid == DIGESTS[ca_key]
    assert spki(private_key(leaf_key, 1)) == leaf.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    assert leaf.subject == named("www.example.com")
    assert [one.value for one in extension(leaf, x509.SubjectAlternativeName).value] == [
        names.general_name(name).value for name in ("www.example.com", "*.example.com", "192.0.2.1", "2001:db8::1")
    ]
    assert extension(leaf, x509.BasicConstraints).value == x509.BasicConstraints(ca=False, path_length=None)
    assert extension(leaf, x509.BasicConstraints).critical
    usage = key_usage(digital_signature=True, key_encipherment=leaf_key == "rsa")
    assert extension(leaf, x509.KeyUsage).value == usage
    assert extension(leaf, x509.KeyUsage).critical
    assert list(extension(leaf, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert extension(leaf, x509.SubjectKeyIdentifier).value == x509.SubjectKeyIdentifier.from_public_key(
        key.public_key()
    )
    assert len(leaf.extensions) == 6


@pytest.mark.parametrize(
    ("wanted", "common_name"),
    [
        (["example.com", LONG], "example.com"),
        (["*.example.com"], "*.example.com"),
        (["192.0.2.1"], "192.0.2.1"),
        (["a" * 60 + ".com"], "a" * 60 + ".com"),
        (["a" * 61 + ".com"], None),
        ([LONG, "example.com"], None),
    ],
    ids=["short", "wildcard", "address", "64 characters", "65 characters", "long first"],
)
def test_subject_and_criticality_of_the_names(wanted: list[str], common_name: str | None) -> None:
    """A first name too long for a commonName leaves the subject empty, and only then are the names critical."""
    leaf = mint(wanted)
    found = [attribute.value for attribute in leaf.subject]
    assert found == ([common_name] if common_name else [])
    assert extension(leaf, x509.SubjectAlternativeName).critical is (common_name is None)


LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABEL, min_size=2, max_size=6).map(".".join) | st.ip_addresses().map(str)


@given(st.lists(NAMES, min_size=1, max_size=10, unique=True), st.integers(1 << 63, (1 << SERIAL_BITS) - 1))
def test_every_leaf_carries_its_names_and_a_valid_serial(wanted: list[str], serial: int) -> None:
    """Any set of names and any random serial number give a leaf with exactly these, within the limits of X.509."""
    leaf = mint(wanted, serial=serial)
    assert list(extension(leaf, x509.SubjectAlternativeName).value) == [names.general_name(name) for name in wanted]
    raw = RawCertificate.load(leaf.public_bytes(Encoding.DER))["tbs_certificate"]["serial_number"].contents
    assert leaf.serial_number == int.from_bytes(raw, signed=True) == serial > 0
    assert 8 <= len(raw) <= 20
    assert all(len(attribute.value) <= 64 for attribute in leaf.subject)
    assert bool(leaf.subject) is (len(wanted[0]) <= 64)


def test_serial_numbers_are_long() -> None:
    """A serial number that could be guessed is refused, even where it is the caller's mistake."""
    with pytest.raises(RefusedError, match="serial number is too short"):
        mint(["example.com"], serial=(1 << 63) - 1)


@pytest.mark.parametrize("identifier", [b"\x01", b"not the SHA-1 of the key", bytes(range(40))])
def test_authority_key_identifier_is_the_issuers_own(identifier: bytes) -> None:
    """A CA that numbers its key in its own way finds that very number in its leaves."""
    ca = foreign_ca(identifier=x509.SubjectKeyIdentifier(identifier))
    leaf = mint(["example.com"], by=Issuer([ca], NOW))
    assert extension(leaf, x509.AuthorityKeyIdentifier).value == x509.AuthorityKeyIdentifier(identifier, None, None)


def test_authority_key_identifier_without_an_issuers() -> None:
    """A CA without a key identifier gets the usual one in its leaves."""
    leaf = mint(["example.com"], by=Issuer([foreign_ca()], NOW))
    usual = x509.SubjectKeyIdentifier.from_public_key(private_key("p256").public_key()).digest
    assert extension(leaf, x509.AuthorityKeyIdentifier).value.key_identifier == usual


@pytest.mark.parametrize(
    "subject",
    [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA", _type=string)])
        for string in (_ASN1Type.PrintableString, _ASN1Type.UTF8String, _ASN1Type.BMPString, _ASN1Type.IA5String)
    ]
    + [
        x509.Name(
            [
                x509.RelativeDistinguishedName(
                    [
                        x509.NameAttribute(NameOID.COMMON_NAME, "Pr\u00fcfstelle"),
                        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "O+U"),
                    ]
                ),
                x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COUNTRY_NAME, "DE")]),
            ]
        )
    ],
    ids=["PrintableString", "UTF8String", "BMPString", "IA5String", "two attributes in one"],
)
def test_issuer_is_the_cas_subject_byte_for_byte(subject: x509.Name) -> None:
    """Clients that compare names as bytes (Go, webpki) find the CA, whatever string types its subject was made with."""
    ca = certified(subject, private_key("p256"), ca_extensions())
    leaf = mint(["example.com"], by=Issuer([ca], NOW))
    raw_ca, raw_leaf = (RawCertificate.load(one.public_bytes(Encoding.DER)) for one in (ca, leaf))
    assert raw_leaf.issuer.dump() == raw_ca.subject.dump()


@pytest.mark.parametrize(
    ("days", "starts", "ends", "not_before", "not_after"),
    [
        (30, NOW - 100 * DAY, NOW + 1000 * DAY, NOW - DAY, NOW + 30 * DAY),
        (45, NOW - 100 * DAY, NOW + 1000 * DAY, NOW - DAY, NOW + 45 * DAY),
        (1, NOW - 100 * DAY, NOW + 1000 * DAY, NOW - DAY, NOW + DAY),
        (30, NOW - DAY / 24, NOW + 1000 * DAY, NOW - DAY / 24, NOW + 30 * DAY),
        (30, NOW - 100 * DAY, NOW + 10 * DAY, NOW - DAY, NOW + 10 * DAY),
        (30, NOW - DAY / 24, NOW + DAY / 24, NOW - DAY / 24, NOW + DAY / 24),
    ],
    ids=["default", "longest", "shortest", "young CA", "old CA", "short-lived CA"],
)
def test_validity(
    days: int, starts: dt.datetime, ends: dt.datetime, not_before: dt.datetime, not_after: dt.datetime
) -> None:
    """A leaf is valid from a day ago for the configured days, never beyond its CA and never over 46 days in all."""
    by = Issuer([foreign_ca(starts=starts, ends=ends)], NOW)
    leaf = mint(["example.com"], by=by, profile=LeafProfile(days=days))
    assert leaf.not_valid_before_utc == not_before.replace(microsecond=0)
    assert leaf.not_valid_after_utc == not_after.replace(microsecond=0)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= MAX_VALIDITY


def test_validity_over_the_limit_is_refused() -> None:
    """A profile that would make a leaf of 47 days is refused by the last check, whatever let it through before."""
    with pytest.raises(RefusedError, match="validity is too long"):
        mint(["example.com"], profile=LeafProfile(days=(MAX_VALIDITY - BACKDATED).days + 1))


# --- what verifiers say -----------------------------------------------------------------------------------------------


CHAINS: list[Callable[[], list[x509.Certificate]]] = [
    lambda: [own_ca("rsa")],
    lambda: [own_ca("p256")],
    lambda: [own_ca("p384")],
    lambda: list(subordinate()),
    lambda: [
        foreign_ca(
            identifier=x509.SubjectKeyIdentifier(b"own way"),
            authority=x509.AuthorityKeyIdentifier(b"own way", None, None),
        )
    ],
]
VERIFIED = pytest.mark.parametrize(
    ("chain", "ca_key"),
    list(zip(CHAINS, ["rsa", "p256", "p384", "p256", "p256"], strict=True)),
    ids=["rsa", "p256", "p384", "subordinate", "own key identifier"],
)
WANTED = pytest.mark.parametrize(
    ("wanted", "visited"),
    [
        (["www.example.com"], "www.example.com"),
        (["example.com", "*.example.com"], "any.example.com"),
        ([LONG], LONG),
        (["192.0.2.1"], "192.0.2.1"),
        (["2001:db8::1", "example.com"], "2001:db8::1"),
    ],
    ids=["host", "wildcard", "empty subject", "IPv4", "IPv6"],
)


@VERIFIED
@WANTED
def test_openssl_accepts(
    chain: Callable[[], list[x509.Certificate]], ca_key: str, wanted: list[str], visited: str, tmp_path: Path
) -> None:
    """OpenSSL in its strict mode accepts the leaf for a name it carries, and for no other."""
    ca, *above = chain()
    leaf = mint(wanted, ca_key, by=Issuer([ca, *above], NOW), key=private_key("rsa", 1))
    for name, certificate in (("root", [ca, *above][-1]), ("ca", ca), ("leaf", leaf)):
        (tmp_path / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))

    def verify(host: str) -> subprocess.CompletedProcess[str]:
        kind = "-verify_hostname" if isinstance(names.general_name(host), x509.DNSName) else "-verify_ip"
        return subprocess.run(
            [
                "openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp())), "-purpose", "sslserver",
                "-CAfile", "root.pem", "-untrusted", "ca.pem", kind, host, "leaf.pem",
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    accepted = verify(visited)
    assert (accepted.stdout, accepted.stderr) == ("leaf.pem: OK\n", "")
    assert "mismatch" in verify("other.test").stderr


@VERIFIED
@WANTED
def test_cryptography_accepts(
    chain: Callable[[], list[x509.Certificate]], ca_key: str, wanted: list[str], visited: str
) -> None:
    """A verifier with the rules of the CA/Browser Forum accepts the leaf for a name it carries, and for no other."""
    ca, *above = chain()
    leaf = mint(wanted, ca_key, by=Issuer([ca, *above], NOW))
    policy = verification.PolicyBuilder().store(verification.Store([[ca, *above][-1]])).time(NOW)
    subject = names.general_name(visited)
    assert isinstance(subject, x509.DNSName | x509.IPAddress)
    path = policy.build_server_verifier(subject).verify(leaf, [ca])
    assert path == [leaf, ca, *above]
    with pytest.raises(verification.VerificationError):
        policy.build_server_verifier(x509.DNSName("other.test")).verify(leaf, [ca])
