"""A PKCS#11 library: loaded once, made safe for threads, and asked for its tokens.

A trap of python-pkcs11 (0.10.1) is closed here: it calls C_Initialize(NULL), which promises the module that one thread
uses it (PKCS#11 v3.0 section 5.4.1). SoftHSM then drops its locks, and two signing threads corrupt its memory. So the
module is finalised and initialised again with CKF_OS_LOCKING_OK through its own function list (`hsm.token.cryptoki`);
`lib.reinitialize()` would undo that and is never called.
"""

from __future__ import annotations

from contextlib import suppress

import pkcs11
from pkcs11 import TokenFlag

from hsm import codes, vendor_codes
from hsm.errors import MisconfiguredError, TryLaterError
from hsm.token import translation
from hsm.token.cryptoki import FunctionList
from hsm.token.token import Token
from hsm.token.translation import raise_passing, translated, why_not_loaded
from hsm.wire.member import Inspected, Selector


class Module:
    """A loaded module. Once per process; safe for threads from here on."""

    def __init__(self, path: str) -> None:
        """Load the library at `path`. Raises MisconfiguredError where that is not a usable PKCS#11 module, and
        MemberLostError where it says that its HSM is what fails: that may pass."""
        try:
            self._lib = pkcs11.lib(path)
        except pkcs11.PKCS11Error as error:
            code = codes.of(type(error).__name__, str(error))
            raise_passing(code, path)
            raise MisconfiguredError(why_not_loaded(path, error)) from error
        self._functions: FunctionList | None = None
        translation.take(vendor_codes.built_in(self._lib.library_description))
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
            raise_passing(code, self._lib.so)
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
                        found.append(Token(token, info, self._functions))
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
