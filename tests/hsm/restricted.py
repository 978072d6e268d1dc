"""Keys that a partition lets sign with some mechanisms alone (CKA_ALLOWED_MECHANISMS, PKCS#11 v3.0 section 4.8).

SoftHSM honours the attribute and goes on listing every mechanism: what a FIPS policy or a cloud's HSM does, too.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Collection

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from hsm.schemes import SCHEMES, PublicKey
from hsm.wire.member import KeyFound
from tests.softhsm import MODULE, PIN, Store

RSA_PKCS, RSA_PSS, ECDSA = 0x1, 0xD, 0x1041
SHA256_RSA_PKCS, SHA256_RSA_PSS = 0x40, 0x43
"""Numbers of mechanisms, as the attribute has them."""
PKCS1 = [name for name in SCHEMES if name.startswith("rsa_pkcs1")]
PSS = [name for name in SCHEMES if name.startswith("rsa_pss")]

_IMPORT = """
import struct, sys
import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.attributes import AttributeMapper
from pkcs11.util.ec import encode_named_curve_parameters
from cryptography.hazmat.primitives.serialization import load_pem_private_key, Encoding, PublicFormat
from asn1crypto.core import OctetString
module, token, pin, label, allowed = sys.argv[1:]
key = load_pem_private_key(sys.stdin.buffer.read(), None)
pack = lambda values: struct.pack(f"{len(values)}L", *values)
mapper = AttributeMapper()
mapper.register_handler(Attribute.ALLOWED_MECHANISMS, pack, bytes)
session = pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin, attribute_mapper=mapper)
number = lambda value: value.to_bytes((value.bit_length() + 7) // 8)
private = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.SIGN: True, Attribute.SENSITIVE: True,
           Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}
if allowed:
    private[Attribute.ALLOWED_MECHANISMS] = [int(one) for one in allowed.split(",")]
public = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.VERIFY: True}
numbers = key.private_numbers()
if hasattr(numbers, "p"):
    both = {Attribute.KEY_TYPE: KeyType.RSA, Attribute.MODULUS: number(numbers.public_numbers.n),
            Attribute.PUBLIC_EXPONENT: number(numbers.public_numbers.e)}
    private |= {Attribute.PRIVATE_EXPONENT: number(numbers.d), Attribute.PRIME_1: number(numbers.p),
                Attribute.PRIME_2: number(numbers.q), Attribute.EXPONENT_1: number(numbers.dmp1),
                Attribute.EXPONENT_2: number(numbers.dmq1), Attribute.COEFFICIENT: number(numbers.iqmp)}
else:
    both = {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: encode_named_curve_parameters(key.curve.name)}
    private[Attribute.VALUE] = number(numbers.private_value)
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    public[Attribute.EC_POINT] = OctetString(point).dump()
names = {Attribute.TOKEN: True, Attribute.LABEL: label, Attribute.ID: label.encode()}
for half in (private, public):
    session.create_object(half | both | names)
"""


@functools.cache
def private_key(kind: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """One "rsa" and one "p256" key for the whole run."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


def place_key(
    environment: dict[str, str], token: str, pin: str, label: str, kind: str, allowed: Collection[int] = ()
) -> PublicKey:
    """Put `private_key(kind)` on a partition, allowed to use these mechanisms, or all. Its public half."""
    private = private_key(kind)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    words = [MODULE, token, pin, label, ",".join(map(str, allowed))]
    ran = subprocess.run(
        [sys.executable, "-P", "-c", _IMPORT, *words],
        env=os.environ | environment, input=pem, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode()
    return private.public_key()


def put_key(store: Store, label: str, kind: str, allowed: Collection[int] = ()) -> PublicKey:
    """`place_key` on the partition of `store`, which then knows it."""
    public = place_key(store.environment, store.label, PIN, label, kind, allowed)
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    schemes = [one.name for one in SCHEMES.values() if one.fits(public)]
    store.keys[label] = KeyFound(spki=spki, schemes=schemes, guarded=False)
    return public
