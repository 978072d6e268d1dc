"""What a process of ours gives up before it does anything else: being looked into, new rights, capabilities, a user.

prctl(2), capabilities(7), through ctypes.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

_SET_DUMPABLE, _SET_KEEPCAPS, _CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT = 4, 8, 24, 38, 47
_AMBIENT_RAISE = 2
_CAPABILITIES_V3 = 0x20080522
NET_BIND_SERVICE = 10

_libc = ctypes.CDLL(None, use_errno=True)


def seal() -> None:
    """Nobody of our own user can look into this process (ptrace, /proc/PID/mem and environ): secrets are in it. Nor
    does it, or what it starts, get new rights by a set-user-id program."""
    _prctl(_SET_DUMPABLE, 0)
    no_new_privileges()


def no_new_privileges() -> None:
    """No program that this process starts gets more rights than it has."""
    _prctl(_SET_NO_NEW_PRIVS, 1)


def drop_capabilities(keep: Sequence[int], uid: int | None, gid: int = -1, groups: Sequence[int] = ()) -> None:
    """As root: become `uid` (None: stay), with the capabilities `keep` and no others, also in programs that are
    executed from here. Raises OSError."""
    for one in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        if one not in keep:
            _prctl(_CAPBSET_DROP, one)
    if uid is not None:
        _prctl(_SET_KEEPCAPS, 1 if keep else 0)
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    mask = sum(1 << one for one in keep)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("Ii", _CAPABILITIES_V3, 0)
    if _libc.capset(header, struct.pack("6I", low, low, low, high, high, high)):
        raise OSError(ctypes.get_errno(), "cannot give capabilities up")
    for one in keep:
        _prctl(_CAP_AMBIENT, _AMBIENT_RAISE, one)


def _prctl(what: int, first: int, second: int = 0) -> None:
    unsigned = ctypes.c_ulong
    if _libc.prctl(what, unsigned(first), unsigned(second), unsigned(0), unsigned(0)):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({what}): {os.strerror(number)}")
