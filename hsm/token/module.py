"""A PKCS#11 module, its tokens and sessions. It and `hsm.token.search` import pkcs11, and only a member process them.

Three traps of python-pkcs11 (0.10.1) are closed here:
* It calls C_Initialize(NULL), which promises the module that one thread uses it (PKCS#11 v3.0 section 5.4.1). SoftHSM
  then drops its locks, and two signing threads corrupt its memory. So the module is finalised and initialised again
  with CKF_OS_LOCKING_OK through its own function list; `lib.reinitialize()` would undo that and is never called.
* `Session.close()` of a session that was opened with a PIN logs every session of the process out. So the one session
  that logs in, the anchor, is never closed; all others are opened without a PIN.
* About thirty return codes have no exception class and arrive as text; `codes.of` reads them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, TokenFlag
from pkcs11.util.ec import encode_named_curve_parameters

from hsm import codes
from hsm.codes import Kind
from hsm.errors import HsmitmError, MemberLostError, MisconfiguredError, PinRefusedError, RefusedError, TryLaterError
from hsm.schemes import SCHEMES, Form, PublicKey, Scheme, form_for
from hsm.token.cryptoki import FunctionList, TokenInfo
from hsm.token.search import KeySearch
from hsm.uri import KeyURI
from hsm.wire import member as member_wire
from hsm.wire.member import Inspected, KeyFound, Partition, Selector, Slot


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """A pkcs11 exception becomes one of ours, its cause kept."""
    try:
        yield
    except pkcs11.PKCS11Error as error:
        raise _ours(error, doing) from error


def _ours(error: pkcs11.PKCS11Error, doing: str) -> HsmitmError:
    """The one place where a pkcs11 exception becomes one of ours (`hsm.codes`)."""
    code = codes.of(type(error).__name__, str(error))
    if code:
        return codes.error(code, doing)
    return MemberLostError(f"{type(error).__name__} while {doing}: {error}")


class Module:
    """A loaded module. Once per process; safe for threads from here on."""

    def __init__(self, path: str) -> None:
        """Load the library at `path`. Raises MisconfiguredError where that is not a usable PKCS#11 module, and
        MemberLostError where it says that its HSM is what fails: that may pass."""
        try:
            self._lib = pkcs11.lib(path)
        except pkcs11.PKCS11Error as error:
            code = codes.of(type(error).__name__, str(error))
            _raise_passing(code, path)
            raise MisconfiguredError(_why_not_loaded(path, error)) from error
        self._functions: FunctionList | None = None
        self._lock_for_threads()

    @property
    def description(self) -> str:
        """What the library calls itself (CK_INFO)."""
        return f"{self._lib.library_description} {'.'.join(map(str, self._lib.library_version))}"

    def _lock_for_threads(self) -> None:
        functions = FunctionList(self._lib.so)
        if functions.finalise() == codes.CRYPTOKI_NOT_INITIALIZED:
            # p11-kit-client hands out a new instance at each C_GetFunctionList: ours is not the one pkcs11 holds. It
            # has mutexes of its own, so there is nothing to cure.
            return
        self._functions = functions
        code = functions.initialise_for_threads()
        if code:
            _raise_passing(code, self._lib.so)
            raise MisconfiguredError(
                f"{self._lib.so} cannot be used by threads: {codes.name(code)} at C_Initialize with CKF_OS_LOCKING_OK"
            )

    def tokens(self) -> list[Token]:
        """Every token that is present and initialised."""
        with translated("listing the tokens"):
            found = []
            for slot in self._lib.get_slots(token_present=True):
                with suppress(pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
                    token = slot.get_token()
                    if token.flags & TokenFlag.TOKEN_INITIALIZED:
                        info = self._functions.token_info(slot.slot_id) if self._functions else None
                        found.append(Token(token, info))
            return found

    def inspect(self) -> Inspected:
        """Every slot with an initialised token, as its token reports itself now."""
        return Inspected(self._lib.so, self.description, [token.inspect() for token in self.tokens()])

    def token(self, selector: Selector) -> Token:
        """The one token that `selector` names.

        Raises TryLaterError where the module shows no token at all (a network HSM that cannot be reached looks so),
        MisconfiguredError where others are there but not this one, or where two fit.
        """
        present = self.tokens()
        chosen = [token for token in present if token.matches(selector)]
        if len(chosen) == 1:
            return chosen[0]
        listed = ", ".join(str(token.info) for token in present)
        if chosen:
            raise MisconfiguredError(
                f"{len(chosen)} partitions have {selector}: {listed}. Name one by 'serial' instead"
            )
        if not present:
            raise TryLaterError(
                f"{self._lib.so} shows no initialised partition; is the HSM reachable and its client configured?"
            )
        raise MisconfiguredError(f"no partition has {selector}. This module shows: {listed}")

    def initialise(self, label: str, so_pin: str, pin: str) -> None:
        """Make a new token in the first free slot, with both PINs (C_InitToken, C_InitPIN). For SoftHSM, at `init`."""
        with translated("initialising a token"):
            for slot in self._lib.get_slots(token_present=True):
                if not slot.get_token().flags & TokenFlag.TOKEN_INITIALIZED:
                    break
            else:
                raise MisconfiguredError(f"{self._lib.so} has no uninitialised slot; name a partition with --token")
            if self._functions is None:
                raise MisconfiguredError(
                    f"tokens cannot be made through {self._lib.so}; make it with the HSM's own tool"
                )
            code = self._functions.init_token(slot.slot_id, so_pin, label)
            if code:
                raise codes.error(code, "initialising a token")
            with slot.get_token().open(rw=True, so_pin=so_pin) as session:
                session.init_pin(pin)


def _raise_passing(code: int, path: str) -> None:
    """Raise MemberLostError for a code of C_Initialize that an HSM out of reach explains.

    CKR_GENERAL_ERROR is not among them: it is what SoftHSM says to a missing configuration file.
    """
    passing = codes.kind(code) in (Kind.AMBIGUOUS, Kind.DEVICE, Kind.BUSY, Kind.PROCESS)
    if code and code != codes.GENERAL_ERROR and passing:
        raise MemberLostError(f"{codes.name(code)} at C_Initialize of {path}", code)


def _mechanism_name(number: int) -> str:
    try:
        return f"CKM_{Mechanism(number).name.lstrip('_')}"
    except ValueError:  # a vendor's own
        return f"0x{number:08x}"


def _why_not_loaded(path: str, error: pkcs11.PKCS11Error) -> str:
    text = str(error)
    if f"{path}: cannot open shared object file: No such file" in text:
        return f"no PKCS#11 module at {path}; give the path of the vendor's library (.so)"
    if needed := re.search(r"(\S+): cannot open shared object file: No such file", text):
        return (
            f"the PKCS#11 module {path} needs the library {needed[1]}, which is not found; install it, or name its "
            "directory in LD_LIBRARY_PATH in the member's 'environment'"
        )
    if "C_GetFunctionList" in text:
        return f"{path} is a library but not a PKCS#11 module: it has no C_GetFunctionList"
    code = codes.of(type(error).__name__, str(error))
    detail = codes.name(code) + " at C_Initialize; is its configuration file in place?" if code else text
    return f"cannot load the PKCS#11 module {path}: {detail}"


class Token:
    """A token in its slot, before login."""

    def __init__(self, token: pkcs11.Token, counts: TokenInfo | None) -> None:
        """`counts` is None where the module's function list cannot be reached (p11-kit-client)."""
        self._token = token
        self._counts = counts
        self.keys_wanted = 0
        """How many keys its sessions will be asked for."""
        self.info = Partition(
            label=token.label,
            serial=token.serial.decode(errors="replace"),
            slot=token.slot.slot_id,
            manufacturer=token.manufacturer_id,
            model=token.model,
            firmware=".".join(map(str, token.firmware_version)),
            flags=[flag.name for flag in TokenFlag if flag & token.flags and flag.name],
            max_sessions=counts.limit("max_sessions") if counts else None,
        )
        with translated("reading the mechanisms"):
            self.mechanisms = frozenset(int(mechanism) for mechanism in token.slot.get_mechanisms())

    def inspect(self) -> Slot:
        """What the token tells of itself."""
        told, slot = (self._counts.told if self._counts else lambda _: None), self._token.slot
        return Slot(
            partition=self.info,
            mechanisms=sorted(_mechanism_name(number) for number in self.mechanisms),
            sessions=told("sessions"),
            rw_sessions=told("rw_sessions"),
            max_rw_sessions=self._counts.limit("max_rw_sessions") if self._counts else None,
            free_public_memory=told("free_public_memory"),
            total_public_memory=told("total_public_memory"),
            free_private_memory=told("free_private_memory"),
            total_private_memory=told("total_private_memory"),
            hardware=f"{slot.slot_description.strip()} {'.'.join(map(str, self._token.hardware_version))}",
        )

    def matches(self, selector: Selector) -> bool:
        """Whether this is the selector's token; a serial number compares without the padding of CK_TOKEN_INFO."""
        if selector.label is not None:
            return self.info.label == selector.label
        if selector.serial is not None:
            return self.info.serial.strip() == selector.serial.strip()
        return self.info.slot == selector.slot

    def log_in(self, pin: str, *, writable: bool = False) -> Session:
        """The anchor session: one C_Login for the life of this process. Keep it; it is never closed.

        Raises MisconfiguredError without trying where the token says that the PIN is locked or at its final try: that
        PIN was not refused, and may be right.
        """
        if "USER_PIN_LOCKED" in self.info.flags:
            raise MisconfiguredError(f"the PIN of partition {self.info} is locked; its security officer must reset it")
        if "USER_PIN_FINAL_TRY" in self.info.flags:
            raise MisconfiguredError(
                f"partition {self.info} says that one more wrong PIN locks it; log in once with the vendor's own tool "
                "to clear that, then start again"
            )
        try:
            with translated(f"logging in to partition {self.info}"):
                return Session(self._token.open(rw=writable, user_pin=pin), self)
        except MemberLostError as error:
            if error.code == codes.USER_ALREADY_LOGGED_IN:
                return self.session()  # some modules share one login among processes; then the PIN was not looked at
            if codes.kind(error.code) is Kind.AMBIGUOUS and self._counts_a_wrong_pin():
                raise PinRefusedError(f"{error}, and the token now counts a wrong PIN", error.code) from error
            raise

    def _counts_a_wrong_pin(self) -> bool:
        """Whether the token says that a PIN was refused since the last good one: then a return code that we do not
        know, a vendor's, may have meant the PIN."""
        if "USER_PIN_COUNT_LOW" in self.info.flags:
            return True  # it may have been this login: one try less is left than it seems, so none is risked
        with suppress(pkcs11.PKCS11Error):
            return bool(self._token.slot.get_token().flags & TokenFlag.USER_PIN_COUNT_LOW)
        return False

    def session(self) -> Session:
        """A session that shares the anchor's login."""
        with translated("opening a session"):
            return Session(self._token.open(), self)


class Session:
    """One PKCS#11 session: used by one thread. Its keys die with it."""

    def __init__(self, session: pkcs11.Session, token: Token) -> None:
        self._session = session
        self._token = token
        self._search = KeySearch(session, token.keys_wanted)

    def close(self) -> None:
        """End the session; a session that is already gone is no error."""
        with suppress(pkcs11.PKCS11Error):
            self._session.close()

    def prove_alive(self) -> None:
        """The cheapest call that reaches the token: one random byte."""
        with translated("proving a session alive"):
            self._session.generate_random(8)

    def key(self, uri: KeyURI, spki: bytes = b"") -> PrivateKey:
        """The private key that `uri` names on this token; with `spki` (DER), the one of that public key.

        Members of a group hold the same key under labels of their own: what the URI does not find, or finds with
        another public key, is looked for by its public half. Raises RefusedError: none, several, or not for signing.
        """
        info = self._token.info
        named = (
            (uri.token, info.label),
            (uri.serial, info.serial),
            (uri.model, info.model),
            (uri.manufacturer, info.manufacturer),
        )
        if any(wanted is not None and wanted.strip() != found.strip() for wanted, found in named):
            raise KeyMissingError(f"{uri} names another partition than {info}")
        with translated("looking for a key"):
            found = self._search.private(uri.object, uri.id)
            if len(found) > 1:
                ids = ", ".join(sorted(key[Attribute.ID].hex() for key in found))
                raise RefusedError(f"{len(found)} private keys fit {uri} (CKA_ID {ids}); add id=%.. to the URI")
            key = self._made(found[0]) if found else None
            if spki and (key is None or key.spki() != spki):
                found = self._search.private_of(spki) or found
                if len(found) > 1:
                    raise RefusedError(f"{len(found)} private keys on partition {info} have the public key of {uri}")
                key = self._made(found[0]) if found else None
            if key is None:
                raise KeyMissingError(f"no private key {uri} on partition {info}")
            return key

    def _made(self, key: Any) -> PrivateKey:
        return PrivateKey(key, self._search, self._token.mechanisms)

    def look_again(self) -> None:
        """Have the next keys be looked for as if they were the first: they may have come, gone, or been replaced."""
        self._search.look_again()

    def generate(self, label: str, key_type: member_wire.KeyType) -> None:
        """Make a key pair of token objects, the private half sensitive and never extractable."""
        private = {
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.PRIVATE: True,
            Attribute.SIGN: True,
            Attribute.DECRYPT: False,
            Attribute.UNWRAP: False,
        }
        public = {Attribute.VERIFY: True, Attribute.ENCRYPT: False, Attribute.WRAP: False}
        with translated(f"generating {key_type} '{label}'"):
            identifier = self._session.generate_random(64)
            pair: dict[str, Any] = {"label": label, "id": identifier, "store": True}
            if key_type.startswith("rsa-"):
                self._session.generate_keypair(
                    KeyType.RSA,
                    int(key_type.removeprefix("rsa-")),
                    mechanism=Mechanism.RSA_PKCS_KEY_PAIR_GEN,
                    private_template=private,
                    public_template=public,
                    **pair,
                )
                return
            curve = {"p256": "secp256r1", "p384": "secp384r1"}[key_type]
            parameters = self._session.create_domain_parameters(
                KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}, local=True
            )
            private[Attribute.DERIVE] = False
            parameters.generate_keypair(private_template=private, public_template=public, **pair)


class KeyMissingError(RefusedError):
    """The search found no such key: it was deleted, the login was lost, or the store is gone; all three look alike."""


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
            raise _ours(error, "signing") from error
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
