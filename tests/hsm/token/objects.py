"""Keys that somebody else put on a partition: with labels, ids and public halves as they like."""

from __future__ import annotations

import datetime as dt
import os
import sys

import msgspec
import pkcs11
from asn1crypto.core import OctetString
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from pkcs11 import Attribute, CertificateType, KeyType, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters

from hsm.certificates.ca import approve_ca
from hsm.token.module import Module
from hsm.wire.member import Selector
from tests.hsm.certificates.software import finished
from tests.hsm.token.children import run_child
from tests.softhsm import MODULE, PIN, Store

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Made(msgspec.Struct):
    """A key to put on a partition: its private half (PKCS #8), and what the partition keeps of it.

    `public` is 'wrapped' for an EC point as the standard has it, 'bare' as some tokens keep it, 'broken' where what is
    kept is no public half at all, 'certificate' or 'none'; with 'only' the private half is left out. Without a private
    half it is a DSA key, whose numbers mean nothing.
    """

    private: bytes
    label: str
    identifier: bytes
    public: str


def put(session: pkcs11.Session, one: Made) -> None:
    """Put the key on the session's partition."""
    key = load_der_private_key(one.private, None) if one.private else None
    if key is None:
        public = private = {Attribute.KEY_TYPE: KeyType.DSA} | dict.fromkeys(DSA_NUMBERS, b"\3")
    else:
        public, private = (
            _rsa_halves(key, one.public) if isinstance(key, rsa.RSAPrivateKey) else _ec_halves(key, one.public)
        )
    named = {Attribute.TOKEN: True, Attribute.LABEL: one.label, Attribute.ID: one.identifier}
    hidden = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.SIGN: True}
    if one.public == "certificate":
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        der = finished(approve_ca("Beside", key.public_key(), 9, dt.datetime.now(dt.UTC), 7), key)
        kept = {Attribute.CERTIFICATE_TYPE: CertificateType.X_509, Attribute.VALUE: der.public_bytes(Encoding.DER)}
        kept |= {Attribute.SUBJECT: der.subject.public_bytes()}
        session.create_object({Attribute.CLASS: ObjectClass.CERTIFICATE} | named | kept)
    elif one.public != "none":
        session.create_object({Attribute.CLASS: ObjectClass.PUBLIC_KEY} | named | public)
    if one.public != "only":
        session.create_object({Attribute.CLASS: ObjectClass.PRIVATE_KEY} | named | hidden | private)


Half = dict[Attribute, object]
DSA_NUMBERS = (Attribute.PRIME, Attribute.SUBPRIME, Attribute.BASE, Attribute.VALUE)


def _rsa_halves(key: rsa.RSAPrivateKey, form: str) -> tuple[Half, Half]:
    numbers = key.private_numbers()
    exponent = 2 if form == "broken" else numbers.public_numbers.e
    public = {Attribute.MODULUS: numbers.public_numbers.n, Attribute.PUBLIC_EXPONENT: exponent}
    private = public | {
        Attribute.PRIVATE_EXPONENT: numbers.d,
        Attribute.PRIME_1: numbers.p,
        Attribute.PRIME_2: numbers.q,
        Attribute.EXPONENT_1: numbers.dmp1,
        Attribute.EXPONENT_2: numbers.dmq1,
        Attribute.COEFFICIENT: numbers.iqmp,
    }
    kind: Half = {Attribute.KEY_TYPE: KeyType.RSA}
    return kind | _packed(public), kind | _packed(private)


def _packed(numbers: dict[Attribute, int]) -> Half:
    return {name: number.to_bytes((number.bit_length() + 7) // 8) for name, number in numbers.items()}


def _ec_halves(key: ec.EllipticCurvePrivateKey, form: str) -> tuple[Half, Half]:
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    value = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8)
    both: Half = {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: encode_named_curve_parameters(key.curve.name)}
    if form == "broken":
        point = point[:-1] + bytes([point[-1] ^ 1])  # not on the curve
    public = {Attribute.EC_POINT: point if form == "bare" else OctetString(point).dump()}
    return both | public, both | {Attribute.VALUE: value}


def made(key: Private, label: str, identifier: bytes = b"\1", public: str = "wrapped") -> Made:
    """`key` under this label and CKA_ID."""
    return Made(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), label, identifier, public)


def spki_of(key: Private) -> bytes:
    """The public half (DER)."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def put_keys(store: Store, keys: list[Made]) -> None:
    """Put these keys on the store's partition, beside what is there."""
    child = run_child(put_all, store, store.label, given=msgspec.json.encode(keys).decode())
    assert child.returncode == 0, child.stderr


def put_all(label: str) -> None:
    """In a child: put a list of `Made`."""
    anchor = Module(MODULE).token(Selector(label=label)).log_in(PIN, writable=True)._session
    for one in msgspec.json.decode(sys.stdin.read(), type=list[Made]):
        put(anchor, one)
    os._exit(0)
