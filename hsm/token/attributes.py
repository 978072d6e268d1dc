"""Attributes of objects, as tokens tell them: some are hidden, some are odd, and neither must end a search."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType
from pkcs11.attributes import AttributeMapper, handle_ulong

from hsm import codes
from hsm.codes import Kind

PUBLIC_KEY_INFO = 0x129
"""CKA_PUBLIC_KEY_INFO (PKCS#11 v3.0 section 4.8): a key's SubjectPublicKeyInfo. python-pkcs11 does not know it."""

KMS_ALGORITHM = 0x8001E101
"""CKA_KMS_ALGORITHM, Google's own: which of its algorithms a new key is for."""


class Attributes(AttributeMapper):
    """python-pkcs11's mapping, which does not stop at a label that is not UTF-8, nor at a vendor's own key type."""

    def __init__(self) -> None:
        super().__init__()
        pack, unpack = handle_ulong
        self.register_handler(PUBLIC_KEY_INFO, bytes, bytes)  # type: ignore[arg-type]  # a number is an attribute's type
        self.register_handler(KMS_ALGORITHM, pack, unpack)  # type: ignore[arg-type]  # as above
        self.register_handler(Attribute.LABEL, str.encode, lambda raw: raw.decode(errors="replace"))
        self.register_handler(Attribute.KEY_TYPE, lambda kind: pack(int(kind)), lambda raw: _kind(unpack(raw)))


def _kind(number: int) -> KeyType | int:
    try:
        return KeyType(number)
    except ValueError:
        return number


def read(found: Any, attributes: Iterable[int]) -> dict[int, Any]:
    """Those of the `attributes` that the token tells of an object. Raises pkcs11's errors that are not about them."""
    wanted = list(attributes)
    try:
        return dict(found.get_attributes(wanted))
    except (pkcs11.PKCS11Error, ValueError, struct.error) as error:
        if _lost(error):
            raise
    told = {}  # some tokens, asked for one that they do not have, tell none
    for one in wanted:
        try:
            told[one] = found[one]
        except (pkcs11.PKCS11Error, ValueError, LookupError, struct.error) as error:
            if _lost(error):
                raise
    return told


def _lost(error: Exception) -> bool:
    """Whether it says something of the session or the HSM, not of an attribute."""
    if not isinstance(error, pkcs11.PKCS11Error):
        return False
    code = codes.of(type(error).__name__, str(error))
    return codes.kind(code) not in (Kind.REQUEST, Kind.AMBIGUOUS)
