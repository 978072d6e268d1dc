"""The way of one request over the members: what to do after each failure, and whom to blame. No I/O, no clock.

`Attempts` is the record of one request. The rules:
* a wrong request is refused at once;
* a member that failed is tried again up to `auto_recovery_retry` times, within the time of one attempt;
* then a peer is asked, four attempts in all;
* an ambiguous code blames a member only when a peer then succeeds. CKR_GENERAL_ERROR from two attempts condemns the
  request instead: no client can take members down one after another with bad input. CKR_FUNCTION_FAILED and vendors'
  codes, which busy HSMs answer too, get all four attempts, with a pause;
* a token that says itself that it has no room is not blamed, and a peer is asked at once; with a pause, where that says
  the same.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct, field

from hsm import codes
from hsm.backoff import Backoff
from hsm.codes import Kind
from hsm.errors import BadSignatureError, DeadlineError, HsmitmError, KeyLostError, MemberLostError, RefusedError

TRIES = 4
"""Attempts for one request over all members, without the retries at one member."""
_PAUSE = Backoff(0.005, 0.4)


class Step(StrEnum):
    """What comes after a failed attempt."""

    AGAIN = "again"
    """The same member, after a pause."""
    ELSEWHERE = "elsewhere"
    """A peer, or this member if there is none."""
    GIVE_UP = "give up"


class Verdict(Struct, frozen=True):
    """What to do after a failed attempt. `blame` is whether the member failed for certain."""

    step: Step
    blame: bool = False
    pause_s: float = 0.0


class Attempts(Struct):
    """The attempts of one request so far. `tried` are members' names; `doubtful` failed for a reason not yet known."""

    tried: set[str] = field(default_factory=set)
    doubtful: dict[str, HsmitmError] = field(default_factory=dict)
    count: int = 0
    retries_here: int = 0
    ambiguous: int = 0
    busy: int = 0

    @property
    def rejected(self) -> bool:
        """Whether the attempts say that the request itself is what fails."""
        return self.ambiguous > 1 and self.ambiguous == self.count

    def failed(self, member: str, error: HsmitmError, *, retries: int, time_left: bool) -> Verdict:
        """`member` failed with `error`. `retries` is auto_recovery_retry; `time_left` of this attempt's time."""
        if isinstance(error, RefusedError):
            return Verdict(Step.GIVE_UP)
        kind = codes.called_for(error)
        ambiguous, busy = type(error) is MemberLostError and kind is Kind.AMBIGUOUS, kind is Kind.BUSY
        blame = not ambiguous and not busy and not isinstance(error, (DeadlineError, KeyLostError))
        lost_here = isinstance(error, (KeyLostError, BadSignatureError))
        recoverable = isinstance(error, MemberLostError) and not ambiguous and not lost_here
        if recoverable and time_left and self.retries_here < retries:
            self.retries_here += 1
            return Verdict(Step.AGAIN, blame, _PAUSE.after(self.retries_here))
        self.tried.add(member)
        self.count += 1
        self.retries_here = 0
        self.busy += busy
        if ambiguous:
            self.ambiguous += 1
            self.doubtful[member] = error
        condemned = error.code == codes.GENERAL_ERROR and self.ambiguous > 1
        if self.count >= TRIES or condemned:
            return Verdict(Step.GIVE_UP, blame)
        alike = self.ambiguous if ambiguous else self.busy if busy else 0
        pause = _PAUSE.after(alike + 3) if alike > 1 else 0.0
        return Verdict(Step.ELSEWHERE, blame, pause)

    def succeeded(self, member: str) -> list[str]:
        """`member` signed after all. The members that the request's ambiguous failures are now blamed on."""
        return [name for name in self.doubtful if name != member]


class RetryBudget:
    """Retries that a group may make: a fifth of its requests, and some at rest. It stops a broken group from being
    asked four times as much as a sound one. Requests that fail without a retry left fail with their own error."""

    SHARE = 0.2

    def __init__(self, rest: int = 100) -> None:
        """`rest` retries may come at once: those of all requests in flight at a member that is lost."""
        self.rest = rest
        self._left = float(rest)

    def request(self, slots: int = 0) -> None:
        """A request came. `slots` requests can be in flight: as many can be lost at once, so that many retries there
        are at rest at least."""
        if slots > self.rest:
            self._left += slots - self.rest
            self.rest = slots
        self._left = min(self._left + self.SHARE, float(self.rest))

    def retry(self) -> bool:
        """Whether one more retry may be made; it is counted."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
