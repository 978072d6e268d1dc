"""How the keys of a configuration are found on a token, as one session sees it.

Few keys are searched for one by one (C_FindObjects, PKCS#11 v3.0 section 5.7). SoftHSM looks at every object of the
token in each search: with 300 keys a member took 12 s to start. So many keys are found in one walk over all of them,
unless the token holds far more than what is wanted: another HSM's search has an index, and each object costs a walk a
journey to that HSM.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric import rsa
from pkcs11 import Attribute, KeyType, ObjectClass

from hsm.schemes import PublicKey
from hsm.token.attributes import read
from hsm.token.public_half import TELLING, Half, could_be, in_attributes, in_certificate, kind_of, points_of

_MANY = 16
"""Keys that are worth a walk."""
_SHARED = 64
"""Public halves of one label or CKA_ID that are looked at."""
_MOST = 1024
"""Private keys of a kind that are looked at where nothing names the one that is wanted."""
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

    def private_of(self, public: PublicKey) -> list[Any]:
        """Private keys that should have this public half: an RSA key carries its modulus; an EC key shares its CKA_ID
        or its label with the public key object of the point."""
        if isinstance(public, rsa.RSAPublicKey):
            modulus = public.public_numbers().n.to_bytes((public.key_size + 7) // 8)
            return self._found(ObjectClass.PRIVATE_KEY, {Attribute.KEY_TYPE: KeyType.RSA, Attribute.MODULUS: modulus})
        found: dict[int, Any] = {}
        kind = {Attribute.KEY_TYPE: KeyType.EC}
        for point in points_of(public):
            for half in self._found(ObjectClass.PUBLIC_KEY, {Attribute.EC_POINT: point, **kind}):
                for attribute, value in read(half, (Attribute.ID, Attribute.LABEL)).items():
                    if value:
                        named = {Attribute(attribute): value, **kind}
                        found |= {key.handle: key for key in self._found(ObjectClass.PRIVATE_KEY, named, _SHARED)}
        return list(found.values())

    def alike(self, public: PublicKey) -> list[Any]:
        """Every private key of the kind, up to a number that a walk over them is worth. Those that no public half
        stands beside come first: they are the ones that could not be found by it."""
        kind = {Attribute.KEY_TYPE: kind_of(public)}
        keys = self._found(ObjectClass.PRIVATE_KEY, kind, _MOST)
        if len(keys) < 2 or isinstance(public, rsa.RSAPublicKey):
            return keys
        identifiers = {_named(half)[1] for half in self._found(ObjectClass.PUBLIC_KEY, kind, _MOST)}
        return sorted(keys, key=lambda key: _named(key)[1] in identifiers)

    def halves(self, handle: int, told: dict[int, Any], *, certificates: bool) -> list[Half]:
        """The public halves that the private key with this handle and these attributes may have: of its kind, in public
        key objects with its CKA_ID, or else with its label; or else in `certificates`."""
        kinds = (ObjectClass.PUBLIC_KEY, ObjectClass.CERTIFICATE) if certificates else (ObjectClass.PUBLIC_KEY,)
        for kind in kinds:
            for attribute in (Attribute.ID, Attribute.LABEL):
                if not told.get(attribute):
                    continue
                beside = [
                    Half(public, told.get(Attribute.ID) == its.get(Attribute.ID) and _one_label(told, its))
                    for public, its in self._beside(kind, attribute, handle, told)
                    if could_be(told, public)
                ]
                if beside:
                    return beside
        return []

    def _beside(
        self, kind: ObjectClass, attribute: Attribute, handle: int, told: dict[int, Any]
    ) -> Iterator[tuple[PublicKey, dict[int, Any]]]:
        """Public halves in objects of this class that share the attribute, with what those tell."""
        certificate = kind is ObjectClass.CERTIFICATE
        walked = None if certificate or told.get(Attribute.KEY_TYPE) != KeyType.EC else self._all()
        if walked is not None and handle in walked.handles:
            objects = walked.public(attribute, told[attribute])
        else:
            objects = self._found(kind, {attribute: told[attribute]}, _SHARED)
        for one in objects:
            its = read(one, (Attribute.ID, Attribute.LABEL, Attribute.VALUE) if certificate else TELLING)
            public = in_certificate(its.get(Attribute.VALUE, b"")) if certificate else in_attributes(its)
            if public is not None:
                yield public, its

    def _found(self, kind: ObjectClass, template: dict[Attribute, Any], most: int | None = None) -> list[Any]:
        objects: Any = self._session.get_objects({Attribute.CLASS: kind, **template})
        with closing(objects):  # a search that is left half-way would leave its session busy
            return list(islice(objects, most))

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
        self.handles = {key.handle for key in private}
        self._public: dict[tuple[int, str | bytes | None], list[Any]] = {}
        for key in public:
            label, identifier = _named(key)
            self._public.setdefault((Attribute.LABEL, label), []).append(key)
            self._public.setdefault((Attribute.ID, identifier), []).append(key)

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

    def public(self, attribute: int, value: str | bytes) -> list[Any]:
        return self._public.get((attribute, value), [])

    def private(self, label: str | None, identifier: bytes | None) -> list[Any]:
        return [
            key
            for key, its_label, its_identifier in self._private
            if label in (None, its_label) and identifier in (None, its_identifier)
        ]


def _one_label(told: dict[int, Any], its: dict[int, Any]) -> bool:
    """Whether two objects have one label; one without a label contradicts nothing."""
    return not its.get(Attribute.LABEL) or told.get(Attribute.LABEL) == its.get(Attribute.LABEL)


def _named(key: Any) -> tuple[str | None, bytes | None]:
    """CKA_LABEL and CKA_ID."""
    told = read(key, (Attribute.LABEL, Attribute.ID))
    return told.get(Attribute.LABEL), told.get(Attribute.ID)
