"""A token before and after login: what it says of itself, the anchor session, sessions that share its login, keys found
in them.

A trap of python-pkcs11 (0.10.1) is closed here: `Session.close()` of a session that was opened with a PIN logs every
session of the process out. So the one session that logs in, the anchor, is never closed; all others are opened without
a PIN. A failed login leaks a session in it, too: one more reason to try a PIN once.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import Any

import pkcs11
from pkcs11 import Mechanism, MechanismFlag, TokenFlag

from hsm.errors import RefusedError
from hsm.schemes import SIGNING, PublicKey
from hsm.token import generation, login
from hsm.token.challenges import Challenges
from hsm.token.cryptoki import FunctionList, TokenInfo
from hsm.token.forms import Forms
from hsm.token.private_key import PrivateKey
from hsm.token.public_half import public_of
from hsm.token.search import KeySearch
from hsm.token.translation import translated
from hsm.uri import KeyURI
from hsm.wire import member as member_wire
from hsm.wire.member import USER, Partition, Selector, Slot


def _mechanism_name(number: int) -> str:
    try:
        return f"CKM_{Mechanism(number).name.lstrip('_')}"
    except ValueError:  # a vendor's own
        return f"0x{number:08x}"


_ALIKE = 8
"""Keys of one name that are looked at, and named to an operator."""


class Token:
    """A token in its slot, before login."""

    def __init__(self, token: pkcs11.Token, counts: TokenInfo | None, functions: FunctionList | None = None) -> None:
        """`counts` and `functions` are None where the module's function list cannot be reached."""
        self._token = token
        self._functions = functions
        self._counts = counts
        self.challenges = Challenges()
        self.keys_wanted = 0
        """How many keys its sessions will be asked for."""
        self._first: pkcs11.Session | None = None
        self._writable = False
        self._forms: dict[KeyURI, Forms] = {}
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

    @functools.cached_property
    def mechanisms(self) -> frozenset[int]:
        """What it can do; asked of the token that is used, and of no other."""
        with translated("reading the mechanisms"):
            return frozenset(int(mechanism) for mechanism in self._token.slot.get_mechanisms())

    def makers(self, key_type: member_wire.KeyType) -> list[Mechanism]:
        """The mechanisms that make a key of this type."""
        return generation.makers(self._token.slot, self.mechanisms, key_type)

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

    @functools.cached_property
    def _signing(self) -> frozenset[int]:
        """The mechanisms of `hsm.schemes` that the token says to sign with (CKF_SIGN)."""
        return frozenset(one for one in SIGNING if self._may(one, MechanismFlag.SIGN))

    @functools.cached_property
    def decrypts(self) -> bool:
        """Whether it says to decrypt with CKM_RSA_PKCS (CKF_DECRYPT)."""
        return self._may(int(Mechanism.RSA_PKCS), MechanismFlag.DECRYPT)

    def _may(self, mechanism: int, flag: MechanismFlag) -> bool:
        """Whether the token lists `mechanism` for this use (C_GetMechanismInfo, PKCS#11 v3.0 section 5.5.6); where it
        tells no flags at all, it may."""
        if mechanism not in self.mechanisms:
            return False
        try:
            flags = self._token.slot.get_mechanism_info(Mechanism(mechanism)).flags
        except pkcs11.PKCS11Error:
            return True
        return bool(flags & flag) or not flags

    def forms(self, uri: KeyURI) -> Forms:
        """In which forms the key of this URI signs: one object for all sessions."""
        if uri not in self._forms:
            self._forms.setdefault(uri, Forms(self.mechanisms, self._signing))
        return self._forms[uri]

    def matches(self, selector: Selector) -> bool:
        """Whether this is the selector's token; a serial number compares without the padding of CK_TOKEN_INFO."""
        if selector.label is not None:
            return self.info.label == selector.label
        if selector.serial is not None:
            return self.info.serial.strip() == selector.serial.strip()
        return self.info.slot == selector.slot

    def try_session(self, *, writable: bool = False) -> None:
        """See that the token gives sessions, before a PIN is tried. `writable`: all are opened read-write."""
        self._first, self._writable = login.first_session(self._token, self.info, writable=writable)

    def log_in(self, pin: str | None, *, writable: bool = False, user_type: int = USER) -> Session:
        """The anchor session: one C_Login for the life of this process. Keep it; it is never closed.

        `pin` is None for the HSM's own PIN pad. Raises the errors of `hsm.token.login.log_in`, and of `try_session`
        where that was not called before.
        """
        if self._first is None:
            self.try_session(writable=writable)
        assert self._first is not None
        first, self._first = self._first, None
        return Session(login.log_in(first, self.info, self._functions, pin, user_type), self)

    def session(self) -> Session:
        """A session that shares the anchor's login, where there is one."""
        if self._first is not None:
            first, self._first = self._first, None
            return Session(first, self)
        with translated("opening a session"):
            return Session(self._token.open(rw=self._writable), self)


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
        """The cheapest call that reaches the token: a few random bytes. Some tokens give no fewer than eight."""
        with translated("proving a session alive"):
            self._session.generate_random(8 * 16)

    def key(self, uri: KeyURI, spki: bytes = b"", *, anywhere: bool = True) -> PrivateKey:
        """The private key that `uri` names on this token; with `spki` (DER), the one of that public key.

        Of several that the URI fits, the public half tells the right one. `anywhere`: members of a group hold the same
        key under labels of their own, so what the URI does not find, or finds with another public key, is looked for
        by its public half. The same key twice is served by either. Raises RefusedError: none, or several.
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
            found = [self._made(key, uri) for key in self._search.private(uri.object, uri.id)]
            left = 0
            if spki:
                wanted = public_of(spki)
                key, left = self._of(wanted, found)
                if key is None and anywhere:
                    key, left = self._anywhere(wanted, uri)
                if key is not None:
                    return key
            if found:
                return self._only(found, uri, spki)
        tried = f"; {left} more private keys could be it, and are tried later: name it by its CKA_ID" if left else ""
        raise KeyMissingError(f"no private key {uri} on partition {info}{tried}")

    def _of(self, wanted: PublicKey, keys: list[PrivateKey], *, beside: bool = True) -> tuple[PrivateKey | None, int]:
        """The one of `keys` that has this public half, and how many were not asked. What objects `beside` them say may
        be looked at. Of the same key twice one that signs."""
        verdicts = [(key, key.judge(wanted, beside=beside)) for key in keys]
        key = _best([key for key, verdict in verdicts if verdict])
        left = 0
        if key is None:
            key, left = self._token.challenges.find(wanted, [key for key, verdict in verdicts if verdict is None])
            if key is not None:
                key.settle(wanted)
        return key, left

    def _anywhere(self, wanted: PublicKey, uri: KeyURI) -> tuple[PrivateKey | None, int]:
        key, left = self._of(wanted, [self._made(key, uri) for key in self._search.private_of(wanted)])
        if key is None:  # one search for each, of what is beside it, would take too long
            key, left = self._of(wanted, [self._made(key, uri) for key in self._search.alike(wanted)], beside=False)
        return key, left

    def _only(self, keys: list[PrivateKey], uri: KeyURI, spki: bytes) -> PrivateKey:
        """The one that the URI names, where no public half is known to tell. Raises RefusedError for several."""
        if len(keys) == 1:
            return keys[0]
        if not spki and len(keys) <= _ALIKE and len({key.spki() for key in keys}) == 1 and keys[0].public:
            return _best(keys) or keys[0]
        ids = sorted(key.mark[2].hex() for key in keys)
        told_apart = len(set(ids)) == len(ids)
        advice = "add id=%.. to the URI" if told_apart else "give each a CKA_ID of its own with the HSM's own tool"
        none = "; none of them is the certificate's" if spki else ""
        raise RefusedError(f"{len(keys)} private keys fit {uri} (CKA_ID {', '.join(ids[:_ALIKE])}){none}; {advice}")

    def _made(self, key: Any, uri: KeyURI) -> PrivateKey:
        token = self._token
        return PrivateKey(key, self._search, token.forms(uri), token.challenges, may_decrypt=token.decrypts)

    def look_again(self) -> None:
        """Have the next keys be looked for as if they were the first: they may have come, gone, or been replaced."""
        self._search.look_again()

    def generate(self, label: str, key_type: member_wire.KeyType) -> KeyURI:
        """Make a key pair of token objects, the private half sensitive and never extractable where the token takes
        that. How the token calls it. Raises RefusedError, MemberLostError."""
        token = self._token
        return generation.make(self._session, token.makers(key_type), token.info.manufacturer, label, key_type)


def _best(keys: list[PrivateKey]) -> PrivateKey | None:
    """Of the same key several times: one that signs."""
    return next((key for key in keys if len(keys) == 1 or key.signs), keys[0] if keys else None)


class KeyMissingError(RefusedError):
    """The search found no such key: it was deleted, the login was lost, or the store is gone; all three look alike."""
