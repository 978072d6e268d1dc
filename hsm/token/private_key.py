"""A private key of one session: what it can do, its public half, its signatures. It dies with the session."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11._pkcs11 import DecryptMixin, SignMixin  # type: ignore[attr-defined]  # they are there, not in its stubs

from hsm.errors import HsmitmError, RefusedError, SessionLostError
from hsm.schemes import SCHEMES, Form, PublicKey, Scheme, certificate_scheme, unused_curve
from hsm.token.attributes import read
from hsm.token.challenges import Challenges, Mark
from hsm.token.exposure import exposure
from hsm.token.forms import Forms
from hsm.token.public_half import TELLING, Half, could_be, curve_name, in_attributes, same, spki_of, with_usual_exponent
from hsm.token.search import KeySearch
from hsm.token.translation import ours, translated
from hsm.wire.member import KeyFound


class PrivateKey:
    """A private key object of one session."""

    def __init__(
        self, key: Any, search: KeySearch, forms: Forms, challenges: Challenges, *, may_decrypt: bool = False
    ) -> None:
        """`forms` are the token's for this key; `may_decrypt` is whether the token decrypts with CKM_RSA_PKCS."""
        self._key = _able(key)
        self._search = search
        self._forms = forms
        self._challenges = challenges
        self._may_decrypt = may_decrypt
        self._told = read(key, TELLING)
        self._kind = self._told.get(Attribute.KEY_TYPE)
        self._settled: PublicKey | None = None
        self._sought = False
        self._calls: dict[tuple[str, int], Callable[[bytes], bytes]] = {}

    @property
    def mark(self) -> Mark:
        """Which of the token's private keys it is."""
        return self._key.handle, self._told.get(Attribute.LABEL, ""), self._told.get(Attribute.ID, b"")

    @functools.cached_property
    def signs(self) -> bool:
        """Whether the token lets it sign without the PIN for each signature."""
        return not self._hindrance

    def describe(self) -> KeyFound:
        """What the key is and may do; `problem` where it cannot serve."""
        with translated("reading a key"):
            if self._kind not in (KeyType.RSA, KeyType.EC):
                return KeyFound(f"key type {_name_of(self._kind)}; RSA and EC keys are used")
            spki, public = self.spki(), self.public
            curve = curve_name(self._told.get(Attribute.EC_PARAMS) or b"")
            if self._kind == KeyType.EC and curve and public is None and not _used(curve):
                return KeyFound(unused_curve(curve))
            try:
                if public is not None:
                    certificate_scheme(public)
            except ValueError as error:
                return KeyFound(str(error), spki)
            if self._hindrance:
                return KeyFound(self._hindrance)
            mine = [one for one in SCHEMES.values() if self._makes(one)]
            schemes = [one.name for one in mine if public is None or one.fits(public)]
            problem = "" if schemes else "the partition has no mechanism to sign with it (CKM_RSA_PKCS, CKM_ECDSA, ...)"
            exposed = self._exposure()
            return KeyFound(
                problem,
                spki,
                schemes,
                guarded=not exposed,
                decrypts=self._decrypts(),
                exposure=exposed,
                hearsay=bool(spki) and self._hearsay,
            )

    @functools.cached_property
    def _hindrance(self) -> str:
        """Why the token does not let it sign; empty where it does."""
        if self._flag(Attribute.ALWAYS_AUTHENTICATE):
            return "CKA_ALWAYS_AUTHENTICATE is set: it would need the PIN for every signature"
        if self._flag(Attribute.SIGN) is False:
            return "CKA_SIGN is false: the partition does not let this key sign"
        return ""

    def _makes(self, scheme: Scheme) -> bool:
        """Whether the token lists a mechanism with which a key of this type makes `scheme`."""
        return (scheme.family == "ecdsa") == (self._kind == KeyType.EC) and scheme.name in self._forms

    def _decrypts(self) -> bool:
        return self._kind == KeyType.RSA and self._flag(Attribute.DECRYPT) is not False and self._may_decrypt

    def _exposure(self) -> str:
        """How the private half can leave, or could have left; empty where it never could. What PKCS#11 v3.0 section 4.9
        says of CKA_SENSITIVE and CKA_EXTRACTABLE."""
        sensitive, extractable = self._flag(Attribute.SENSITIVE), self._flag(Attribute.EXTRACTABLE)
        never = self._flag(Attribute.NEVER_EXTRACTABLE)
        return exposure(sensitive, extractable, never)

    # the public half

    @property
    def public(self) -> PublicKey | None:
        """The public half: as a signature told, or its own, or of the one object beside it with its label and CKA_ID;
        where several could be, a signature tells. None where the token keeps none."""
        if self._settled or self._own:
            return self._settled or self._own
        exact = self._exact()
        if len(exact) == 1:
            return exact[0]
        claims = [half.public for half in self._halves]
        if not claims and not self._sought:
            claims = [half.public for half in self._beside(certificates=True)]
        if modulus := self._told.get(Attribute.MODULUS):
            claims.append(with_usual_exponent(modulus))
        self._settled = self._challenges.proves(self, claims)
        return self._settled

    def settle(self, public: PublicKey) -> None:
        """This is its public half: its modulus says so, or a signature did."""
        self._settled = public

    @property
    def _hearsay(self) -> bool:
        """Whether another object alone says what its public half is."""
        return self._settled is None and self._own is None

    def spki(self) -> bytes:
        """The public half (DER SubjectPublicKeyInfo, RFC 5280); empty where it is not known."""
        return spki_of(self.public) if self.public else b""

    def judge(self, wanted: PublicKey, *, beside: bool) -> bool | None:
        """Whether this is the private key of `wanted`, as far as attributes tell; None where a signature must. What
        objects `beside` it say is believed where it is likely, and never where it is against it."""
        self._sought = True
        if not could_be(self._told, wanted):
            return False
        if self._told.get(Attribute.MODULUS):
            self.settle(wanted)
            return True
        if self._own:
            return True if same(self._own, wanted) else None
        exact = self._exact() if beside else []
        return True if len(exact) == 1 and same(exact[0], wanted) else None

    @functools.cached_property
    def _own(self) -> PublicKey | None:
        return in_attributes(self._told)

    @functools.cached_property
    def _halves(self) -> list[Half]:
        """Read once: a search walks over every object of the token."""
        return self._beside(certificates=False)

    def _beside(self, *, certificates: bool) -> list[Half]:
        return self._search.halves(self._key.handle, self._told, certificates=certificates)

    def _exact(self) -> list[PublicKey]:
        found = {spki_of(half.public): half.public for half in self._halves if half.exact}
        return list(found.values())

    def _flag(self, attribute: Attribute) -> bool | None:
        told = read(self._key, [attribute])
        return bool(told[attribute]) if attribute in told else None  # absent is not false

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
        if self._flag(Attribute.DECRYPT) is False:
            raise RefusedError("the partition does not let this key decrypt (CKA_DECRYPT is false)")
        with translated("decrypting"):
            return bytes(self._key.decrypt(ciphertext, mechanism=Mechanism.RSA_PKCS))


def _able(key: Any) -> Any:
    """The key with every method: python-pkcs11 gives it those that its attributes allow, and some tokens hide those."""
    missing = [mixin for mixin in (SignMixin, DecryptMixin) if not isinstance(key, mixin)]
    return type("PrivateKey", (*missing, type(key)), {})(key.wrapper) if missing else key


def _used(curve: str) -> bool:
    return any(scheme.curve == curve for scheme in SCHEMES.values())


def _name_of(kind: KeyType | int | None) -> str:
    if kind is None:
        return "that is not told"
    return kind.name if isinstance(kind, KeyType) else f"0x{kind:x}"
