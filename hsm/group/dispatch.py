"""The way of one request over the members: choose one, ask, fail over, wait for a slot.

`Dispatch.request` is the only loop over members for a request. What a failure means is decided without I/O in
`hsm.group.failover`, who is asked next in `hsm.group.choice`; this file does as they say. A request that finds no free
slot waits here, not at a member: so an attempt's time measures the member and not the queue.

There may be hundreds of inbound keys: what happens at each answer must not walk over all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from hsm.errors import HsmitmError, OverloadedError, RefusedError, UnavailableError
from hsm.group import choice
from hsm.group.failover import Attempts, RetryBudget, Step
from hsm.group.waiting_line import Asker, WaitingLine
from hsm.member.key import DECRYPTION, Key
from hsm.member.member import Member
from hsm.member.metrics import MemberMetrics
from hsm.member.settings import Failover
from hsm.member.states import State

logger = logging.getLogger("hsmitm.group")

_ASKERS = 1024
_TURNS = 32
"""Signatures alone, whose time a request may take at least: as many may be before it where one is made at a time."""
_TOO_LATE = 1.5
"""Times a member's average latency: with less time left a request that waited is not begun."""


class Want(NamedTuple):
    """What is asked of a member: something with a key; for a signature the name of its scheme, or DECRYPTION."""

    key: str
    scheme: str = ""


class Roster(Protocol):
    """What it asks of the group; all of it may change between two attempts."""

    keys: dict[str, Key]
    members: Sequence[Member]
    failover: Failover
    outage_grace_s: float

    def proved_by(self, key: str, scheme: str = "") -> list[str]:
        """Names of the members that proved `key`, and `scheme` with it, and are in service."""

    def problems(self, key: str, scheme: str = "") -> dict[str, str]:
        """For each member that should serve `key`, in `scheme`, and does not, why not."""

    def holders(self, key: str) -> list[Member]:
        """The members that should serve `key`."""


class Dispatch:
    """The requests of a group: those at members, and those that wait for a slot."""

    def __init__(self, group: Roster, metrics: MemberMetrics) -> None:
        self._group = group
        self._metrics = metrics
        self._lines: dict[Want, WaitingLine] = {}
        """The lines that somebody waits in."""
        self._turn = 0
        self._served: dict[Asker, int] = {}
        """The turn that each asker had last, those who had one longest ago in front."""
        self._retries = RetryBudget()

    @property
    def waiting(self) -> int:
        """Requests that wait for a free slot."""
        return sum(len(line) for line in self._lines.values())

    def freed(self) -> None:
        """A slot is free: whoever waits for one looks again, and who waits for a key that is gone is told."""
        waiting = [line for line in self._lines.values() if line]
        if waiting:
            self._turn += 1  # a free slot goes to each key in turn, but first to who has waited longest for one
            place = self._turn % len(waiting)
            turns = [(line, self._next(line)) for line in waiting[place:] + waiting[:place]]
            for line, asker in sorted(turns, key=lambda turn: self._served.get(turn[1], 0)):
                line.wake(asker)

    def _next(self, line: WaitingLine) -> Asker:
        """Of those who wait in this line the one that had its last turn, in any line, longest ago."""
        return min(line.askers, key=lambda asker: self._served.get(asker, 0))

    async def request[T: bytes](
        self, want: Want, deadline: float, ask: Callable[[Member, float, float], Awaitable[T]], asker: Asker = 0
    ) -> T:
        """What `ask` gets of a member: it is given the member, the attempt's deadline and its time in seconds. `asker`
        is whose request it is, where slots are scarce."""
        deadline = min(deadline, time.monotonic() + self.budget_s(want))
        attempts = Attempts()
        failures: dict[str, HsmitmError] = {}
        self._retries.request(sum(one.slots for one in self._group.members))
        while True:
            member = await self.free_member(want, attempts.tried, deadline, failures, asker)
            patience_s = self._attempt_s(member, want, attempts.tried)
            until = min(deadline, time.monotonic() + patience_s)
            while True:
                try:
                    answer = await ask(member, until, patience_s)
                except HsmitmError as error:
                    failures.pop(member.name, None)
                    failures[member.name] = error  # the newest is the last
                    left = until - time.monotonic()
                    verdict = attempts.failed(
                        member.name, error, retries=self._group.failover.auto_recovery_retry, time_left=left > 0
                    )
                    if verdict.blame:
                        member.blame(error)
                else:
                    self._blame_doubtful(attempts, member.name)
                    return answer
                if verdict.step is Step.AGAIN:
                    self._metrics.retried("same member")
                    await asyncio.sleep(min(verdict.pause_s, left))
                    continue
                break
            if verdict.step is Step.GIVE_UP or time.monotonic() >= deadline or not self._retries.retry():
                raise self._given_up(attempts, failures)
            self._metrics.retried("next member")
            logger.info("a request failed at member %s and is tried again: %s", member.name, failures[member.name])
            if verdict.pause_s:
                await asyncio.sleep(min(verdict.pause_s, max(0.0, deadline - time.monotonic())))

    def budget_s(self, want: Want) -> float:
        """How long a request may take in all. Behind others at a slow HSM it takes long though nothing fails: who waits
        there is not refused for that, as long as it is not longer than its asker waits."""
        serving = [one.alone_s(want.key) for one in self._group.members if one.serves(*want)]
        patience = _TURNS * min(serving) if serving else self._group.outage_grace_s
        return max(self._group.failover.budget_s, patience)

    def _attempt_s(self, member: Member, want: Want, tried: set[str]) -> float:
        """How long an attempt at `member` may take."""
        peers = (one for one in self._group.members if one is not member and one.name not in tried)
        peer = any(one.state is State.UP and one.serves(*want) for one in peers)
        return choice.patience_s(member.latency_s, member.in_flight, member.due_s(want.key), peer=peer)

    def _blame_doubtful(self, attempts: Attempts, succeeded: str) -> None:
        for name in attempts.succeeded(succeeded):
            for member in self._group.members:
                if member.name == name:
                    member.blame(attempts.doubtful[name])

    def _given_up(self, attempts: Attempts, failures: dict[str, HsmitmError]) -> HsmitmError:
        """The error of the whole request."""
        error = list(failures.values())[-1]
        if isinstance(error, RefusedError):
            return error
        for member in self._group.members:
            if member.name in attempts.doubtful:
                member.ask_for_test()  # the request or the member: its own signature tells
        if attempts.rejected:
            return RefusedError(f"the request failed alike wherever it was tried: {error}", error.code)
        return UnavailableError(f"no member of the HSM signed ({_listed(failures)})", error.code)

    async def free_member(
        self, want: Want, tried: set[str], deadline: float, failures: Mapping[str, HsmitmError], asker: Asker = 0
    ) -> Member:
        """The member for the next attempt, as soon as one has a free slot."""
        woken = False
        try:
            while time.monotonic() < deadline:
                if woken or not self._lines.get(want):
                    serving = [one for one in self._group.members if one.serves(*want)]
                    member = choice.choose(serving, tried, {one.name for one in serving if one.doubts(*want)})
                    if member is not None:
                        if woken and deadline - time.monotonic() < _TOO_LATE * member.latency_s:
                            break  # it would use a slot and be late: those behind it can still be served in time
                        self._note_turn(asker)
                        return member
                self._refuse_hopeless(want, deadline, failures)
                if not woken:
                    self._refuse_overload(want, deadline, asker)
                await self._wait(want, deadline, asker, first=woken)
                woken = True
        except TimeoutError:
            pass
        finally:
            if woken and want in self._lines:
                self._lines[want].wake()  # there may be more than one free slot, or no hope for anybody
        raise self._unavailable(want, failures)

    def _note_turn(self, asker: Asker) -> None:
        self._served.pop(asker, None)
        self._served[asker] = self._turn
        if len(self._served) > _ASKERS:
            del self._served[next(iter(self._served))]

    async def _wait(self, want: Want, deadline: float, asker: Asker, *, first: bool) -> None:
        line = self._lines.setdefault(want, WaitingLine())
        try:
            await line.wait(deadline, asker, first=first)
        finally:
            if not line and self._lines.get(want) is line:
                del self._lines[want]

    def _refuse_hopeless(self, want: Want, deadline: float, failures: Mapping[str, HsmitmError]) -> None:
        """Raise now what would otherwise be raised at the deadline."""
        if want.key not in self._group.keys:
            raise RefusedError("the key was removed from the configuration")
        left_s = deadline - time.monotonic()
        if all(self._hopeless(one, want, left_s) for one in self._group.holders(want.key)):
            raise self._unavailable(want, failures)

    @staticmethod
    def _hopeless(member: Member, want: Want, left_s: float) -> bool:
        """Whether it is away for longer, or is there and does not make the scheme."""
        return not member.serves(*want) and (member.serves(want.key) or member.away_for(left_s))

    def _refuse_overload(self, want: Want, deadline: float, asker: Asker) -> None:
        """Raise for a newcomer that would wait in vain."""
        serving = [one for one in self._group.members if one.serves(*want)]
        rivals = (line for other, line in self._lines.items() if line and any(one.serves(*other) for one in serving))
        ahead = sum(line.ahead(asker) for line in rivals)
        wait_s = choice.wait_s(serving, ahead + 1)
        signing_s = _TOO_LATE * min((one.latency_s for one in serving), default=0.0)
        if ahead and wait_s + signing_s > deadline - time.monotonic():
            raise OverloadedError(
                f"{ahead} requests wait for the HSM and would take {wait_s:.1f} s; it cannot sign more than it does"
            )

    def _unavailable(self, want: Want, failures: Mapping[str, HsmitmError]) -> UnavailableError:
        if failures:
            return UnavailableError(f"no member of the HSM signed in time ({_listed(failures)})")
        if any(one.serves(*want) for one in self._group.members):
            return UnavailableError("the HSM is busy: no member had a free session before the request's time was up")
        why = "; ".join(f"{member}: {problem}" for member, problem in self._group.problems(*want).items())
        what = "decrypts" if want.scheme == DECRYPTION else f"makes {want.scheme}"
        lacking = f"in service {what}" if self._group.proved_by(want.key) else "is in service"
        return UnavailableError(f"no member of the HSM {lacking} ({why})")


def _listed(failures: Mapping[str, HsmitmError]) -> str:
    return "; ".join(f"{member}: {error}" for member, error in failures.items())
