"""A module's own function list (CK_FUNCTION_LIST), called with ctypes: what python-pkcs11 does not offer.

That is C_Initialize with CKF_OS_LOCKING_OK, the session limit of CK_TOKEN_INFO, and C_InitToken. Calls release the GIL.
Knows nothing of pkcs11; `hsm.module` is its only caller.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

_CKF_OS_LOCKING_OK = 0x2
_C_INITIALIZE, _C_FINALIZE, _C_GET_TOKEN_INFO, _C_INIT_TOKEN = 1, 2, 7, 10
"""Positions in CK_FUNCTION_LIST (PKCS#11 v3.0 section 3.6), counted in pointers; the version fills the first."""
_NO_LIMIT = (0, 2**64 - 1, 2**32 - 1)
"""CK_EFFECTIVELY_INFINITE, CK_UNAVAILABLE_INFORMATION of 64 and of 32 bits (section 3.2)."""


class _InitializeArgs(ctypes.Structure):
    _fields_ = (("mutexes", ctypes.c_void_p * 4), ("flags", ctypes.c_ulong), ("reserved", ctypes.c_void_p))


class _TokenInfo(ctypes.Structure):
    _fields_ = (
        ("names", ctypes.c_char * 96),
        ("flags", ctypes.c_ulong),
        ("max_sessions", ctypes.c_ulong),
        ("rest", ctypes.c_ulong * 9),
        ("versions_and_time", ctypes.c_char * 20),
    )


class FunctionList:
    """The function list of the library at a path, which is loaded already."""

    def __init__(self, path: str) -> None:
        pointer = ctypes.c_void_p()
        ctypes.CDLL(path).C_GetFunctionList(ctypes.byref(pointer))
        self._functions: Any = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_void_p))

    def function(self, position: int, *arguments: Any) -> Callable[..., int]:
        """The function at `position`, taking ctypes `arguments`, returning a CK_RV."""
        return ctypes.CFUNCTYPE(ctypes.c_ulong, *arguments)(self._functions[position])

    def finalise(self) -> int:
        """C_Finalize. The return code."""
        return self.function(_C_FINALIZE, ctypes.c_void_p)(None)

    def initialise_for_threads(self) -> int:
        """C_Initialize with CKF_OS_LOCKING_OK (section 5.4.1). The return code."""
        arguments = _InitializeArgs(flags=_CKF_OS_LOCKING_OK)
        return self.function(_C_INITIALIZE, ctypes.c_void_p)(ctypes.byref(arguments))

    def max_sessions(self, slot: int) -> int | None:
        """ulMaxSessionCount of the token in a slot; None where it names no limit or does not answer."""
        info = _TokenInfo()
        if self.function(_C_GET_TOKEN_INFO, ctypes.c_ulong, ctypes.c_void_p)(slot, ctypes.byref(info)):
            return None
        return None if info.max_sessions in _NO_LIMIT else info.max_sessions

    def init_token(self, slot: int, so_pin: str, label: str) -> int:
        """C_InitToken (section 5.5.7): what is on the token is lost. The return code."""
        call = self.function(_C_INIT_TOKEN, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
        encoded = so_pin.encode()
        return call(slot, encoded, len(encoded), label.encode().ljust(32))
