"""Attributes of objects, as tokens tell them: some are hidden, some are odd, and neither must end a search.

python-pkcs11's table of them is amended here: it stops at a label that is not UTF-8 and at a vendor's own key type, and
lacks two that are needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType
from pkcs11.attributes import ATTRIBUTE_TYPES, handle_ulong

from hsm import codes
from hsm.codes import Kind

PUBLIC_KEY_INFO = 0x129
"""CKA_PUBLIC_KEY_INFO (PKCS#11 v3.0 section 4.8): a key's SubjectPublicKeyInfo. python-pkcs11 does not know it."""

KMS_ALGORITHM = 0x8001E101
"""CKA_KMS_ALGORITHM, Google's own: which of its algorithms a new key is for."""


def _kind(number: int) -> KeyType | int:
    try:
        return KeyType(number)
    except ValueError:
        return number


_pack, _unpack = handle_ulong
# Every session takes its mapping from this table, wherever it is opened.
ATTRIBUTE_TYPES |= {
    Attribute.LABEL: (str.encode, lambda raw: raw.decode(errors="replace")),
    Attribute.KEY_TYPE: (lambda kind: _pack(int(kind)), lambda raw: _kind(_unpack(raw))),
    PUBLIC_KEY_INFO: (bytes, bytes),  # type: ignore[dict-item]  # an attribute is a number, and this one has no name
    KMS_ALGORITHM: handle_ulong,  # type: ignore[dict-item]  # as above
}


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
