"""Leaves and CAs, up to the bytes that a verifier accepts."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from asn1crypto.x509 import Certificate as RawCertificate
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID
from hypothesis import given
from hypothesis import strategies as st

from hsm import names
from hsm.certificates.ca import approve_ca
from hsm.certificates.issuer import Issuer
from hsm.certificates.leaf import SERIAL_BITS, Approved
from hsm.certificates.settings import BACKDATED, MAX_VALIDITY, LeafProfile
from hsm.errors import MisconfiguredError, RefusedError
from hsm.schemes import Scheme, certificate_scheme

NOW = dt.datetime(2026, 6, 1, 12, 30, 15, 999_999, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
SERIAL = 1 << (SERIAL_BITS - 1) | 0xABCDEF
PROFILE = LeafProfile()
DIGESTS = {
    "rsa": SignatureAlgorithmOID.RSA_WITH_SHA256,
    "p256": SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    "p384": SignatureAlgorithmOID.ECDSA_WITH_SHA384,
}
LONG = ".".join(["a" * 30, "b" * 30, "example"])  # 69 characters, more than a commonName holds

each_ca_key = pytest.mark.parametrize("ca_key", list(DIGESTS))


# --- what the tests make themselves: software keys, CAs of other people -----------------------------------------------


@cache
def private_key(kind: str, number: int = 0) -> Any:
    """A software key; another `number` is another key."""
    match kind:
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "rsa-1024":
            return rsa.generate_private_key(65537, 1024)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind])


def spki(key: Any, encoding: Encoding = Encoding.DER) -> bytes:
    """The public half as a worker sends it."""
    return bytes(key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo))


LEAF_KEY = private_key("p256", 1)


def sign(key: Any, scheme: Scheme, digest: bytes) -> bytes:
    """What a partition answers."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(digest, ec.ECDSA(Prehashed(scheme.hash)))
    return bytes(key.sign(digest, padding.PKCS1v15(), Prehashed(scheme.hash)))


def finished(approved: Approved, key: Any) -> x509.Certificate:
    """The template with its signature by `key`."""
    der = approved.certificate(sign(key, certificate_scheme(key.public_key()), approved.digest))
    return x509.load_der_x509_certificate(der)


@cache
def own_ca(kind: str, days: int = 3650) -> x509.Certificate:
    """A self-signed CA as `init` makes it."""
    key = private_key(kind)
    return finished(approve_ca(f"Test {kind}", key.public_key(), days, NOW, SERIAL), key)


@cache
def issuer(kind: str = "p256") -> Issuer:
    """The CA as the signer has it."""
    return Issuer([own_ca(kind)], NOW)


def key_usage(**bits: bool) -> x509.KeyUsage:
    """A keyUsage with these bits alone."""
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**(dict.fromkeys(every.split(), False) | bits))


def ca_extensions(**changes: x509.ExtensionType | None) -> list[tuple[x509.ExtensionType, bool]]:
    """A plain CA's extensions; `changes` replaces one (None: leaves it out)."""
    plain: dict[str, x509.ExtensionType | None] = {
        "constraints": x509.BasicConstraints(ca=True, path_length=None),
        "usage": key_usage(key_cert_sign=True, crl_sign=True),
    }
    critical = ("constraints", "usage")
    return [(one, name in critical) for name, one in (plain | changes).items() if one is not None]


def named(common_name: str) -> x509.Name:
    """A subject or issuer."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def certified(
    subject: x509.Name,
    key: Any,
    extensions: list[tuple[x509.ExtensionType, bool]],
    *,
    by: tuple[x509.Name, Any] | None = None,
    starts: dt.datetime = NOW - 100 * DAY,
    ends: dt.datetime = NOW + 1000 * DAY,
) -> x509.Certificate:
    """A certificate as another party's software makes it; self-signed without `by` (issuer's name and key)."""
    issuer_name, issuer_key = by or (subject, key)
    builder = x509.CertificateBuilder(issuer_name, subject, key.public_key(), SERIAL, starts, ends)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def foreign_ca(kind: str = "p256", **changes: Any) -> x509.Certificate:
    """A CA of the operator's own making."""
    times = {name: changes.pop(name) for name in ("starts", "ends") if name in changes}
    return certified(named("Foreign CA"), private_key(kind), ca_extensions(**changes), **times)


def mint(
    wanted: list[str],
    kind: str = "p256",
    *,
    by: Issuer | None = None,
    key: Any = LEAF_KEY,
    profile: LeafProfile = PROFILE,
    now: dt.datetime = NOW,
    serial: int = SERIAL,
) -> x509.Certificate:
    """A leaf, signed."""
    return finished((by or issuer(kind)).approve(wanted, spki(key), profile, now, serial), private_key(kind))


def extension[Value: x509.ExtensionType](certificate: x509.Certificate, kind: type[Value]) -> x509.Extension[Value]:
    """The extension of this kind."""
    return certificate.extensions.get_extension_for_class(kind)


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


@each_ca_key
def test_a_template_becomes_one_certificate(ca_key: str) -> None:
    """The certificate holds the approved bytes and the signature unchanged; a second one cannot be made of it."""
    approved = issuer(ca_key).approve(["example.com"], spki(LEAF_KEY), PROFILE, NOW, SERIAL)
    scheme = issuer(ca_key).scheme
    assert approved.digest == scheme.digest(approved.tbs)
    signature = sign(private_key(ca_key), scheme, approved.digest)
    leaf = x509.load_der_x509_certificate(approved.certificate(signature))
    assert leaf.tbs_certificate_bytes == approved.tbs
    assert leaf.signature == signature
    assert leaf.serial_number == approved.serial == SERIAL
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (approved.not_before, approved.not_after)
    raw = RawCertificate.load(leaf.public_bytes(Encoding.DER))
    assert raw["signature_algorithm"].dump() == raw["tbs_certificate"]["signature"].dump()
    with pytest.raises(RefusedError, match="a certificate already"):
        approved.certificate(signature)


# --- what verifiers say -----------------------------------------------------------------------------------------------


def subordinate(kind: str = "p256") -> tuple[x509.Certificate, x509.Certificate]:
    """A CA under another party's root: (CA, root)."""
    root_key, key = private_key("p384", 7), private_key(kind)
    root_identifier = x509.SubjectKeyIdentifier(b"root")
    by_root = x509.AuthorityKeyIdentifier(b"root", None, None)
    root = certified(named("Root"), root_key, ca_extensions(identifier=root_identifier, authority=by_root))
    below = ca_extensions(
        constraints=x509.BasicConstraints(ca=True, path_length=0),
        identifier=x509.SubjectKeyIdentifier(b"below"),
        authority=by_root,
    )
    return certified(named("Below"), key, below, by=(root.subject, root_key)), root


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


# --- CAs that are refused ---------------------------------------------------------------------------------------------


def swapped() -> list[x509.Certificate]:
    """A right chain in the wrong order."""
    ca, root = subordinate()
    return [root, ca]


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (list, "holds no certificate"),
        (lambda: [foreign_ca(constraints=None)], "not a CA certificate"),
        (lambda: [foreign_ca(constraints=x509.BasicConstraints(ca=False, path_length=None))], "not a CA certificate"),
        (lambda: [mint(["example.com"])], "not a CA certificate"),
        (lambda: [foreign_ca(usage=key_usage(digital_signature=True, crl_sign=True))], "lacks keyCertSign"),
        (lambda: [foreign_ca(ends=NOW - DAY)], "expired on 2026-05-31; renew the CA"),
        (lambda: [foreign_ca(starts=NOW + DAY / 24)], "valid from 2026-06-01 13:30 UTC on; check the clock"),
        (swapped, "put the CA first"),
        (lambda: [own_ca("p256"), own_ca("rsa")], "'CN=Test p256' is not issued by .* 'CN=Test rsa'"),
        (lambda: [subordinate()[0], certified(named("Root"), private_key("p384", 8), ca_extensions())], "not issued"),
        (lambda: [foreign_ca("p521")], "secp521r1; use P-256 or P-384"),
        (lambda: [foreign_ca("rsa-1024")], "1024 bits; use 2048 to 4096"),
        (lambda: [foreign_ca("ed25519")], "RSA and EC keys are used"),
    ],
    ids=[
        "empty", "no basicConstraints", "CA false", "leaf", "no keyCertSign", "expired", "not yet valid", "order",
        "stranger", "other key", "p521", "rsa-1024", "ed25519",
    ],
)  # fmt: skip
def test_refuses_ca(chain: Callable[[], list[x509.Certificate]], why: str) -> None:
    """A certificate that cannot be the CA stops the start with what is wrong."""
    with pytest.raises(MisconfiguredError, match=why):
        Issuer(chain(), NOW)


def test_refuses_a_ca_whose_key_is_for_pss_alone(tmp_path: Path) -> None:
    """A CA certificate with an id-RSASSA-PSS key is refused at the start: clients would reject its PKCS#1 leaves."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes",
            "-keyout", "key.pem", "-out", "ca.pem", "-subj", "/CN=PSS", "-addext", "keyUsage=critical,keyCertSign",
        ],
        cwd=tmp_path, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    with pytest.raises(MisconfiguredError, match="PSS"):
        Issuer([ca], ca.not_valid_before_utc)


def test_accepts_a_ca_without_key_usage() -> None:
    """A CA made before keyUsage was usual still signs."""
    ca = foreign_ca(usage=None)
    mint(["example.com"], by=Issuer([ca], NOW)).verify_directly_issued_by(ca)


@pytest.mark.parametrize("edge", ["not_valid_before_utc", "not_valid_after_utc"])
def test_a_ca_is_valid_in_its_first_and_last_second(edge: str) -> None:
    """Both ends of a validity belong to it (RFC 5280 section 4.1.2.5)."""
    ca = own_ca("p256")
    assert Issuer([ca], getattr(ca, edge)).certificate is ca


@pytest.mark.parametrize(
    ("later", "why"),
    [
        (31 * DAY, "'CN=Test p256' expired on 2026-07-01; renew the CA"),
        (-2 * DAY, "check the clock"),
    ],
    ids=["expired", "not yet valid"],
)
def test_a_ca_that_is_not_valid_at_mint_time_signs_nothing(later: dt.timedelta, why: str) -> None:
    """A CA that expires while the signer runs refuses each request from that moment on."""
    by = Issuer([own_ca("p256", 30)], NOW)
    mint(["example.com"], by=by)
    with pytest.raises(RefusedError, match=why):
        mint(["example.com"], by=by, now=NOW + later)


# --- leaves that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ([], "a leaf for 0 names; 1 to 100"),
        ([f"h{number}.example" for number in range(101)], "a leaf for 101 names; 1 to 100"),
        (["example.com", "example.com"], "a name stands twice"),
        (["example.com", "EXAMPLE.com."], "a name stands twice"),
        (["2001:db8::1", "2001:db8:0::1"], "a name stands twice"),
        (["example.com", "bad name.example"], "the label 'bad name'"),
        (["b\u00fccher.example"], "no part of a host name"),
        (["*.com"], "at least two labels"),
        (["*"], "at least two labels"),
        ([""], "0 characters"),
        (["fe80::1%eth0"], "scope"),
    ],
    ids=["none", "101", "twice", "twice in two spellings", "address twice", "space", "not ASCII", "*.com", "*", "empty",
         "scope"],
)  # fmt: skip
def test_refuses_names(wanted: list[str], why: str) -> None:
    """A request for names that no leaf may carry is refused, with the name that is wrong."""
    with pytest.raises(RefusedError, match=why):
        issuer().approve(wanted, spki(LEAF_KEY), PROFILE, NOW, SERIAL)


def test_accepts_a_hundred_names() -> None:
    """The limit itself is possible."""
    assert len(extension(mint([f"h{one}.example" for one in range(100)]), x509.SubjectAlternativeName).value) == 100


def compressed(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half with a compressed point: the same key, other bytes."""
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point


def rsa_spki(bits: int) -> bytes:
    """A public key with a modulus of this length; nobody has its private half."""
    public = rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) | 1).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_accepts_rsa_leaf_keys(bits: int) -> None:
    """The RSA keys that workers make are taken."""
    assert issuer().approve(["example.com"], rsa_spki(bits), PROFILE, NOW, SERIAL).serial == SERIAL


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (lambda: spki(private_key("p256")), "the CA's own key"),
        (lambda: spki(private_key("ed25519")), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: spki(private_key("p384")), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: spki(private_key("rsa-1024")), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: rsa_spki(2047), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: rsa_spki(4097), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: compressed(LEAF_KEY), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: compressed(private_key("p256")), "P-256 or RSA with 2048 to 4096 bits"),
        (lambda: spki(LEAF_KEY) + b"\0", "not a SubjectPublicKeyInfo"),
        (lambda: spki(LEAF_KEY)[:-1], "not a SubjectPublicKeyInfo"),
        (lambda: spki(LEAF_KEY)[:-1] + bytes([spki(LEAF_KEY)[-1] ^ 1]), "not a SubjectPublicKeyInfo"),
        (lambda: spki(LEAF_KEY, Encoding.PEM), "not a SubjectPublicKeyInfo"),
        (lambda: b"", "not a SubjectPublicKeyInfo"),
        (lambda: b"garbage", "not a SubjectPublicKeyInfo"),
    ],
    ids=["the CA's own", "ed25519", "p384", "rsa-1024", "rsa-2047", "rsa-4097", "compressed", "the CA's own compressed",
         "a byte more", "a byte less", "not on the curve", "PEM", "empty", "garbage"],
)  # fmt: skip
def test_refuses_leaf_key(key: Callable[[], bytes], why: str) -> None:
    """A leaf for a key that clients would not take, or that is the CA's own, is refused."""
    with pytest.raises(RefusedError, match=why):
        issuer().approve(["example.com"], key(), PROFILE, NOW, SERIAL)


@given(st.binary(max_size=300))
def test_any_bytes_for_a_leaf_key_are_refused(raw: bytes) -> None:
    """Whatever a worker sends in place of a key is a refused request, not a crash of the signer."""
    with pytest.raises(RefusedError, match="not a SubjectPublicKeyInfo"):
        issuer().approve(["example.com"], raw, PROFILE, NOW, SERIAL)


# --- the last look at the draft ---------------------------------------------------------------------------------------


def altered(draft: x509.Certificate, *replaced: tuple[x509.ExtensionType, bool], **fields: Any) -> x509.Certificate:
    """`draft` with other fields; an extension in `replaced` takes the place of its kind, or is added."""
    kinds = {type(one): (one, critical) for one, critical in replaced}
    left_out = fields.pop("without", None)
    plain = {
        "issuer_name": draft.issuer,
        "subject_name": draft.subject,
        "public_key": draft.public_key(),
        "serial_number": draft.serial_number,
        "not_valid_before": draft.not_valid_before_utc,
        "not_valid_after": draft.not_valid_after_utc,
    }
    builder = x509.CertificateBuilder(**(plain | fields))
    kept = {type(one.value): (one.value, one.critical) for one in draft.extensions if type(one.value) is not left_out}
    for one, critical in (kept | kinds).values():
        builder = builder.add_extension(one, critical)
    return builder.sign(private_key("p256"), hashes.SHA256())


def alternative(*wanted: str) -> x509.SubjectAlternativeName:
    """These names as a leaf carries them."""
    return x509.SubjectAlternativeName([names.general_name(name) for name in wanted])


Bug = Callable[[x509.Certificate], x509.Certificate]
BUGS: dict[str, tuple[Bug, str]] = {
    "CA": (lambda d: altered(d, (x509.BasicConstraints(ca=True, path_length=None), True)), "it would be a CA"),
    "keyCertSign": (lambda d: altered(d, (key_usage(key_cert_sign=True), True)), "it would be a CA"),
    "cRLSign": (lambda d: altered(d, (key_usage(crl_sign=True), True)), "it would be a CA"),
    "clientAuth beside": (
        lambda d: altered(
            d, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        ),
        "not serverAuth alone",
    ),
    "codeSigning": (
        lambda d: altered(d, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)),
        "not serverAuth alone",
    ),
    "any purpose": (
        lambda d: altered(d, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False)),
        "not serverAuth alone",
    ),
    "other names": (lambda d: altered(d, (alternative("other.example"), False)), "its names differ"),
    "a name more": (lambda d: altered(d, (alternative("example.com", "other.example"), False)), "its names differ"),
    "an e-mail address": (
        lambda d: altered(d, (x509.SubjectAlternativeName([x509.RFC822Name("example.com")]), False)),
        "its names differ",
    ),
    "names not critical": (lambda d: altered(d, subject_name=x509.Name([])), "not critical beside an empty subject"),
    "other common name": (
        lambda d: altered(d, subject_name=named("other.example")),
        "not a leaf: .*(subject|common name)",
    ),
    "other issuer": (lambda d: altered(d, issuer_name=named("Other CA")), "its issuer differs"),
    "other authority key": (
        lambda d: altered(d, (x509.AuthorityKeyIdentifier(b"other", None, None), False)),
        "authorityKeyIdentifier differs",
    ),
    "other key": (lambda d: altered(d, public_key=private_key("p256", 2).public_key()), "not a leaf: .*key"),
    "the CA's key": (lambda d: altered(d, public_key=private_key("p256").public_key()), "not a leaf: .*key"),
    "outlives its CA": (lambda d: altered(d, not_valid_after=NOW + 3651 * DAY), "it outlives its CA"),
    "too long": (lambda d: altered(d, not_valid_after=NOW + 46 * DAY), "its validity is too long"),
    "too long ago": (lambda d: altered(d, not_valid_before=NOW - 90 * DAY), "its validity is too long"),
    "never valid": (lambda d: altered(d, not_valid_after=d.not_valid_before_utc), "it would not be valid yet"),
    "short serial": (lambda d: altered(d, serial_number=1), "its serial number is too short"),
    "an extension more": (lambda d: altered(d, (x509.OCSPNoCheck(), False)), "not a leaf: .*extensions"),
    **{
        f"without {kind.__name__}": (partial(altered, without=kind), "not a leaf")
        for kind in (
            x509.BasicConstraints,
            x509.KeyUsage,
            x509.ExtendedKeyUsage,
            x509.SubjectAlternativeName,
            x509.SubjectKeyIdentifier,
            x509.AuthorityKeyIdentifier,
        )
    },
}


@pytest.mark.parametrize(("bug", "why"), BUGS.values(), ids=list(BUGS))
def test_a_bug_in_the_draft_is_refused(bug: Bug, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the building of leaves wrong in any one respect, the look at the finished bytes would still refuse it."""
    by, draft = issuer(), Issuer._draft
    monkeypatch.setattr(Issuer, "_draft", lambda *given: bug(draft(*given)))
    with pytest.raises(RefusedError, match=why):
        by.approve(["example.com"], spki(LEAF_KEY), PROFILE, NOW, SERIAL)


def test_an_unaltered_draft_passes_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look refuses the alteration and not the way in which the test before this one makes it."""
    by, draft = issuer(), Issuer._draft
    monkeypatch.setattr(Issuer, "_draft", lambda *given: altered(draft(*given)))
    assert by.approve(["example.com"], spki(LEAF_KEY), PROFILE, NOW, SERIAL).serial == SERIAL


# --- a CA of our own --------------------------------------------------------------------------------------------------


@each_ca_key
def test_own_ca(ca_key: str) -> None:
    """The CA that `init` makes signs leaves and nothing else, for as long as was asked."""
    ca = own_ca(ca_key)
    ca.verify_directly_issued_by(ca)
    assert ca.signature_algorithm_oid == DIGESTS[ca_key]
    assert ca.subject == ca.issuer == named(f"Test {ca_key}")
    assert extension(ca, x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    assert extension(ca, x509.BasicConstraints).critical
    assert extension(ca, x509.KeyUsage).value == key_usage(key_cert_sign=True, crl_sign=True)
    assert extension(ca, x509.KeyUsage).critical
    identifier = extension(ca, x509.SubjectKeyIdentifier).value.digest
    assert extension(ca, x509.AuthorityKeyIdentifier).value.key_identifier == identifier
    assert ca.not_valid_before_utc == (NOW - BACKDATED).replace(microsecond=0)
    assert ca.not_valid_after_utc == (NOW + 3650 * DAY).replace(microsecond=0)
    assert ca.serial_number == SERIAL


@pytest.mark.parametrize(("kind", "why"), [("p521", "use P-256 or P-384"), ("rsa-1024", "use 2048 to 4096")])
def test_own_ca_refuses_a_key(kind: str, why: str) -> None:
    """`init` does not make a CA that the signer would refuse."""
    with pytest.raises(MisconfiguredError, match=why):
        approve_ca("Test", private_key(kind).public_key(), 3650, NOW, SERIAL)


def test_the_limits_agree() -> None:
    """Back-dating and the longest profile fill the limit, which is under the 47 days that browsers announced."""
    assert BACKDATED + LeafProfile(days=45).ahead == MAX_VALIDITY < 47 * DAY
