"""The public half of a key, in whatever form a token keeps it: numbers, a point, a SubjectPublicKeyInfo, a certificate.
No I/O. What makes no sense is none.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from asn1crypto.core import OctetString
from asn1crypto.keys import ECDomainParameters
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from msgspec import Struct
from pkcs11 import Attribute, KeyType

from hsm.schemes import PublicKey
from hsm.token.attributes import PUBLIC_KEY_INFO

TELLING = (
    Attribute.KEY_TYPE, Attribute.LABEL, Attribute.ID, Attribute.MODULUS, Attribute.PUBLIC_EXPONENT,
    Attribute.EC_PARAMS, Attribute.EC_POINT, PUBLIC_KEY_INFO,
)  # fmt: skip
"""The attributes that say which key an object is."""
_CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())


class Half(Struct, frozen=True):
    """A public half that may be a private key's. `exact` is whether its object has the same label and CKA_ID."""

    public: PublicKey
    exact: bool


def curve_name(parameters: bytes) -> str:
    """The curve of CKA_EC_PARAMS, as cryptography calls the three of NIST's, others by their name or number; empty
    where it cannot be told. By name (PKCS#11 v3.0 section 2.3.3), or by the curve's numbers, as older tokens do."""
    try:
        found = ECDomainParameters.load(parameters)
        if found.name == "named":
            return str(found.chosen.native)
        if found.name == "specified":
            order = found.chosen["order"].native
            return next((one.name for one in _CURVES if one.group_order == order), "")
    except (ValueError, TypeError, KeyError):
        pass
    return _printed(parameters)


def _printed(parameters: bytes) -> str:
    """A PrintableString, as PKCS#11 v3.0 allows; "edwards25519" is one."""
    if len(parameters) > 2 and parameters[0] == 0x13 and parameters[1] == len(parameters) - 2:
        return parameters[2:].decode("ascii", errors="replace")
    return ""


def curve_of(parameters: bytes) -> ec.EllipticCurve | None:
    """The curve of CKA_EC_PARAMS, None for one that no scheme of ours is on."""
    name = curve_name(parameters)
    return next((one for one in _CURVES if one.name == name), None)


def at_point(curve: ec.EllipticCurve, point: bytes) -> ec.EllipticCurvePublicKey | None:
    """The key of CKA_EC_POINT: an OCTET STRING around the point by the standard; some tokens give the bare point."""
    size = (curve.key_size + 7) // 8
    forms = [point]
    with suppress(ValueError, TypeError):
        forms.insert(0, OctetString.load(point, strict=True).native)
    if len(point) == 2 * size:
        forms.append(b"\4" + point)
    for form in forms:
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(curve, form)
        except ValueError:
            continue
    return None


def points_of(public: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    """CKA_EC_POINT of a key: the standard's form, and that of some tokens."""
    bare = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return OctetString(bare).dump(), bare


def in_attributes(told: dict[int, Any]) -> PublicKey | None:
    """The public half that an object's attributes hold, a public or a private key's."""
    try:
        if told.get(Attribute.MODULUS) and told.get(Attribute.PUBLIC_EXPONENT):
            exponent, modulus = told[Attribute.PUBLIC_EXPONENT], told[Attribute.MODULUS]
            return rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()
        if told.get(PUBLIC_KEY_INFO) and (public := _of_a_kind(load_der_public_key(told[PUBLIC_KEY_INFO]))):
            return public
    except Exception:  # noqa: BLE001  # cryptography raises several kinds for several kinds of garbage
        return None
    if told.get(Attribute.EC_POINT) and (curve := curve_of(told.get(Attribute.EC_PARAMS, b""))):
        return at_point(curve, told[Attribute.EC_POINT])
    return None


def with_usual_exponent(modulus: bytes) -> rsa.RSAPublicKey:
    """The RSA key of CKA_MODULUS where no exponent is told: nearly all have this one."""
    return rsa.RSAPublicNumbers(65537, int.from_bytes(modulus)).public_key()


def public_of(spki: bytes) -> PublicKey:
    """The public half of a DER SubjectPublicKeyInfo (RFC 5280). Raises ValueError."""
    public = _of_a_kind(load_der_public_key(spki))
    if public is None:
        raise ValueError("RSA and EC keys are used")
    return public


def in_certificate(der: bytes) -> PublicKey | None:
    """The public half in a certificate object's CKA_VALUE."""
    try:
        return _of_a_kind(x509.load_der_x509_certificate(der).public_key())
    except Exception:  # noqa: BLE001  # as above
        return None


def _of_a_kind(public: object) -> PublicKey | None:
    return public if isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) else None


def spki_of(public: PublicKey) -> bytes:
    """DER SubjectPublicKeyInfo (RFC 5280)."""
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def same(one: PublicKey, other: PublicKey) -> bool:
    """Whether two public halves are one."""
    return spki_of(one) == spki_of(other)


def kind_of(public: PublicKey) -> KeyType:
    """CKA_KEY_TYPE of a key with this public half."""
    return KeyType.RSA if isinstance(public, rsa.RSAPublicKey) else KeyType.EC


def could_be(told: dict[int, Any], public: PublicKey) -> bool:
    """Whether a private key with these attributes may have this public half: kind, curve, modulus. What is not told may
    be anything."""
    kind = told.get(Attribute.KEY_TYPE)
    if kind is not None and kind != kind_of(public):
        return False
    if isinstance(public, rsa.RSAPublicKey):
        modulus = told.get(Attribute.MODULUS)
        return not modulus or int.from_bytes(modulus) == public.public_numbers().n
    curve = curve_name(told.get(Attribute.EC_PARAMS) or b"")
    return curve in ("", public.curve.name)
