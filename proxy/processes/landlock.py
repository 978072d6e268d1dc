"""Landlock (landlock(7)): a process keeps itself, and all that it starts, from files it has no use for. Linux 5.13.

Python has no binding of it that distributions carry; three system calls, through ctypes. A process in such a cage can
also not look into others (ptrace, /proc/PID/mem) that are outside of it, nor mount; from ABI 6 on it cannot signal them
or reach their abstract sockets. UNIX sockets that have a path it still reaches.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_RIGHTS = ((1, (1 << 13) - 1), (2, 1 << 13), (3, _TRUNCATE), (5, _IOCTL))
"""What may be taken away, by the ABI from which on the kernel knows it (linux/landlock.h)."""
_SCOPES = 0b11
"""Abstract UNIX sockets and signals, from ABI 6 on."""

READS, LISTS, WRITES, DEVICES = "reads", "lists", "writes", "devices"
_ALLOWED = {
    READS: _EXECUTE | _READ | _LIST,
    LISTS: _LIST,
    WRITES: ~(_EXECUTE | _IOCTL | (1 << 6) | (1 << 11)),  # nor device files
    DEVICES: _READ | _WRITE | _IOCTL | _TRUNCATE,
}

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """The version that this kernel has; 0 where there is none, or a container forbids it."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION)))


def handled(version: int) -> int:
    """All rights that a kernel of this ABI can take away."""
    return sum(rights for since, rights in _RIGHTS if since <= version)


class Rules:
    """What stays allowed. Made with rights of before, applied with `restrict`."""

    def __init__(self) -> None:
        """Raises OSError where the kernel has no Landlock."""
        version = abi()
        self._handled = handled(version)
        scoped = _SCOPES if version >= 6 else 0
        attributes = struct.pack("QQQ", self._handled, 0, scoped)
        size = 24 if version >= 6 else 16 if version >= 4 else 8
        self._descriptor = _called(_libc.syscall(_CREATE_RULESET, attributes[:size], size, 0))

    def allow(self, kind: str, paths: Iterable[str]) -> None:
        """Add what stands at the paths and beneath. What is not there is passed over."""
        for path in paths:
            with suppress(OSError):
                self._allow(_ALLOWED[kind] & self._handled, path)

    def _allow(self, rights: int, path: str) -> None:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                rights &= _OF_FILES
            if rights:
                beneath = struct.pack("=Qi", rights, descriptor)
                _called(_libc.syscall(_ADD_RULE, self._descriptor, _PATH_BENEATH, beneath, 0))
        finally:
            os.close(descriptor)

    def restrict(self) -> None:
        """Give up everything else, for good. Needs PR_SET_NO_NEW_PRIVS before. Raises OSError."""
        _called(_libc.syscall(_RESTRICT_SELF, self._descriptor, 0))
        os.close(self._descriptor)


def _called(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
