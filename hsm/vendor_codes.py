"""Return codes of vendors' own (CKR_VENDOR_DEFINED, 0x80000000 and above): what they call for, by module.

Two vendors give one number two meanings, and members of one group may be of different vendors. So the rows are chosen
by what a module says of itself (CK_INFO, CK_TOKEN_INFO), in its member process; an operator's rows for that member come
before them. A code without a row is ambiguous, as everywhere: a peer's answer to the same request tells.

A row stands here only where the vendor's header or documentation is public and says so. There are none for
* nShield: no list of codes of its own was found in public documents;
* AWS CloudHSM: "HSM throttling" (docs.aws.amazon.com/cloudhsm) has a busy HSM answer CKR_FUNCTION_FAILED (SDK 5) or
  CKR_OPERATION_ACTIVE (SDK 3), which also mean other things: a peer is asked, or a new session, and nobody is blamed;
* Utimaco: no public list of its codes was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from hsm.codes import Kind

FIRST = 0x80000000
LAST = 2**64 - 1
"""CKR_VENDOR_DEFINED, and the largest CK_ULONG: PKCS#11 v3.0 section 3.6."""

Word = Literal["busy", "lost", "device", "session", "refused", "pin", "ambiguous"]
"""What an operator calls it, and what hsmitm does:
busy: a peer is asked at once and this member left in peace for a moment; nobody is blamed;
lost: the member's process is started again, with a new login;
device: a peer is asked, and the member is blamed;
session: once more on a new session;
refused: the request is wrong anywhere, and not tried again;
pin: the PIN was refused, and is never tried again;
ambiguous: the member or the request, a peer's answer tells; what every code without a row is."""

_KINDS: dict[Word, Kind] = {
    "busy": Kind.BUSY,
    "lost": Kind.PROCESS,
    "device": Kind.DEVICE,
    "session": Kind.SESSION,
    "refused": Kind.REQUEST,
    "pin": Kind.PIN,
    "ambiguous": Kind.AMBIGUOUS,
}

_LUNA: dict[int, Kind] = {
    # Names and numbers: ThalesGroup/pycryptoki, pycryptoki/defines.py (all up to 0x67, and 0x1604);
    # joelhockey/jacknji11, CKR.java, from Luna's cryptoki_v2.h (from 0x8D on). What a name calls for is our reading.
    0x80000007: Kind.PIN,  # CKR_USER_LOCKED_OUT
    0x8000000C: Kind.DEVICE,  # CKR_ACCEL_DEVICE_ERROR
    0x8000001F: Kind.PROCESS,  # CKR_UNABLE_TO_CONNECT
    0x80000020: Kind.PLACE,  # CKR_PARTITION_DISABLED
    0x80000024: Kind.DEVICE,  # CKR_TIMEOUT
    0x8000002B: Kind.DEVICE,  # CKR_DEVICE_TIMEOUT
    0x80000041: Kind.BUSY,  # CKR_AGAIN
    0x80000067: Kind.PIN,  # CKR_CHALLENGE_INCORRECT: the challenge is the PIN of a partition with a PED
    0x8000008D: Kind.PLACE,  # CKR_HSM_RESTART_REQUIRED
    0x80001604: Kind.BUSY,  # CKR_BUSY
    0x80001605: Kind.PROCESS,  # CKR_NETWORK_ERROR
    0x80001606: Kind.DEVICE,  # CKR_SERVICE_UNAVAILABLE
}
_LUNA_DESCRIPTION = "chrystoki"
"""Luna's library describes itself so. Not by the manufacturer alone: SafeNet's ProtectToolkit has other codes."""
_LUNA_MODEL = "luna"


def built_in(description: str) -> Mapping[int, Kind]:
    """The rows for a module or token whose CK_INFO or CK_TOKEN_INFO holds this text (description or model)."""
    text = description.lower()
    return _LUNA if _LUNA_DESCRIPTION in text or text.startswith(_LUNA_MODEL) else {}


def row(code: str, word: str) -> tuple[int, Kind]:
    """A row as an operator writes it: `"0x80000383"`, `"busy"`. Raises ValueError, in a sentence."""
    try:
        number = int(code, 16) if code[:2].lower() == "0x" else -1
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"'{code}' is no return code; write it as the vendor's header does, like \"0x80000383\"")
    kind = next((kind for known, kind in _KINDS.items() if known == word), None)
    if kind is None:
        raise ValueError(f"'{word}' for {code} is none of {', '.join(get_args(Word))}")
    check(number)
    return number, kind


def check(code: int) -> None:
    """Raise ValueError for a code that is no vendor's: what the standard's codes call for is not configured."""
    if not FIRST <= code <= LAST:
        raise ValueError(f"0x{code:x} is no code of a vendor's own; those begin at 0x{FIRST:x}")
