"""A private key of one session: what it can do, its public half, its signatures. It dies with the session."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.util.ec import encode_named_curve_parameters

from hsm.errors import RefusedError
from hsm.schemes import SCHEMES, Form, PublicKey, Scheme, form_for
from hsm.token.search import KeySearch
from hsm.token.translation import ours, translated
from hsm.wire.member import KeyFound


class PrivateKey:
    """A private key object of one session."""

    def __init__(self, key: Any, search: KeySearch, mechanisms: frozenset[int]) -> None:
        self._key = key
        self._search = search
        self._mechanisms = mechanisms
        self._forms: dict[str, Form] = {}
        self._calls: dict[str, Callable[[bytes], bytes]] = {}
        for scheme in SCHEMES.values():
            if (scheme.family == "ecdsa") != (key.key_type == KeyType.EC):
                continue
            form = form_for(scheme, mechanisms)
            if form:
                self._forms[scheme.name] = form

    def describe(self) -> KeyFound:
        """What the key is and may do; `problem` where it cannot serve."""
        with translated("reading a key"):
            if self._key.key_type not in (KeyType.RSA, KeyType.EC):
                return KeyFound(f"key type {self._key.key_type.name}; RSA and EC keys are used")
            spki, public = self.spki(), self._public
            if self._flag(Attribute.ALWAYS_AUTHENTICATE):
                return KeyFound("CKA_ALWAYS_AUTHENTICATE is set: it would need the PIN for every signature")
            if self._flag(Attribute.SIGN) is False:
                return KeyFound("CKA_SIGN is false: the partition does not let this key sign")
            schemes = [name for name in self._forms if public is None or SCHEMES[name].fits(public)]
            problem = "" if schemes else "the partition has no mechanism to sign with it (CKM_RSA_PKCS, CKM_ECDSA, ...)"
            guarded = bool(self._flag(Attribute.SENSITIVE) and self._flag(Attribute.NEVER_EXTRACTABLE))
            return KeyFound(problem, spki, schemes, guarded, decrypts=self._decrypts())

    def _decrypts(self) -> bool:
        return (
            self._key.key_type == KeyType.RSA
            and hasattr(self._key, "decrypt")  # python-pkcs11 gives a key the methods that its attributes allow
            and self._flag(Attribute.DECRYPT) is not False
            and int(Mechanism.RSA_PKCS) in self._mechanisms
        )

    def spki(self) -> bytes:
        """The public half (DER SubjectPublicKeyInfo, RFC 5280); empty where the token keeps none."""
        public = self._public
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) if public else b""

    def _flag(self, attribute: Attribute) -> bool | None:
        try:
            return bool(self._key[attribute])
        except pkcs11.PKCS11Error:  # a token may lack an optional attribute; absent is not false
            return None

    @functools.cached_property
    def _public(self) -> PublicKey | None:
        """The public half: an RSA key carries it; an EC key's is the public key object of the same CKA_ID. None where
        the token keeps none, or one that makes no sense. Read once: a search walks over every object of the token."""
        try:
            if self._key.key_type == KeyType.RSA:
                return self._rsa_public()
            return self._ec_public() if self._key.key_type == KeyType.EC else None
        except ValueError:
            return None

    def _rsa_public(self) -> rsa.RSAPublicKey | None:
        numbers = self._key.get_attributes([Attribute.MODULUS, Attribute.PUBLIC_EXPONENT])
        exponent, modulus = numbers.get(Attribute.PUBLIC_EXPONENT), numbers.get(Attribute.MODULUS)
        if not exponent or not modulus:
            return None
        return rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()

    def _ec_public(self) -> ec.EllipticCurvePublicKey | None:
        parameters = self._key[Attribute.EC_PARAMS]
        curves = (ec.SECP256R1(), ec.SECP384R1())
        curve = next((one for one in curves if encode_named_curve_parameters(one.name) == parameters), None)
        if curve is None:
            return None
        for half in self._search.public_ec(self._key[Attribute.ID], parameters):
            point = half[Attribute.EC_POINT]
            # An OCTET STRING around the point by the standard; some tokens give the bare point.
            if len(point) == 2 * ((curve.key_size + 7) // 8) + 3:
                point = point[2:]
            return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
        return None

    def sign(self, scheme: Scheme, digest: bytes, message: bytes | None) -> bytes:
        """The signature of `digest` (of the scheme's size) as TLS carries it. Raises RefusedError."""
        call = self.prepared(scheme, digest, message)
        try:  # not `translated`: behind a signature the caches are cold, and a generator is felt
            raw = call()
        except pkcs11.PKCS11Error as error:
            raise ours(error, "signing") from error
        return scheme.encode(raw)

    def prepared(self, scheme: Scheme, digest: bytes, message: bytes | None = None) -> Callable[[], bytes]:
        """The bare call that makes the signature, anew each time, as the token gives it (`Scheme.encode`) and with the
        token's errors (`translated`): what can be measured of the module alone. Raises RefusedError."""
        form = self._forms.get(scheme.name)
        if form is None:
            raise RefusedError(f"this key or its partition cannot make {scheme.name}")
        payload = form.payload(scheme, digest, message)
        if payload is None:
            raise RefusedError(f"the partition hashes for {scheme.name} itself and needs the message, not its digest")
        call = self._calls.get(scheme.name)
        if call is None:
            call = self._calls[scheme.name] = self._call(scheme, form)
        return functools.partial(call, payload)

    def _call(self, scheme: Scheme, form: Form) -> Callable[[bytes], bytes]:
        parameters = None
        if scheme.family == "rsa_pss":
            hash_name = scheme.hash_name.upper()
            parameters = (Mechanism[hash_name], pkcs11.MGF[hash_name], scheme.digest_size)
        return functools.partial(self._key.sign, mechanism=Mechanism(form.mechanism), mechanism_param=parameters)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """The plaintext of `ciphertext` (as long as the modulus) in PKCS#1 v1.5 padding (RFC 8017 section 7.2.2).

        Raises RefusedError where the key may not decrypt; where the padding is wrong, what the token says to that.
        """
        if not hasattr(self._key, "decrypt"):
            raise RefusedError("the partition does not let this key decrypt (CKA_DECRYPT is false)")
        with translated("decrypting"):
            return bytes(self._key.decrypt(ciphertext, mechanism=Mechanism.RSA_PKCS))
