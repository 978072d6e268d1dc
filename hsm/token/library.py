"""A PKCS#11 library as python-pkcs11 holds it, but for two traps of that (0.10.1), which are closed here.

It calls C_Initialize(NULL), which promises the module that one thread uses it (PKCS#11 v3.0 section 5.4.1). SoftHSM
then drops its locks, and two signing threads corrupt its memory. To finalise it and initialise it again is no cure:
tpm2-pkcs11 has no locks any more, and a network HSM's client connects twice. So a module is initialised once, with
CKF_OS_LOCKING_OK, through its own function list (`hsm.token.cryptoki`). `reinitialize()` would undo that: never called.

And it lists slots by asking each of them about itself: one that fails, or hangs, hides all others. So the function list
that it gets is a copy, whose C_GetSlotList names just the slot that is asked for.

p11-kit hands out another function list at each call, each a connection of its own. It has locks of its own whatever it
is told, so that python-pkcs11's way is right there; the list that python-pkcs11 has got is found in its object then.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import pkcs11
from pkcs11 import _pkcs11

from hsm.token import translation
from hsm.token.cryptoki import FunctionList
from hsm.token.translation import translated

_C_GET_SLOT_LIST = 5
_Listing = ctypes.CFUNCTYPE(
    ctypes.c_ulong, ctypes.c_ubyte, ctypes.POINTER(ctypes.c_ulong), ctypes.POINTER(ctypes.c_ulong)
)

_loaded: list[Library] = []
"""For the life of the process: python-pkcs11 would finalise and unload one that nobody holds, under its own tokens."""


class Library(_pkcs11.lib):
    """A library that is loaded and initialised, once for each process; safe for threads."""

    def __init__(self, path: str) -> None:
        """Raises pkcs11.PKCS11Error, and what `hsm.token.translation.not_initialised` makes of a return code."""
        self.functions: FunctionList | None = None
        """None where the module's own function list is not to be had."""
        self._asked = threading.local()
        self._lent: tuple[Any, ...] = ()
        super().__init__(path)
        _loaded.append(self)
        self._lend()

    def initialize(self) -> None:
        """C_Initialize, in place of python-pkcs11's, whose `__init__` calls this."""
        self.functions = FunctionList.of(self.so)
        if self.functions is None:
            super().initialize()
        elif code := self.functions.initialise_for_threads():
            raise translation.not_initialised(code, self.so)

    def slot_numbers(self) -> list[int]:
        """The slots in which there is a token. Raises HsmitmError."""
        doing = "listing the slots"
        with translated(doing):
            if self.functions is None:
                return [slot.slot_id for slot in self.get_slots(token_present=True)]
            found = self.functions.slots()
        if isinstance(found, int):
            raise translation.of_code(found, doing)
        return found

    def slot(self, number: int) -> pkcs11.Slot:
        """One of them, and no other is asked anything. Raises pkcs11.PKCS11Error."""
        self._asked.number = number
        found = [slot for slot in self.get_slots(token_present=True) if slot.slot_id == number]
        if not found:
            raise pkcs11.TokenNotPresent
        return found[0]

    def _lend(self) -> None:
        """Give python-pkcs11 a copy of the function list, if it holds the list where this version of it does: as the
        first field of the object. Otherwise, or where the system allows no callback, slots are listed together."""
        held = ctypes.c_void_p.from_address(id(self) + object.__basicsize__)
        if self.functions is None:
            self.functions = FunctionList.found_at(held.value)
        if self.functions is None or held.value != self.functions.address:
            return
        try:
            listing = _Listing(self._name_one)
        except (MemoryError, OSError):  # MemoryDenyWriteExecute, with a libffi of before 3.4
            return
        copy = self.functions.copy()
        copy[_C_GET_SLOT_LIST] = ctypes.cast(listing, ctypes.c_void_p)
        self._lent = copy, listing  # what pkcs11 and its slots point to from now on
        held.value = ctypes.addressof(copy)

    def _name_one(self, _: int, numbers: Any, count: Any) -> int:
        if numbers:
            numbers[0] = self._asked.number
        count[0] = 1
        return 0
