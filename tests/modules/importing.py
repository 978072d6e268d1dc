"""Put an RSA key from a file onto a token: `python -m tests.modules.importing MODULE TOKEN PIN FILE LABEL ID(hex)`.

A process of its own, in the environment that the module wants: no test loads a vendor's library.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pkcs11
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pkcs11 import Attribute, KeyType, ObjectClass


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def main(module: str, token: str, pin: str, file: str, label: str, identifier: str) -> None:
    """Two objects: the private half can sign and is sensitive."""
    private = load_pem_private_key(Path(file).read_bytes(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    numbers = private.private_numbers()
    public = {
        Attribute.KEY_TYPE: KeyType.RSA, Attribute.TOKEN: True, Attribute.LABEL: label,
        Attribute.ID: bytes.fromhex(identifier), Attribute.MODULUS: _bytes(numbers.public_numbers.n),
        Attribute.PUBLIC_EXPONENT: _bytes(numbers.public_numbers.e),
    }  # fmt: skip
    secret = {
        Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.SIGN: True,
        Attribute.PRIVATE_EXPONENT: _bytes(numbers.d), Attribute.PRIME_1: _bytes(numbers.p),
        Attribute.PRIME_2: _bytes(numbers.q), Attribute.EXPONENT_1: _bytes(numbers.dmp1),
        Attribute.EXPONENT_2: _bytes(numbers.dmq1), Attribute.COEFFICIENT: _bytes(numbers.iqmp),
    }  # fmt: skip
    with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
        session.create_object({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.VERIFY: True} | public)
        session.create_object({Attribute.CLASS: ObjectClass.PRIVATE_KEY} | public | secret)
    sys.stdout.flush()
    os._exit(0)  # C_Finalize at the interpreter's end is of no use


if __name__ == "__main__":
    main(*sys.argv[1:])
