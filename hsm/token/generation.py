"""Making a key pair on tokens that differ in what they take: templates from full to least, each refusal tried further.

A full template says what the key must not do and that it never leaves; some tokens refuse usages that are false (TPMs),
an id of their own choosing is refused by others, and Google's takes no public template at all. What a token did not
honour is read back from the key afterwards (`hsm.token.exposure`).

Nothing is made twice: before each further try the key is looked for, since a token may have made it and said otherwise.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from typing import Any

import pkcs11
from msgspec import Struct
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.constants import DEFAULT
from pkcs11.util.ec import encode_named_curve_parameters

from hsm import codes
from hsm.codes import Kind
from hsm.errors import HsmitmError, RefusedError
from hsm.schemes import SCHEMES, forms_for
from hsm.token.attributes import KMS_ALGORITHM, read
from hsm.token.translation import translated
from hsm.uri import KeyURI
from hsm.wire import member as member_wire

_VENDOR_DEFINED = 0x80000000
_CURVES = {"p256": "secp256r1", "p384": "secp384r1"}


def _of_vendor(name: str, number: int) -> Mechanism:
    """A mechanism of a vendor's own: pkcs11 takes nothing but a Mechanism, and knows the standard's alone."""
    made = int.__new__(Mechanism, number)
    made._name_, made._value_ = name, number
    return made


_RSA = (
    Mechanism.RSA_PKCS_KEY_PAIR_GEN,
    Mechanism.RSA_X9_31_KEY_PAIR_GEN,
    _of_vendor("RSA_FIPS_186_3_PRIME_KEY_PAIR_GEN", 0x80000143),
    _of_vendor("RSA_FIPS_186_3_AUX_PRIME_KEY_PAIR_GEN", 0x80000142),
)
"""FIPS modes may have the second alone, or Luna's own: with a client that does not map the first (before 10.4)."""
_KMS = {"rsa-2048": 5, "rsa-3072": 6, "rsa-4096": 7, "p256": 12, "p384": 13}
"""CryptoKeyVersionAlgorithm of Google KMS for each type: RSA_SIGN_PKCS1_*_SHA256, EC_SIGN_*."""
_ID_SIZES = (8, 2, 0)
"""Bytes of CKA_ID: YubiHSM takes two alone, some choose it themselves."""
_MOST = 1024
"""Public keys that are compared to find what a try left."""
_NOTHING_HELPS = frozenset({0xB5, 0xE2})
"""CKR_SESSION_READ_ONLY, CKR_TOKEN_WRITE_PROTECTED: no other template would change them."""

Template = dict[int, Any]


class _Attempt(Struct, frozen=True):
    """One way to ask for the pair. `public` and `private` are all that is asked for."""

    mechanism: Mechanism
    public: Template
    private: Template


def makers(slot: pkcs11.Slot, mechanisms: frozenset[int], key_type: member_wire.KeyType) -> list[Mechanism]:
    """The mechanisms that make a key of this type, which the token can sign with, too, as far as it tells; the usual
    one first."""
    curve = _CURVES.get(key_type)
    if not any(forms_for(scheme, mechanisms, ()) for scheme in SCHEMES.values() if scheme.curve == curve):
        return []
    possible = [Mechanism.EC_KEY_PAIR_GEN] if curve else list(_RSA)
    return [one for one in possible if int(one) in mechanisms and _fits(slot, one, key_type)]


def _fits(slot: pkcs11.Slot, mechanism: Mechanism, key_type: str) -> bool:
    """Whether CK_MECHANISM_INFO leaves it possible. Some tokens tell no flags, or sizes in bytes: those are not held
    against it, unless the number is a vendor's own: another vendor may mean something else by it."""
    own = int(mechanism) >= _VENDOR_DEFINED
    try:
        info = slot.get_mechanism_info(mechanism)
    except (pkcs11.PKCS11Error, ValueError):
        return not own
    if (info.flags or own) and not info.flags & MechanismFlag.GENERATE_KEY_PAIR:
        return False
    bits = int(key_type.removeprefix("rsa-")) if key_type not in _CURVES else int(key_type.removeprefix("p"))
    least, most = info.min_key_length or 0, info.max_key_length or 0
    in_bits = most >= (160 if key_type in _CURVES else 1024)
    return not in_bits or least <= bits <= most


def make(session: Any, makers: list[Mechanism], manufacturer: str, label: str, key_type: member_wire.KeyType) -> KeyURI:
    """Make the pair, token objects, with one of these mechanisms, and say how the token calls the private half.

    Raises RefusedError where the token takes no template; then nothing is left, or what is left is named. Raises
    MemberLostError where the HSM fails: the key may be there.
    """
    if not makers:
        raise RefusedError(f"the partition has no mechanism that makes {key_type} keys and signs with them")
    maker = _Maker(session, label, key_type)
    refusals: dict[str, None] = {}
    for attempt in _attempts(label, key_type, makers, manufacturer):
        try:
            return maker.tried(attempt)
        except HsmitmError as error:
            if error.code in _NOTHING_HELPS or codes.called_for(error) not in (Kind.REQUEST, Kind.AMBIGUOUS):
                raise
            refusals[codes.name(error.code)] = None
        if (found := maker.made()) is not None:
            return found
    raise RefusedError(f"the partition makes no {key_type} key: {', '.join(refusals)}{maker.left()}")


def _attempts(label: str, key_type: str, makers: list[Mechanism], manufacturer: str) -> Iterator[_Attempt]:
    """From full to least, what keeps the key inside given up last."""
    size: Template = (
        {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVES[key_type])}
        if key_type in _CURVES
        else {Attribute.MODULUS_BITS: int(key_type.removeprefix("rsa-")), Attribute.PUBLIC_EXPONENT: b"\1\0\1"}
    )
    stored: Template = {Attribute.TOKEN: True, Attribute.LABEL: label}
    kept: Template = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
    unused_private: Template = {Attribute.DECRYPT: False, Attribute.UNWRAP: False, Attribute.DERIVE: False}
    unused_public: Template = {Attribute.ENCRYPT: False, Attribute.WRAP: False}
    hidden: Template = {Attribute.PRIVATE: True}
    signs: Template = {Attribute.SIGN: True}
    verifies: Template = {Attribute.VERIFY: True}
    templates: list[tuple[Template, Template]] = [
        (stored | verifies | size | unused_public, stored | hidden | kept | signs | unused_private),
        (stored | verifies | size, stored | hidden | kept | signs),
        (stored | size, stored | kept | signs),
        (size, stored | kept),
        (stored | verifies | size, stored | hidden | {Attribute.SENSITIVE: True} | signs),
        (stored | verifies | size, stored | hidden | signs),
        (stored | size, stored),
        (size, stored),
        ({}, stored | kept),
        ({}, stored),
        ({}, {Attribute.LABEL: label}),
    ]
    for length in _ID_SIZES:  # a TPM makes a whole key before it refuses one: an id that it takes is kept
        identifier = {Attribute.ID: secrets.token_bytes(length)} if length else {}
        for public, private in templates:
            for mechanism in makers:
                both = public | identifier if Attribute.TOKEN in public else public
                yield _Attempt(mechanism, both, private | identifier)
    if "google" in manufacturer.lower():
        yield _Attempt(makers[0], {}, {Attribute.LABEL: label, KMS_ALGORITHM: _KMS[key_type]})


class _Maker:
    """One label's tries, and what they left on the token."""

    def __init__(self, session: Any, label: str, key_type: str) -> None:
        self._session = session
        self._label = label
        self._type = key_type
        self._before = {one.handle for one in self._public()}

    def tried(self, attempt: _Attempt) -> KeyURI:
        """The key of this try. Raises errors of ours."""
        given: dict[str, Any] = {
            "mechanism": attempt.mechanism,
            "public_template": _ALONE | attempt.public,
            "private_template": _ALONE | attempt.private,
            "store": True,
        }
        with translated(f"generating {self._type} '{self._label}'"):
            if curve := _CURVES.get(self._type):
                named = {Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
                parameters = self._session.create_domain_parameters(KeyType.EC, named, local=True)
                _, private = parameters.generate_keypair(**given)
            else:
                _, private = self._session.generate_keypair(KeyType.RSA, 2048, **given)
            return self._named(private)

    def made(self) -> KeyURI | None:
        """The key, where the token made it all the same. A public half that a try left alone is taken away: it has our
        label, and was not there before."""
        with translated("looking for the new key"):
            label = {Attribute.LABEL: self._label}
            for private in self._session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, **label}):
                return self._named(private)
        for half in self._left():
            if read(half, [Attribute.LABEL]).get(Attribute.LABEL) == self._label:
                with suppress(pkcs11.PKCS11Error):  # it is named at the end
                    half.destroy()
        return None

    def left(self) -> str:
        """What is left of tries, for an operator."""
        number = len(self._left())
        plural = "s were" if number > 1 else " was"
        return f"; {number} public key object{plural} left on it without a private half: remove them" if number else ""

    def _left(self) -> list[Any]:
        return [one for one in self._public() if one.handle not in self._before]

    def _public(self) -> list[Any]:
        kind = KeyType.EC if self._type in _CURVES else KeyType.RSA
        with translated("looking for public keys"):
            objects = self._session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.KEY_TYPE: kind})
            with closing(objects):
                return list(islice(objects, _MOST))

    def _named(self, private: Any) -> KeyURI:
        """Some tokens give a key a label of their own (NetHSM), or none."""
        told = read(private, (Attribute.LABEL, Attribute.ID))
        label, identifier = told.get(Attribute.LABEL), told.get(Attribute.ID)
        if label == self._label or not (label or identifier):
            return KeyURI(object=self._label)
        return KeyURI(object=label or None, id=None if label else identifier)


_ALONE = dict.fromkeys(
    (
        Attribute.CLASS, Attribute.ID, Attribute.LABEL, Attribute.TOKEN, Attribute.PRIVATE, Attribute.SENSITIVE,
        Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.SIGN, Attribute.VERIFY, Attribute.WRAP, Attribute.UNWRAP,
        Attribute.DERIVE, Attribute.MODULUS_BITS, Attribute.PUBLIC_EXPONENT, Attribute.EC_PARAMS,
    ),
    DEFAULT,
)  # fmt: skip
"""What python-pkcs11 adds to a template by itself, left out."""
