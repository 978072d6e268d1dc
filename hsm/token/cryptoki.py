"""A module's own function list (CK_FUNCTION_LIST), called with ctypes: what python-pkcs11 does not offer.

That is C_Initialize with CKF_OS_LOCKING_OK, the numbers of slots, the counts of CK_TOKEN_INFO, C_InitToken, and C_Login
on a session that is open. Calls release the GIL. Knows nothing of pkcs11; `hsm.token.library`, `hsm.token.module` and
`hsm.token.login` call it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any, Self

_CKF_OS_LOCKING_OK = 0x2
_C_INITIALIZE, _C_GET_SLOT_LIST, _C_GET_TOKEN_INFO, _C_INIT_TOKEN, _C_LOGIN = 1, 5, 7, 10, 19
_POINTERS = 69
"""Positions in CK_FUNCTION_LIST (PKCS#11 v3.0 section 3.6), and its size, counted in pointers; the version fills the
first."""
_MAJOR = (2, 3)
_BUFFER_TOO_SMALL = 0x150
_UNAVAILABLE = (2**64 - 1, 2**32 - 1)
"""CK_UNAVAILABLE_INFORMATION of 64 and of 32 bits (section 3.2); a limit of 0 is CK_EFFECTIVELY_INFINITE."""

_NEGATIVE, _ABSURD = 2**63, 2**31 - 1
"""Some tokens tell such numbers of sessions: -2 as CK_ULONG, the greatest int."""


class _InitializeArgs(ctypes.Structure):
    _fields_ = (("mutexes", ctypes.c_void_p * 4), ("flags", ctypes.c_ulong), ("reserved", ctypes.c_void_p))


class TokenInfo(ctypes.Structure):
    """CK_TOKEN_INFO (section 3.2). Memory in bytes."""

    _fields_ = (
        ("names", ctypes.c_char * 96),
        ("flags", ctypes.c_ulong),
        ("max_sessions", ctypes.c_ulong),
        ("sessions", ctypes.c_ulong),
        ("max_rw_sessions", ctypes.c_ulong),
        ("rw_sessions", ctypes.c_ulong),
        ("max_pin", ctypes.c_ulong),
        ("min_pin", ctypes.c_ulong),
        ("total_public_memory", ctypes.c_ulong),
        ("free_public_memory", ctypes.c_ulong),
        ("total_private_memory", ctypes.c_ulong),
        ("free_private_memory", ctypes.c_ulong),
        ("versions_and_time", ctypes.c_char * 20),
    )

    def told(self, field: str) -> int | None:
        """A number of the structure; None where the token does not tell it."""
        value: int = getattr(self, field)
        return None if value in _UNAVAILABLE or value >= _NEGATIVE else value

    def limit(self, field: str) -> int | None:
        """A limit; None where there is none, and where it is more than any token has."""
        value = self.told(field)
        return value if value and value < _ABSURD else None


class FunctionList:
    """The function list of a library that is loaded already."""

    def __init__(self, address: int) -> None:
        self.address = address
        self._functions: Any = ctypes.cast(address, ctypes.POINTER(ctypes.c_void_p))

    @classmethod
    def of(cls, path: str) -> Self | None:
        """The one list of the library at `path`. None where it hands out another at each call: p11-kit does, whose
        lists are connections of their own, of which pkcs11 uses another one."""
        ask = ctypes.CDLL(path).C_GetFunctionList
        found = []
        for _ in range(2):
            pointer = ctypes.c_void_p()
            ask(ctypes.byref(pointer))
            found.append(pointer.value)
        first, second = found
        return cls(first) if first and first == second else None

    @classmethod
    def found_at(cls, address: int | None) -> Self | None:
        """The list at an address, None where there is none: it is read through a pipe, because a system call says
        EFAULT where we would crash, and must look like a list."""
        size = _POINTERS * ctypes.sizeof(ctypes.c_void_p)
        reading, writing = os.pipe()
        try:
            written = ctypes.CDLL(None).write(writing, ctypes.c_void_p(address), ctypes.c_size_t(size))
            found = os.read(reading, size) if written == size else b""
        finally:
            os.close(reading)
            os.close(writing)
        if len(found) != size or address is None:
            return None
        pointers = (ctypes.c_void_p * _POINTERS).from_buffer_copy(found)
        return cls(address) if found[0] in _MAJOR and all(pointers[1:]) else None

    def function(self, position: int, *arguments: Any) -> Callable[..., int]:
        """The function at `position`, taking ctypes `arguments`, returning a CK_RV."""
        return ctypes.CFUNCTYPE(ctypes.c_ulong, *arguments)(self._functions[position])

    def initialise_for_threads(self) -> int:
        """C_Initialize with CKF_OS_LOCKING_OK (section 5.4.1). The return code."""
        arguments = _InitializeArgs(flags=_CKF_OS_LOCKING_OK)
        return self.function(_C_INITIALIZE, ctypes.c_void_p)(ctypes.byref(arguments))

    def slots(self) -> list[int] | int:
        """C_GetSlotList: the slots in which there is a token; or the return code, where that is not CKR_OK."""
        count, present = ctypes.c_ulong(), 1
        call = self.function(_C_GET_SLOT_LIST, ctypes.c_ubyte, ctypes.c_void_p, ctypes.c_void_p)
        while True:
            if code := call(present, None, ctypes.byref(count)):
                return code
            numbers = (ctypes.c_ulong * max(1, count.value))()
            code = call(present, numbers, ctypes.byref(count)) if count.value else 0
            if code != _BUFFER_TOO_SMALL:  # else one was put in meanwhile
                return code or list(numbers[: count.value])

    def copy(self) -> Any:
        """The list as an array of pointers, of which some may be replaced."""
        return (ctypes.c_void_p * _POINTERS).from_buffer_copy(
            (ctypes.c_void_p * _POINTERS).from_address(self.address)
        )  # fmt: skip

    def token_info(self, slot: int) -> TokenInfo | None:
        """C_GetTokenInfo of the token in a slot; None where it does not answer."""
        info = TokenInfo()
        failed = self.function(_C_GET_TOKEN_INFO, ctypes.c_ulong, ctypes.c_void_p)(slot, ctypes.byref(info))
        return None if failed else info

    def init_token(self, slot: int, so_pin: str, label: str) -> int:
        """C_InitToken (section 5.5.7): what is on the token is lost. The return code."""
        call = self.function(_C_INIT_TOKEN, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
        encoded = so_pin.encode()
        return call(slot, encoded, len(encoded), label.encode().ljust(32))

    def log_in(self, session: int, user_type: int, pin: bytes | None) -> int:
        """C_Login (section 5.6.8); without a PIN for a token that has it typed at a pad of its own. The return code."""
        call = self.function(_C_LOGIN, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong)
        return call(session, user_type, pin, len(pin or b""))
