"""The standing of a member: its state, why it is so, and what one failure concludes about it. No I/O.

The group and requests change it as they learn something; `hsm.member.succession` acts on it when it wakes up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from hsm import codes
from hsm.backoff import Backoff
from hsm.codes import Kind
from hsm.errors import (
    BadSignatureError,
    DeadlineError,
    HsmitmError,
    KeyLostError,
    MemberLostError,
    MisconfiguredError,
    RefusedError,
    SchemeLostError,
)
from hsm.member import states
from hsm.member.life import Life
from hsm.member.metrics import MemberMetrics
from hsm.member.states import SERVING, Event, State
from hsm.wire.member import Opened

logger = logging.getLogger("hsmitm.member")

_REST = Backoff(0.1, 2.0)
"""How long peers come first once a token has said that it has no room: as long again whenever it says so again."""


class Standing:
    """What is known of one member. Others read every field; each says who writes it where that is not this class."""

    def __init__(self, name: str, metrics: MemberMetrics, changed: Callable[[], None]) -> None:
        """`changed` is called after each change of the state."""
        self.name = name
        self.state = State.STOPPED
        self.since = time.time()
        self.reason = "not started"
        self.last_error = ""
        self.last_error_at = 0.0
        self.settled = asyncio.Event()
        """Set once a start has come to something; cleared by `Succession` where it asks for another start."""
        self.attention = asyncio.Event()
        """Wakes `Succession.run`, which clears it. Set here, by `Succession`, and when a process ends."""
        self.life: Life | None = None
        """The running process. Written by `Succession` alone."""
        self.opened: Opened | None = None
        """What the latest life found; it stays when that is lost. Written by `Succession` alone."""
        self.test_asked = False
        """A test signature is wanted. Set here, cleared by `Examination`, which makes it."""
        self._metrics = metrics
        self._changed = changed
        self._bad_signatures: list[float] = []
        self._rests = 0
        self._rests_until = 0.0

    @property
    def serving(self) -> bool:
        """Whether a request may be sent: in service, and its process not known to be gone."""
        return self.state in SERVING and self.life is not None and not self.life.lost

    @property
    def resting(self) -> bool:
        """Whether its token said a moment ago that it has no room: peers come first."""
        return time.monotonic() < self._rests_until

    @property
    def gave_bad_signature(self) -> bool:
        """Whether a signature of it, in service, did not verify."""
        return bool(self._bad_signatures)

    def running(self) -> Life:
        """The process to ask. Raises MemberLostError where it is not in service."""
        if self.life is None or not self.serving:
            raise MemberLostError(f"member {self.name} is {self.state}")
        return self.life

    def begin(self) -> None:
        """Its task runs: from now on it is down until it is started."""
        self.state = State.DOWN

    def move(self, event: Event, reason: str) -> None:
        """Change the state, count and tell it: one line of the log for each change."""
        before = self.state
        self.state = states.following(before, event)
        self.since = time.time()
        self.reason = reason
        self._metrics.moved(self.name, before, self.state)
        quiet = self.state in (State.STARTING, State.UP, State.DRAINING, State.STOPPED)
        level = logging.INFO if quiet else logging.WARNING
        logger.log(level, "member %s: %s -> %s: %s", self.name, before, self.state, reason)
        if self.state is not State.STARTING:
            self.settled.set()
        self._changed()

    def note_error(self, text: str) -> None:
        """Keep it as the last error, for the status."""
        self.last_error, self.last_error_at = text, time.time()

    # what one failure says

    def conclude(self, life: Life, key: str, error: HsmitmError, elapsed_s: float, *, late: bool) -> None:
        """A request for `key` failed. Whom that blames is the group's to say; this says all about the member that an
        error does by itself. `late`: the member had the time that it was to have."""
        self.note_error(str(error))
        if isinstance(error, DeadlineError):
            if late:
                life.health.timed_out(elapsed_s)
                self.doubt(f"it did not answer within {1000 * elapsed_s:.0f} ms")
        elif isinstance(error, BadSignatureError):
            self.condemn(str(error))
        elif isinstance(error, SchemeLostError):
            self.ask_for_test()  # which is in this scheme, and says whether it was a stale handle's mistake
        elif isinstance(error, KeyLostError):
            life.note_problem(key, str(error))
            if life.proved:
                self.ask_for_test()
            else:
                self.lose(f"none of its keys is there any more: {error}")
        elif isinstance(error, RefusedError):
            if error.code:  # the token's word, not ours: another member, or this one's test signature, may differ
                self.ask_for_test()
        elif codes.called_for(error) is Kind.BUSY:
            self.rest()
        elif isinstance(error, MisconfiguredError) or (error.code and codes.called_for(error) is Kind.PROCESS):
            self.lose(str(error))

    def conclude_test(self, life: Life, error: HsmitmError) -> None:
        """A test signature of `life` failed. Nothing is said by one that was replaced meanwhile."""
        if life is not self.life:
            return
        self.note_error(str(error))
        if isinstance(error, BadSignatureError):
            self.condemn(str(error))
        elif isinstance(error, KeyLostError):
            self.lose(str(error))
        elif codes.called_for(error) is Kind.BUSY:
            self.rest()
        elif not life.lost:
            self.doubt(f"its test signature failed: {error}")

    def rest(self) -> None:
        """The token has no room now. Without a rest the member would look quick, be asked by every request first, and
        use up the group's retries."""
        now = time.monotonic()
        if now >= self._rests_until:  # what was in flight then says nothing new
            self._rests += 1
            self._rests_until = now + _REST.after(self._rests)

    def answered(self) -> None:
        """It answered well: the next rest is a short one."""
        self._rests = 0

    def blame(self, error: HsmitmError) -> None:
        """The member failed a request for certain."""
        if not self.serving:
            return
        assert self.life is not None
        if self.life.health.blamed():
            self.doubt(f"too many requests failed, the last with {error}")
        else:
            self.ask_for_test()

    def doubt(self, reason: str) -> None:
        """Take the member out of the first choice until it is examined."""
        if self.state is State.UP:
            self.move(Event.DOUBTED, reason)
            self.attention.set()

    def clear(self, reason: str) -> None:
        """The doubt, if there is one, is over."""
        if self.state is State.SUSPECT:
            self.move(Event.CLEARED, reason)

    def ask_for_test(self) -> None:
        """Have a test signature made soon: something is odd, and the member's own signature tells."""
        self.test_asked = True
        self.attention.set()

    def lose(self, reason: str) -> None:
        """Out of service: its process is started again."""
        if self.state in SERVING:
            self.note_error(reason)
            self.move(Event.LOST, reason)
            self.attention.set()

    def condemn(self, reason: str) -> None:
        """A bad signature never leaves; its member starts afresh, and proves itself at length before it serves."""
        if self.state not in SERVING:
            return
        now = time.monotonic()
        self._bad_signatures = [at for at in self._bad_signatures if now - at < states.BAD_SIGNATURES_S] + [now]
        if len(self._bad_signatures) > 1:
            reason += f", number {len(self._bad_signatures)} within an hour; have the HSM examined"
            self.note_error(reason)
            self.move(Event.REFUSED, reason)
            self.attention.set()
        else:
            self.lose(reason)
