"""How the keys of a configuration are found on a token, as one session sees it.

Few keys are searched for one by one (C_FindObjects, PKCS#11 v3.0 section 5.7). SoftHSM looks at every object of the
token in each search: with 300 keys a member took 12 s to start. So many keys are found in one walk over all of them,
unless the token holds far more than what is wanted: another HSM's search has an index, and each object costs a walk a
journey to that HSM.
"""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import Any

import pkcs11
from asn1crypto.core import OctetString
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters

_MANY = 16
"""Keys that are worth a walk."""
_FAR_MORE = 4
"""Objects for each key that is wanted, from where on a walk is not worth it."""


class KeySearch:
    """The searches of one session; what they return dies with it. Methods raise pkcs11's errors."""

    def __init__(self, session: pkcs11.Session, wanted: int) -> None:
        """`wanted` is how many keys will be asked for."""
        self._session = session
        self._wanted = wanted
        self._walked: _Walked | None = None
        self._walk = wanted >= _MANY

    def look_again(self) -> None:
        """Forget what the walk found: keys may have come, gone, or been replaced since."""
        self._walked, self._walk = None, self._wanted >= _MANY

    def private(self, label: str | None, identifier: bytes | None) -> list[Any]:
        """Private keys with this CKA_LABEL and CKA_ID, as far as they are given."""
        walked = self._all()
        if walked is not None and (found := walked.private(label, identifier)):
            return found
        template: dict[Attribute, Any] = {}
        if label is not None:
            template[Attribute.LABEL] = label
        if identifier is not None:
            template[Attribute.ID] = identifier
        return self._found(ObjectClass.PRIVATE_KEY, template)

    def private_of(self, spki: bytes) -> list[Any]:
        """Private keys whose public half (DER SubjectPublicKeyInfo) this is: an RSA key carries its modulus; an EC key
        shares the CKA_ID of the public key object with its point."""
        public = load_der_public_key(spki)
        if isinstance(public, rsa.RSAPublicKey):
            modulus = public.public_numbers().n.to_bytes((public.key_size + 7) // 8)
            return self._found(ObjectClass.PRIVATE_KEY, {Attribute.KEY_TYPE: KeyType.RSA, Attribute.MODULUS: modulus})
        assert isinstance(public, ec.EllipticCurvePublicKey)
        point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        curve = {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: encode_named_curve_parameters(public.curve.name)}
        identifiers = set()
        for wrapped in (OctetString(point).dump(), point):  # the standard's form, and that of some tokens
            halves = self._found(ObjectClass.PUBLIC_KEY, {Attribute.EC_POINT: wrapped, **curve})
            identifiers |= {half[Attribute.ID] for half in halves}
        return [
            key for one in identifiers for key in self._found(ObjectClass.PRIVATE_KEY, {Attribute.ID: one, **curve})
        ]

    def public_ec(self, identifier: bytes, parameters: bytes) -> list[Any]:
        """Public EC keys with this CKA_ID, on the curve of these CKA_EC_PARAMS."""
        walked = self._all()
        if walked is not None:
            found = walked.public.get(identifier, [])
            if on_curve := [half for half in found if half[Attribute.EC_PARAMS] == parameters]:
                return on_curve
        curve = {Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_PARAMS: parameters, Attribute.ID: identifier}
        return self._found(ObjectClass.PUBLIC_KEY, curve)

    def _found(self, kind: ObjectClass, template: dict[Attribute, Any]) -> list[Any]:
        return list(self._session.get_objects({Attribute.CLASS: kind, **template}))

    def _all(self) -> _Walked | None:
        """Every key, where a walk is worth it."""
        if self._walk and self._walked is None:
            self._walk = False  # one that fails is not tried again: a search finds what it can, or says what is wrong
            try:
                self._walked = _Walked.over(self._session, _FAR_MORE * self._wanted)
            except (pkcs11.PKCS11Error, ValueError, LookupError, NotImplementedError):
                return None  # another's object that cannot be read
        return self._walked


class _Walked:
    """What a walk found."""

    def __init__(self, private: list[Any], public: list[Any]) -> None:
        self._private = [(key, *_named(key)) for key in private]
        self.public: dict[bytes, list[Any]] = {}
        for key in public:
            self.public.setdefault(key[Attribute.ID], []).append(key)

    @classmethod
    def over(cls, session: pkcs11.Session, most: int) -> _Walked | None:
        """All keys; None where there are more than `most` of a kind."""
        found = []
        for template in (
            {Attribute.CLASS: ObjectClass.PRIVATE_KEY},
            {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.KEY_TYPE: KeyType.EC},
        ):
            objects: Any = session.get_objects(template)
            with closing(objects):  # a search that is left half-way would leave its session busy
                keys = list(islice(objects, most + 1))
            if len(keys) > most:
                return None
            found.append(keys)
        return cls(*found)

    def private(self, label: str | None, identifier: bytes | None) -> list[Any]:
        return [
            key
            for key, its_label, its_identifier in self._private
            if label in (None, its_label) and identifier in (None, its_identifier)
        ]


def _named(key: Any) -> tuple[str | None, bytes | None]:
    """CKA_LABEL and CKA_ID; a label that is not UTF-8 is another's."""
    try:
        read = key.get_attributes([Attribute.LABEL, Attribute.ID])
    except UnicodeDecodeError:
        read = key.get_attributes([Attribute.ID])
    return read.get(Attribute.LABEL), read.get(Attribute.ID)
