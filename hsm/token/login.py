"""The one C_Login of a member process: what is looked at before it, and what each answer says about the PIN.

Tokens say a wrong PIN in many ways. CKR_PIN_INCORRECT is the standard's; CKR_ARGUMENTS_BAD, CKR_DEVICE_ERROR,
CKR_USER_NOT_LOGGED_IN, CKR_FUNCTION_REJECTED and CKR_SESSION_HANDLE_INVALID occur, too. So every answer but success
and CKR_USER_ALREADY_LOGGED_IN becomes a PinRefusedError or a LoginError, which nobody repeats.

python-pkcs11 (0.10.1) has no C_Login but as part of opening a session, so that it is not known which of the two failed.
Here a session is opened first: an HSM that gives none has not seen the PIN. Then C_Login is called through the module's
own function list; where that is not to be had (`hsm.token.library`), the session is closed, and another is opened with
the PIN. Called by `hsm.token.token` alone.
"""

from __future__ import annotations

from contextlib import suppress

import pkcs11
from pkcs11 import TokenFlag

from hsm import codes
from hsm.codes import Kind
from hsm.errors import HsmitmError, LoginError, MisconfiguredError, PinRefusedError
from hsm.token import translation
from hsm.token.cryptoki import FunctionList
from hsm.token.translation import translated
from hsm.wire.member import DANGEROUS, Partition

_AWAY = frozenset({Kind.PROCESS, Kind.DEVICE, Kind.BUSY})
"""What a token says for other reasons than that a session is read-only, or is not."""


def first_session(token: pkcs11.Token, info: Partition, *, writable: bool) -> tuple[pkcs11.Session, bool]:
    """A session, nobody logged in; and whether it is read-write: as was asked for, or as the token alone gives them.
    AWS CloudHSM before 5.5 refuses read-only ones, a token that is write-protected all others. Raises what opening it
    raised."""
    with translated(f"opening a session on partition {info}"):
        try:
            return token.open(rw=writable), writable
        except pkcs11.PKCS11Error as error:
            if codes.kind(codes.of(type(error).__name__, str(error))) in _AWAY:
                raise
            try:
                return token.open(rw=not writable), not writable
            except pkcs11.PKCS11Error:
                raise error from None


def refuse_danger(info: Partition) -> None:
    """Raise MisconfiguredError where the token says that the PIN is locked or at its final try: that PIN was not
    refused, and may be right."""
    if "USER_PIN_LOCKED" in info.flags:
        raise MisconfiguredError(f"the PIN of partition {info} is locked; its security officer must reset it")
    if "USER_PIN_FINAL_TRY" in info.flags:
        raise MisconfiguredError(
            f"partition {info} says that one more wrong PIN locks it; log in once with the vendor's own tool to clear "
            "that, then start again"
        )


def log_in(
    session: pkcs11.Session, info: Partition, functions: FunctionList | None, pin: str | None, user_type: int
) -> pkcs11.Session:
    """C_Login, once. The session that is logged in: `session`, or without `functions` another one in its place.

    `pin` is None for the HSM's own PIN pad. A process that is logged in already is taken for logged in: some modules
    share one login among processes, and then the PIN was not looked at. Raises PinRefusedError or LoginError for what
    the token answers, and MisconfiguredError without calling C_Login.
    """
    refuse_danger(info)
    if pin is None and "PROTECTED_AUTHENTICATION_PATH" not in info.flags:
        raise MisconfiguredError(f"partition {info} has no PIN pad (CKF_PROTECTED_AUTHENTICATION_PATH); give its PIN")
    doing = f"logging in to partition {info}"
    try:
        if functions is None:
            return _anew(session, pin, user_type, doing)
        handle: int = session.handle  # type: ignore[attr-defined]  # of the class that implements it
        if code := functions.log_in(handle, user_type, None if pin is None else pin.encode()):
            raise translation.of_code(code, doing)
    except HsmitmError as error:
        if error.code == codes.USER_ALREADY_LOGGED_IN:
            return session if functions else session.token.open(rw=session.rw)
        raise _meant(error, session.token, info) from error
    return session


def _anew(session: pkcs11.Session, pin: str | None, user_type: int, doing: str) -> pkcs11.Session:
    """Another session, which logs in as it is opened. It must never be closed: that would log the process out."""
    token, writable = session.token, session.rw
    with suppress(pkcs11.PKCS11Error):
        session.close()
    given = pkcs11.PROTECTED_AUTH if pin is None else pin
    with translated(doing):
        return token.open(rw=writable, user_pin=given, user_type=user_type)  # type: ignore[arg-type]  # a vendor's


def _meant(error: HsmitmError, token: pkcs11.Token, info: Partition) -> LoginError:
    """What a failed C_Login says of the PIN."""
    if isinstance(error, LoginError):
        return error
    if _counts_a_wrong_pin(token, info):
        return PinRefusedError(f"{error}, and the token now counts a wrong PIN", error.code, error.calls_for)
    hint = ""
    if "LOGIN_REQUIRED" not in info.flags:
        hint = "; the token says that it needs no login: write pin = { none = true }"
    elif error.code == codes.USER_TYPE_INVALID:
        hint = "; give the member's user_type, as the vendor's documents name it"
    # The same request would be refused again: this PIN, for this type of user.
    kind = PinRefusedError if codes.called_for(error) is Kind.REQUEST else LoginError
    return kind(f"{error}{hint}", error.code, error.calls_for)


def _counts_a_wrong_pin(token: pkcs11.Token, info: Partition) -> bool:
    """Whether the token says that a PIN was refused since the last good one: then a code that names no PIN may have
    meant it. Where it said so before this login, one try less is left than it seems, so none is risked."""
    if not DANGEROUS.isdisjoint(info.flags):
        return True
    with suppress(pkcs11.PKCS11Error):
        flags = token.slot.get_token().flags
        return any(flags & TokenFlag[name] for name in DANGEROUS)
    return False
