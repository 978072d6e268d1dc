"""The members that hold the same keys: choose one for each request, fail over, verify what it signed.

`_request` is the only loop over members. What a failure means is decided without I/O in `hsm.group.failover`, who is
asked next in `hsm.group.choice`; this file does as they say. A request that finds no free slot waits here, not at a
member: so an attempt's time measures the member and not the queue.

There may be hundreds of inbound keys: what happens at each answer must not walk over all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set

from prometheus_client import CollectorRegistry

from hsm.errors import HsmitmError, MisconfiguredError, OverloadedError, RefusedError, UnavailableError
from hsm.group import choice
from hsm.group.failover import Attempts, RetryBudget, Step
from hsm.group.states import GroupState, group_state
from hsm.group.waiting_line import WaitingLine
from hsm.member.key import Key
from hsm.member.member import Member
from hsm.member.metrics import MemberMetrics
from hsm.member.settings import Failover
from hsm.member.slots import RAMP_S
from hsm.member.states import State
from hsm.schemes import Scheme
from hsm.wire.member import Decrypt

logger = logging.getLogger("hsmitm.group")

_TOO_LATE = 1.5
"""Times a member's average latency: with less time left a request that waited is not begun."""


class Group:
    """Members and the keys that they hold."""

    def __init__(self, keys: dict[str, Key], registry: CollectorRegistry, failover: Failover | None = None) -> None:
        """`registry` gets the signature counters."""
        self.keys = keys
        self.authorities = [name for name, key in keys.items() if not key.inbound]
        """The CAs' keys: those that forward proxying needs. They stay the same."""
        self.members: Sequence[Member] = ()
        self.failover = failover or Failover()
        self.metrics = MemberMetrics(registry)
        self.state = GroupState.OUTAGE
        self.since = time.time()
        self.outage_grace_s = 0.0
        """How long a request without a member in service waits for one, if that is longer than its budget."""
        self.changes = 0
        """Grows whenever a member's state or the keys that it proved changed."""
        self._lines: dict[str, WaitingLine] = {}
        """The lines that somebody waits in."""
        self._turn = 0
        self._retries = RetryBudget()
        self._out_since = dict.fromkeys(self.authorities, time.monotonic())
        self._resetting = asyncio.Lock()

    def keys_for(self, member: str) -> dict[str, Key]:
        """The keys that a member may hold."""
        return {name: key for name, key in self.keys.items() if key.members is None or member in key.members}

    # what members call (`hsm.member.member.Peers`)

    def freed(self) -> None:
        """A slot is free."""
        waiting = [line for line in self._lines.values() if line]
        if waiting:
            self._turn += 1  # a free slot goes to each key in turn
            for place in range(len(waiting)):
                waiting[(self._turn + place) % len(waiting)].wake()

    def changed(self, member: Member) -> None:
        """A state changed, or the keys that a member proved."""
        self.changes += 1
        self.freed()
        self._note_outages()
        state = group_state(one.state for one in self.members)
        if state is not self.state:
            self._move(state, member)

    def _move(self, state: GroupState, member: Member) -> None:
        before, self.state, self.since = self.state, state, time.time()
        self.metrics.group_moved(before, state)
        worse = member.state not in (State.UP, State.STOPPED)
        level = {GroupState.OUTAGE: logging.ERROR, GroupState.LAST: logging.WARNING}.get(state, logging.INFO)
        level = level if worse else logging.INFO
        logger.log(level, "group: %s -> %s: member %s is %s", before, state, member.name, member.state)
        if state is GroupState.OUTAGE:
            for one in self.members:
                one.reconsider()

    def outage(self) -> bool:
        """Whether no member is in service."""
        return not any(member.serving for member in self.members)

    def alone(self, member: Member) -> bool:
        """Whether no other member is in service."""
        return not any(one.serving for one in self.members if one is not member)

    def others_bear(self, member: Member, keys: Set[str]) -> bool:
        """Whether others have served each of `keys` long enough to bear the load a moment longer."""
        others = [one for one in self.members if one is not member and one.up_for_s >= RAMP_S]
        return all(any(one.serves(key) for one in others) for key in keys)

    # what can be said of a key

    def proved_by(self, key: str) -> list[str]:
        """Names of the members that proved `key` and are in service."""
        return [member.name for member in self.members if member.serves(key)]

    def problems(self, key: str) -> dict[str, str]:
        """For each member that should serve `key` and does not, why not."""
        return {one.name: problem for one in self.holders(key) if (problem := one.problem(key))}

    def holders(self, key: str) -> list[Member]:
        """The members that should serve `key`."""
        if key not in self.keys:
            return []
        names = self.keys[key].members
        return [one for one in self.members if names is None or one.name in names]

    @property
    def waiting(self) -> int:
        """Requests that wait for a free slot."""
        return sum(len(line) for line in self._lines.values())

    def in_service(self) -> bool:
        """Whether each CA's key has a member in service, or had one within the time that a request may wait for it."""
        self._note_outages()
        now, patience = time.monotonic(), self._patience_s()
        return all(now - since <= patience for since in self._out_since.values())

    def _note_outages(self) -> None:
        for name in self.authorities:
            if any(member.serves(name) for member in self.members):
                self._out_since.pop(name, None)
            else:
                self._out_since.setdefault(name, time.monotonic())

    # requests

    async def sign(
        self,
        name: str,
        message: bytes | None,
        digest: bytes,
        deadline: float,
        purpose: str,
        scheme: Scheme | None = None,
    ) -> bytes:
        """A verified signature of `message` by the key `name`: of its `digest`, which stands alone where the message is
        None, in `scheme` or else the key's own.

        Raises UnavailableError, OverloadedError or RefusedError; at the latest when the request's budget is spent.
        """
        request = self.keys[name].request(message, digest, scheme)
        return await self._request(
            name, deadline, lambda member, until, patience_s: member.sign(request, until, purpose, patience_s)
        )

    async def decrypt(self, name: str, ciphertext: bytes, deadline: float) -> bytes:
        """The plaintext of `ciphertext` (as long as the RSA key's modulus) by the key `name`, empty for wrong padding.

        Raises as `sign`. A client's bad ciphertext is one call at one member, and changes nothing there.
        """
        request = Decrypt(name, ciphertext)
        return await self._request(
            name, deadline, lambda member, until, patience_s: member.decrypt(request, until, patience_s)
        )

    async def _request(
        self, name: str, deadline: float, ask: Callable[[Member, float, float], Awaitable[bytes]]
    ) -> bytes:
        """What `ask` gets of a member: it is given the member, the attempt's deadline and its time in seconds."""
        now = time.monotonic()
        patience = self.outage_grace_s if not self.proved_by(name) else 0.0
        deadline = min(deadline, now + max(self.failover.budget_s, patience))
        attempts = Attempts()
        failures: dict[str, HsmitmError] = {}
        self._retries.request(sum(one.slots for one in self.members))
        while True:
            member = await self._free_member(name, attempts.tried, deadline, failures)
            patience_s = self._attempt_s(member, name, attempts.tried)
            until = min(deadline, time.monotonic() + patience_s)
            while True:
                try:
                    answer = await ask(member, until, patience_s)
                except HsmitmError as error:
                    failures.pop(member.name, None)
                    failures[member.name] = error  # the newest is the last
                    left = until - time.monotonic()
                    verdict = attempts.failed(
                        member.name, error, retries=self.failover.auto_recovery_retry, time_left=left > 0
                    )
                    if verdict.blame:
                        member.blame(error)
                else:
                    self._blame_doubtful(attempts, member.name)
                    return answer
                if verdict.step is Step.AGAIN:
                    self.metrics.retried("same member")
                    await asyncio.sleep(min(verdict.pause_s, left))
                    continue
                break
            if verdict.step is Step.GIVE_UP or time.monotonic() >= deadline or not self._retries.retry():
                raise self._given_up(attempts, failures)
            self.metrics.retried("next member")
            logger.info("a request failed at member %s and is tried again: %s", member.name, failures[member.name])
            if verdict.pause_s:
                await asyncio.sleep(min(verdict.pause_s, max(0.0, deadline - time.monotonic())))

    def _attempt_s(self, member: Member, name: str, tried: set[str]) -> float:
        """How long an attempt at `member` may take."""
        peers = (one for one in self.members if one is not member and one.name not in tried)
        peer = any(one.state is State.UP and one.serves(name) for one in peers)
        return choice.patience_s(member.latency_s, member.in_flight, self.failover.attempt_timeout_s, peer=peer)

    def _blame_doubtful(self, attempts: Attempts, succeeded: str) -> None:
        for name in attempts.succeeded(succeeded):
            for member in self.members:
                if member.name == name:
                    member.blame(attempts.doubtful[name])

    def _given_up(self, attempts: Attempts, failures: dict[str, HsmitmError]) -> HsmitmError:
        """The error of the whole request."""
        error = list(failures.values())[-1]
        if isinstance(error, RefusedError):
            return error
        for member in self.members:
            if member.name in attempts.doubtful:
                member.ask_for_test()  # the request or the member: its own signature tells
        if attempts.rejected:
            return RefusedError(f"the request failed alike wherever it was tried: {error}", error.code)
        return UnavailableError(f"no member of the HSM signed ({_listed(failures)})", error.code)

    async def _free_member(
        self, name: str, tried: set[str], deadline: float, failures: Mapping[str, HsmitmError]
    ) -> Member:
        """The member for the next attempt, as soon as one has a free slot."""
        woken = False
        try:
            while time.monotonic() < deadline:
                if woken or not self._lines.get(name):
                    member = choice.choose((one for one in self.members if one.serves(name)), tried)
                    if member is not None:
                        if woken and deadline - time.monotonic() < _TOO_LATE * member.latency_s:
                            break  # it would use a slot and be late: those behind it can still be served in time
                        return member
                self._refuse_hopeless(name, deadline, failures)
                if not woken:
                    self._refuse_overload(name, deadline)
                await self._wait(name, deadline, first=woken)
                woken = True
        except TimeoutError:
            pass
        finally:
            if woken and name in self._lines:
                self._lines[name].wake()  # there may be more than one free slot, or no hope for anybody
        raise self._unavailable(name, failures)

    async def _wait(self, name: str, deadline: float, *, first: bool) -> None:
        line = self._lines.setdefault(name, WaitingLine())
        try:
            await line.wait(deadline, first=first)
        finally:
            if not line and self._lines.get(name) is line:
                del self._lines[name]

    def _refuse_hopeless(self, name: str, deadline: float, failures: Mapping[str, HsmitmError]) -> None:
        """Raise now what would otherwise be raised at the deadline."""
        if name not in self.keys:
            raise RefusedError("the key was removed from the configuration")
        left_s = deadline - time.monotonic()
        if all(not one.serves(name) and one.away_for(left_s) for one in self.holders(name)):
            raise self._unavailable(name, failures)

    def _refuse_overload(self, name: str, deadline: float) -> None:
        """Raise for a newcomer that would wait in vain."""
        serving = [one for one in self.members if one.serves(name)]
        rivals = (key for key, line in self._lines.items() if line and any(one.serves(key) for one in serving))
        ahead = sum(len(self._lines[key]) for key in rivals)
        wait_s = choice.wait_s(serving, ahead + 1)
        signing_s = _TOO_LATE * min((one.latency_s for one in serving), default=0.0)
        if ahead and wait_s + signing_s > deadline - time.monotonic():
            raise OverloadedError(
                f"{ahead} requests wait for the HSM and would take {wait_s:.1f} s; it cannot sign more than it does"
            )

    def _unavailable(self, name: str, failures: Mapping[str, HsmitmError]) -> UnavailableError:
        if failures:
            return UnavailableError(f"no member of the HSM signed in time ({_listed(failures)})")
        if any(one.serves(name) for one in self.members):
            return UnavailableError("the HSM is busy: no member had a free session before the request's time was up")
        why = "; ".join(f"{member}: {problem}" for member, problem in self.problems(name).items())
        return UnavailableError(f"no member of the HSM is in service ({why})")

    async def wait_for_member(self, name: str, deadline: float) -> None:
        """Return once a member serves the key `name`. Raises UnavailableError, saying why there is none."""
        await self._free_member(name, set(), min(deadline, time.monotonic() + self._patience_s()), {})

    def _patience_s(self) -> float:
        return max(self.failover.budget_s, self.outage_grace_s)

    # what an operator does

    def assign(self, keys: dict[str, Key]) -> None:
        """These are the keys from now on, the CAs' as before. Members forget those that are gone; new ones: `learn`."""
        self.keys = keys
        for member in self.members:
            member.assign(self.keys_for(member.name))
        self.freed()  # whoever waits for a key that is gone is told

    async def learn(self) -> dict[str, HsmitmError]:
        """Have the members look for the keys that they do not know: one after another, each by a new life beside the
        old one. For each member that could not, why."""
        failed: dict[str, HsmitmError] = {}
        for member in self.members:
            async with self._resetting:
                try:
                    await member.learn()
                except HsmitmError as error:
                    failed[member.name] = error
        return failed

    async def reset(self, name: str | None) -> list[str]:
        """`Member.reset` of one member, or of each in turn: never two at a time."""
        chosen = [one for one in self.members if name in (None, one.name)]
        if not chosen:
            known = ", ".join(one.name for one in self.members)
            raise MisconfiguredError(f"there is no member '{name}'; known are {known}")
        lines = []
        for member in chosen:
            async with self._resetting:
                try:
                    lines.append(f"{member.name}: {await member.reset()}")
                except HsmitmError as error:
                    if name is not None:
                        raise
                    lines.append(f"{member.name}: not reset: {error}")
        return lines


def _listed(failures: Mapping[str, HsmitmError]) -> str:
    return "; ".join(f"{member}: {error}" for member, error in failures.items())
