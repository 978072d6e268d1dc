"""What went wrong, split by what the caller does next. Builtin exceptions everywhere else.

An instance crosses a process boundary as its class name, its message, its PKCS#11 return code and what that calls for
(`hsm.wire.frames.Fault`); its cause and its traceback stay where it was raised. Messages are written for an operator:
what is wrong, and what would be right.
"""

from __future__ import annotations

from typing import Self


class HsmitmError(Exception):
    """Base of the family; never raised itself."""

    def __init__(self, message: str, code: int = 0, calls_for: str = "") -> None:
        """`code` is the PKCS#11 return code behind it, 0 where there was none. `calls_for` is a `hsm.codes.Kind`, where
        the member it came from knows better than the standard's table: a vendor's own code."""
        super().__init__(message)
        self.code = code
        self.calls_for = calls_for


class TryLaterError(HsmitmError):
    """Nothing is wrong with the request: soon it may succeed."""


class UnavailableError(TryLaterError):
    """No member is in service for the key, or none answered well within the request's budget."""


class OverloadedError(TryLaterError):
    """More is asked for than the members in service can sign in time; said at once instead of queueing it."""


class DeadlineError(HsmitmError):
    """The request's own deadline passed before an answer came."""


class MemberLostError(HsmitmError):
    """The member or its HSM failed under the request. A signature has no side effect, so a peer may be asked."""


class SessionLostError(MemberLostError):
    """One PKCS#11 session is unusable. Inside the member: discard it with its key objects and try once on a new one."""


class KeyLostError(MemberLostError):
    """A key that the member had is not found any more: deleted, or the login is lost, or the store is gone."""


class SchemeLostError(KeyLostError):
    """A signature scheme that the member made with a key is not allowed any more; others may be."""


class BadSignatureError(MemberLostError):
    """The member answered with a signature that does not verify. It never leaves the signer."""


class RefusedError(HsmitmError):
    """The request itself is not allowed or not possible. Never retry."""


class MisconfiguredError(HsmitmError):
    """The operator must act; retrying cannot help. At start-up it ends the process."""


class LoginError(MisconfiguredError):
    """A login failed, and what the token said is no plain refusal of this PIN. Never tried again by ourselves: it may
    have counted as a wrong PIN, and partitions lock."""


class PinRefusedError(LoginError):
    """The token did not accept the PIN, or it is one that it refused before. Never try it again: partitions lock."""


class BadNews(str):  # it has one attribute more
    """A line of what an operator's command did which tells of a failure; the rest was done all the same."""

    lasting: bool
    """Whether the operator must act: by itself it does not get better."""

    def __new__(cls, line: str, error: HsmitmError | None = None, *, lasting: bool = False) -> Self:
        """`error` is what failed, where there is one."""
        made = super().__new__(cls, line)
        made.lasting = lasting or isinstance(error, MisconfiguredError)
        return made


_FAMILY: dict[str, type[HsmitmError]] = {
    kind.__name__: kind
    for kind in (
        TryLaterError,
        UnavailableError,
        OverloadedError,
        DeadlineError,
        MemberLostError,
        SessionLostError,
        KeyLostError,
        SchemeLostError,
        BadSignatureError,
        RefusedError,
        MisconfiguredError,
        LoginError,
        PinRefusedError,
    )
}


def from_wire(kind: str, message: str, code: int = 0, calls_for: str = "") -> HsmitmError:
    """The error that a peer process named. A kind of a newer peer that we do not know is a refusal: never retried."""
    return _FAMILY.get(kind, RefusedError)(message, code, calls_for)
