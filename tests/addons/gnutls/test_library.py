"""addons/gnutls/library.py: what an operator reads where GnuTLS cannot be used."""

from __future__ import annotations

import pytest

from addons.gnutls import library
from hsm.errors import MisconfiguredError
from tests.addons.gnutls.peers import run_python


def test_missing_library() -> None:
    """An operator without GnuTLS reads which package is missing."""
    with pytest.raises(MisconfiguredError, match=r"libgnutls.so.99 cannot be used: .*needs GnuTLS .*libgnutls30"):
        library.load("libgnutls.so.99")


def test_other_library() -> None:
    """A library that is no GnuTLS is refused with a text, not with a crash."""
    with pytest.raises(MisconfiguredError, match=r"libc.so.6 cannot be used: .*gnutls_check_version"):
        library.load("libc.so.6")


def test_old_library() -> None:
    """A GnuTLS that is too old is named with its version."""
    with pytest.raises(MisconfiguredError, match=r"libgnutls.so.30 is GnuTLS 3\.\d+\.\d+, which is too old"):
        library.load(oldest="99.0.0")


def test_no_executable_memory() -> None:
    """Where a service manager denies executable memory the reason is told, and nothing fails before it is asked."""
    program = """
import ctypes
from hsm.errors import MisconfiguredError
denied = ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0  # PR_SET_MDWE, Linux 6.3
from addons.gnutls import connection, library
try:
    library.load()
    print("loaded", denied)
except MisconfiguredError as error:
    print(error)
"""
    printed = run_python(["-c", program])
    if printed == "loaded False\n":
        pytest.skip("this kernel cannot deny it")
    assert "MemoryDenyWriteExecute" in printed
