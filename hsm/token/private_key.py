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

from hsm.errors import HsmitmError, RefusedError, SessionLostError
from hsm.schemes import SCHEMES, Form, PublicKey, Scheme
from hsm.token.forms import Forms
from hsm.token.search import KeySearch
from hsm.token.translation import ours, translated
from hsm.wire.member import KeyFound


class PrivateKey:
    """A private key object of one session."""

    def __init__(self, key: Any, search: KeySearch, forms: Forms, *, may_decrypt: bool = False) -> None:
        """`forms` are the token's for this key; `may_decrypt` is whether the token decrypts with CKM_RSA_PKCS."""
        self._key = key
        self._search = search
        self._forms = forms
        self._may_decrypt = may_decrypt
        self._elliptic = key.key_type == KeyType.EC
        self._calls: dict[tuple[str, int], Callable[[bytes], bytes]] = {}

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
            mine = [one for one in SCHEMES.values() if self._makes(one)]
            schemes = [one.name for one in mine if public is None or one.fits(public)]
            problem = "" if schemes else "the partition has no mechanism to sign with it (CKM_RSA_PKCS, CKM_ECDSA, ...)"
            guarded = bool(self._flag(Attribute.SENSITIVE) and self._flag(Attribute.NEVER_EXTRACTABLE))
            return KeyFound(problem, spki, schemes, guarded, decrypts=self._decrypts())

    def _makes(self, scheme: Scheme) -> bool:
        """Whether the token lists a mechanism with which a key of this type makes `scheme`."""
        return (scheme.family == "ecdsa") == self._elliptic and scheme.name in self._forms

    def _decrypts(self) -> bool:
        return (
            self._key.key_type == KeyType.RSA
            and hasattr(self._key, "decrypt")  # python-pkcs11 gives a key the methods that its attributes allow
            and self._flag(Attribute.DECRYPT) is not False
            and self._may_decrypt
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
            problem = ours(error, "signing")
            made = self._made_otherwise(scheme, digest, message, problem)
            if made is None:
                raise problem from error
            raw = made
        return scheme.encode(raw)

    def _made_otherwise(
        self, scheme: Scheme, digest: bytes, message: bytes | None, problem: HsmitmError
    ) -> bytes | None:
        """The signature in another form than the one that was refused, which is then used from now on. None where
        there is no other, or where `problem` says something else than that the request is refused."""
        if not isinstance(problem, RefusedError):
            return None
        for form in self._forms.of(scheme)[1:]:
            payload = form.payload(scheme, digest, message)
            if payload is None:
                continue
            try:
                raw = self._call(scheme, form)(payload)
            except pkcs11.PKCS11Error as error:
                second = ours(error, "signing")
                if isinstance(second, SessionLostError):  # the refusal has left the session in the middle of something
                    self._forms.prefer(scheme, form)
                    raise second from error
                continue  # the first refusal is the one to tell: this form was a guess
            self._forms.prefer(scheme, form)
            return raw
        return None

    def prepared(self, scheme: Scheme, digest: bytes, message: bytes | None = None) -> Callable[[], bytes]:
        """The bare call that makes the signature, anew each time, as the token gives it (`Scheme.encode`) and with the
        token's errors (`translated`): what can be measured of the module alone. Raises RefusedError."""
        if not self._makes(scheme):
            raise RefusedError(f"this key or its partition cannot make {scheme.name}")
        for form in self._forms.of(scheme):
            payload = form.payload(scheme, digest, message)
            if payload is not None:
                return functools.partial(self._call(scheme, form), payload)
        raise RefusedError(f"the partition hashes for {scheme.name} itself and needs the message, not its digest")

    def _call(self, scheme: Scheme, form: Form) -> Callable[[bytes], bytes]:
        """The call that signs in this form, made once."""
        known = self._calls.get((scheme.name, form.mechanism))
        if known is not None:
            return known
        parameters = None
        if scheme.family == "rsa_pss":
            hash_name = scheme.hash_name.upper()
            parameters = (Mechanism[hash_name], pkcs11.MGF[hash_name], scheme.digest_size)
        call = functools.partial(self._key.sign, mechanism=Mechanism(form.mechanism), mechanism_param=parameters)
        self._calls[scheme.name, form.mechanism] = call
        return call

    def decrypt(self, ciphertext: bytes) -> bytes:
        """The plaintext of `ciphertext` (as long as the modulus) in PKCS#1 v1.5 padding (RFC 8017 section 7.2.2).

        Raises RefusedError where the key may not decrypt; where the padding is wrong, what the token says to that.
        """
        if not hasattr(self._key, "decrypt"):
            raise RefusedError("the partition does not let this key decrypt (CKA_DECRYPT is false)")
        with translated("decrypting"):
            return bytes(self._key.decrypt(ciphertext, mechanism=Mechanism.RSA_PKCS))
