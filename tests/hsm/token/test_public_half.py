"""Public halves in the forms that tokens keep them in."""

from __future__ import annotations

import datetime as dt

import pytest
from asn1crypto.core import OctetString
from asn1crypto.keys import ECDomainParameters, SpecifiedECDomain
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType
from pkcs11.util.ec import encode_named_curve_parameters

from hsm.token.attributes import PUBLIC_KEY_INFO
from hsm.token.public_half import (
    at_point,
    could_be,
    curve_name,
    in_attributes,
    in_certificate,
    public_of,
    spki_of,
    with_usual_exponent,
)

P256 = ec.derive_private_key(4711, ec.SECP256R1()).public_key()
RSA_PRIVATE = rsa.generate_private_key(65537, 2048)
RSA = RSA_PRIVATE.public_key()
NAMED = encode_named_curve_parameters("secp256r1")
BARE = P256.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
COMPRESSED = P256.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
MODULUS = RSA.public_numbers().n.to_bytes(256)


def explicit() -> bytes:
    """P-256 by its numbers, as older tokens give it (SEC 1 appendix C.2)."""
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    domain = SpecifiedECDomain(
        {
            "version": "ecdpVer1",
            "field_id": {"field_type": "prime_field", "parameters": prime},
            "curve": {"a": (prime - 3).to_bytes(32), "b": bytes(32)},
            "base": BARE,
            "order": ec.SECP256R1().group_order,
        }
    )
    return bytes(ECDomainParameters(name="specified", value=domain).dump())


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (NAMED, "secp256r1"),
        (encode_named_curve_parameters("secp521r1"), "secp521r1"),
        (explicit(), "secp256r1"),
        (encode_named_curve_parameters("1.3.101.112"), "1.3.101.112"),
        (b"\x13\x0cedwards25519", "edwards25519"),
        (b"", ""),
        (b"\x05\x00", ""),
        (b"\x13\xffshort", ""),
        (b"garbage", ""),
    ],
)
def test_the_curve_is_told_by_name_or_by_numbers(parameters: bytes, name: str) -> None:
    """CKA_EC_PARAMS in each form, and what makes no sense is no curve."""
    assert curve_name(parameters) == name


@pytest.mark.parametrize(
    "point",
    [OctetString(BARE).dump(), BARE, BARE[1:], COMPRESSED, OctetString(COMPRESSED).dump()],
    ids=["wrapped", "bare", "without its prefix", "compressed", "compressed and wrapped"],
)
def test_a_point_is_read_in_each_form(point: bytes) -> None:
    """CKA_EC_POINT as the standard has it, and as some tokens do."""
    found = at_point(ec.SECP256R1(), point)
    assert found is not None
    assert spki_of(found) == spki_of(P256)


@pytest.mark.parametrize("point", [b"", b"\x04", bytes(65), bytes(64), BARE[:-1] + bytes([BARE[-1] ^ 1]), b"\x04\x82"])
def test_a_point_that_makes_no_sense_is_none(point: bytes) -> None:
    """Not on the curve, or no point at all."""
    assert at_point(ec.SECP256R1(), point) is None


def test_an_object_tells_its_public_half() -> None:
    """Numbers, a point, or a SubjectPublicKeyInfo; nothing where one part is missing or makes no sense."""
    told = {Attribute.MODULUS: MODULUS, Attribute.PUBLIC_EXPONENT: b"\1\0\1"}
    assert spki_of(in_attributes(told)) == spki_of(RSA)  # type: ignore[arg-type]  # None would fail, too
    for public in (RSA, P256):
        assert spki_of(in_attributes({PUBLIC_KEY_INFO: spki_of(public)})) == spki_of(public)  # type: ignore[arg-type]
    assert spki_of(in_attributes({Attribute.EC_PARAMS: NAMED, Attribute.EC_POINT: BARE})) == spki_of(P256)  # type: ignore[arg-type]
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    info = edwards.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for nothing in (
        {},
        {Attribute.MODULUS: MODULUS},
        {Attribute.MODULUS: MODULUS, Attribute.PUBLIC_EXPONENT: b"\2"},
        {Attribute.EC_POINT: BARE},
        {PUBLIC_KEY_INFO: b""},
        {PUBLIC_KEY_INFO: b"garbage"},
        {PUBLIC_KEY_INFO: info},
    ):
        assert in_attributes(nothing) is None
    with pytest.raises(ValueError, match="RSA and EC keys are used"):
        public_of(info)


def test_a_certificate_tells_the_public_half() -> None:
    """A certificate object beside a key is as good as a public key object; garbage is none."""
    name, now = x509.Name([]), dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(P256).serial_number(1)
        .not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
        .sign(RSA_PRIVATE, hashes.SHA256())
    )  # fmt: skip
    found = in_certificate(certificate.public_bytes(Encoding.DER))
    assert found is not None
    assert spki_of(found) == spki_of(P256)
    assert in_certificate(b"") is None
    assert in_certificate(b"garbage") is None


def test_what_is_not_told_may_be_anything() -> None:
    """Kind, curve and modulus exclude a key where they are told and differ, and only there."""
    assert could_be({}, P256)
    assert could_be({Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: NAMED}, P256)
    assert could_be({Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: explicit()}, P256)
    assert could_be({Attribute.KEY_TYPE: KeyType.EC}, P256)
    assert not could_be({Attribute.KEY_TYPE: KeyType.EC_EDWARDS}, P256)
    assert not could_be({Attribute.EC_PARAMS: encode_named_curve_parameters("secp384r1")}, P256)
    assert could_be({Attribute.KEY_TYPE: KeyType.RSA}, RSA)
    assert could_be({Attribute.KEY_TYPE: KeyType.RSA, Attribute.MODULUS: b"\0" + MODULUS}, RSA)
    assert not could_be(
        {Attribute.KEY_TYPE: KeyType.RSA, Attribute.MODULUS: MODULUS[:-1] + bytes([MODULUS[-1] ^ 2])}, RSA
    )
    assert not could_be({Attribute.KEY_TYPE: 0x80000001}, RSA)
    assert spki_of(with_usual_exponent(MODULUS)) == spki_of(RSA)
