"""The one place where a pkcs11 exception becomes one of ours, and where a vendor's own code gets its meaning.

About thirty return codes, every vendor's among them, have no exception class in python-pkcs11 (0.10.1) and arrive as
text; `hsm.codes.of` reads them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pkcs11

from hsm import codes, vendor_variables
from hsm.codes import Kind
from hsm.errors import HsmitmError, MemberLostError, MisconfiguredError

_vendors: dict[int, Kind] = {}
"""What this process's module means by its vendor's own codes. A process has one module, and so one such table; only
`take` writes it, before there are sessions."""


def take(rows: Mapping[int, Kind]) -> None:
    """What vendors' own codes call for from now on. Rows that were taken before win: the operator's are taken first."""
    for code, kind in rows.items():
        _vendors.setdefault(code, kind)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """A pkcs11 exception becomes one of ours, its cause kept."""
    try:
        yield
    except pkcs11.PKCS11Error as error:
        raise ours(error, doing) from error


def ours(error: pkcs11.PKCS11Error, doing: str) -> HsmitmError:
    """`error`, met while `doing`, as an error of `hsm.errors`."""
    code = codes.of(type(error).__name__, str(error))
    if code:
        return of_code(code, doing)
    return MemberLostError(f"{type(error).__name__} while {doing}: {error}")


def of_code(code: int, doing: str) -> HsmitmError:
    """A return code that no exception carries, met while `doing`."""
    return codes.error(code, doing, _vendors)


_ARGUMENTS_BAD = 0x07
"""What NSS's softokn says where nobody tells it in pReserved where its database is."""


def not_initialised(code: int, path: str) -> HsmitmError:
    """The library at `path` answered C_Initialize with `code`: MisconfiguredError where an operator must act.

    Everything that an HSM, its service or its network explains may pass: the machine may be up before they are. So does
    CKR_GENERAL_ERROR, which is also what libraries say to a configuration that is missing; a file that is named and not
    there is told apart here.
    """
    text = f"{codes.name(code)} at C_Initialize of {path}"
    kind = _vendors.get(code, codes.kind(code))
    if kind not in (Kind.AMBIGUOUS, Kind.DEVICE, Kind.BUSY, Kind.PROCESS):
        hint = "; it wants arguments of its own: load it by p11-kit's proxy, with x-init-reserved"
        return MisconfiguredError(f"the PKCS#11 module cannot be used: {text}{hint if code == _ARGUMENTS_BAD else ''}")
    if kind is Kind.AMBIGUOUS:
        for name in vendor_variables.CONFIGURATION:
            value = os.environ.get(name, "")
            if value.startswith("/") and not Path(value).exists():
                return MisconfiguredError(f"{text}: {name} names {value}, which is not there")
    hint = "; does its HSM or its service run, and is its configuration in place?" if kind is Kind.AMBIGUOUS else ""
    return MemberLostError(text + hint, code, _vendors.get(code, ""))


def why_not_loaded(path: str, error: pkcs11.PKCS11Error) -> HsmitmError:
    """`error`, met while loading or initialising the library, as what an operator should know and do."""
    if code := codes.of(type(error).__name__, str(error)):
        return not_initialised(code, path)
    text = str(error)
    if f"{path}: cannot open shared object file: No such file" in text:
        return MisconfiguredError(f"no PKCS#11 module at {path}; give the path of the vendor's library (.so)")
    if needed := re.search(r"(\S+): cannot open shared object file: No such file", text):
        return MisconfiguredError(
            f"the PKCS#11 module {path} needs the library {needed[1]}, which is not found; install it, or name its "
            "directory in LD_LIBRARY_PATH in the member's 'environment'"
        )
    if "C_GetFunctionList" in text:
        return MisconfiguredError(f"{path} is a library but not a PKCS#11 module: it has no C_GetFunctionList")
    return MisconfiguredError(f"cannot load the PKCS#11 module {path}: {text}")
