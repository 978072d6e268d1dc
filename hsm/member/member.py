"""A member: one partition over all lives of its process. The door of this room, and the driver of what is in it.

`run` is its life, one task (`hsm.member.succession`); `sign` is what the group wants of it. What `sign` sees changes
the member's standing at once, so that the next request goes elsewhere, and wakes `run` to act on it.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from contextlib import suppress
from typing import Protocol

from hsm.errors import HsmitmError, MemberLostError
from hsm.member import succession
from hsm.member.key import DECRYPTION, Key
from hsm.member.life import Life
from hsm.member.metrics import MemberMetrics
from hsm.member.settings import Failover, MemberSettings
from hsm.member.slots import slots
from hsm.member.standing import Standing
from hsm.member.starter import Starter
from hsm.member.states import SERVING, Event, State
from hsm.member.succession import Succession
from hsm.member.turn import Turn
from hsm.secrets.refusals import Refusals
from hsm.wire.member import Decrypt, Inspect, Inspected, KeyFound, Opened, Sign


class Peers(Protocol):
    """What a member knows of its group."""

    failover: Failover
    metrics: MemberMetrics
    turn: Turn

    def freed(self) -> None:
        """A slot is free."""

    def changed(self, member: Member) -> None:
        """The state changed, or the keys that it proved."""

    def outage(self) -> bool:
        """Whether no member is in service."""

    def alone(self, member: Member) -> bool:
        """Whether no other member is in service."""

    def others_bear(self, member: Member, keys: Set[str]) -> bool:
        """Whether others have served each of `keys` long enough to bear the load a moment longer."""


class Member:
    """A partition with its processes, one after another.

    It has no job of its own but to be the door: most of its length is what others may look at, a line each.
    """

    def __init__(
        self,
        settings: MemberSettings,
        keys: Mapping[str, Key],
        refusals: Refusals,
        peers: Peers,
        prompted: str | None = None,
    ) -> None:
        """`keys` are those that it may hold; `prompted` is the PIN that a prompt got."""
        self.name = settings.name
        """The member's name in the configuration."""
        self._peers = peers
        self._standing = standing = Standing(settings.name, peers.metrics, self._changed)
        self._starter = Starter(settings.name, keys, refusals, peers.metrics, prompted, standing.attention.set)
        others_bear = functools.partial(peers.others_bear, self)
        self._succession = Succession(settings, standing, self._starter, peers, self._changed, others_bear)

    async def run(self) -> None:
        """Start, watch, back off, start again; until cancelled."""
        await self._succession.run()

    def _changed(self) -> None:
        self._peers.changed(self)

    # what the group and the status look at

    @property
    def settings(self) -> MemberSettings:
        """Those of its latest start, or of the one that is made."""
        return self._succession.settings

    @property
    def state(self) -> State:
        """What it is doing."""
        return self._standing.state

    @property
    def since(self) -> float:
        """When it came into its state, in seconds since 1970."""
        return self._standing.since

    @property
    def reason(self) -> str:
        """Why it is in its state."""
        return self._standing.reason

    @property
    def last_error(self) -> str:
        """What went wrong last; empty where nothing did."""
        return self._standing.last_error

    @property
    def last_error_at(self) -> float:
        """When that was, in seconds since 1970."""
        return self._standing.last_error_at

    @property
    def settled(self) -> asyncio.Event:
        """Set once it is in service, or known not to be."""
        return self._standing.settled

    @property
    def opened(self) -> Opened | None:
        """What its latest life found on the partition."""
        return self._standing.opened

    @property
    def attempts(self) -> int:
        """Starts since it was last in service."""
        return self._succession.attempts

    @property
    def next_attempt(self) -> float:
        """When it is started again, in seconds since 1970; 0 where that is not planned."""
        return self._succession.next_attempt

    @property
    def _life(self) -> Life | None:
        return self._standing.life

    @property
    def serving(self) -> bool:
        """Whether a request may be sent: in service, and its process not known to be gone."""
        return self._standing.serving

    @property
    def resting(self) -> bool:
        """Whether peers come first for a moment: its token has no room."""
        return self._standing.resting

    def serves(self, key: str, scheme: str = "") -> bool:
        """Whether a request for `key` may be sent; with `scheme`, one for a signature in it, or for DECRYPTION."""
        if self._life is None or not self.serving:
            return False
        made = self._life.held.made.schemes.get(key)
        if made is None or not scheme or scheme in made:
            return made is not None
        return scheme == DECRYPTION and self._life.found[key].decrypts

    def doubts(self, key: str, scheme: str) -> bool:
        """Whether a peer comes first for this scheme, until a test has told whether it is still made."""
        return self._life is not None and self._life.held.made.doubts(key, scheme)

    def schemes(self, key: str) -> Set[str]:
        """The names of the schemes that it makes with `key` now."""
        return (
            self._life.held.made.schemes.get(key, frozenset())
            if self._life is not None and self.serving
            else frozenset()
        )

    def lacks(self, key: str) -> dict[str, str]:
        """The schemes that it does not make with a key that it serves, as far as it was asked; and why not."""
        return self._life.held.made.lacks(key) if self._life is not None and self.serves(key) else {}

    @property
    def found(self) -> dict[str, KeyFound]:
        """Each key as the member holds it, with what is wrong with it."""
        return self._life.found if self._life else {}

    @property
    def latency_s(self) -> float:
        """Average time of an answer."""
        return self._life.health.latency_s if self._life else 0.0

    @property
    def quickest_s(self) -> float:
        """The best of the recent answers."""
        return self._life.health.quickest_s if self._life else 0.0

    @property
    def in_flight(self) -> int:
        """Requests sent to the running process and not answered."""
        return self._life.in_flight if self._life else 0

    @property
    def sessions(self) -> int:
        """Sessions of the running process."""
        return self._life.sessions if self._life and self.state in SERVING else 0

    @property
    def slots(self) -> int:
        """Requests that may be in flight at a time."""
        if self._life is None:
            return 0
        up_for_s, useful = time.monotonic() - self._life.ramp_from, self._life.pace.useful
        return slots(self.sessions, self.latency_s, up_for_s, useful, alone=self._peers.alone(self))

    def alone_s(self, key: str) -> float:
        """What a request for `key` takes alone; 0 where that is not known."""
        return self._life.pace.alone_s(key) if self._life else 0.0

    def due_s(self, key: str) -> float:
        """How long an attempt for `key` may take now: the attempt timeout, or more where its own pace is slower."""
        longest_s = self._peers.failover.attempt_timeout_s
        return self._life.pace.due_s(key, least_s=longest_s) if self._life else longest_s

    @property
    def up_for_s(self) -> float:
        """For how long the running process has been in service."""
        return time.monotonic() - self._life.up_at if self._life and self.state in SERVING else 0.0

    @property
    def starts(self) -> int:
        """Starts of its process so far."""
        return self._starter.starts

    @property
    def pid(self) -> int:
        """The process id of the running process, or of the one that is being started; 0 where there is none."""
        return self._life.process.pid if self._life else self._starter.pid

    def away_for(self, seconds: float) -> bool:
        """Whether it will certainly not be in service within `seconds`."""
        if self.state is State.DOWN:
            return self.next_attempt > time.time() + seconds
        return self.state in (State.QUARANTINED, State.DRAINING, State.STOPPED)

    def problem(self, key: str, scheme: str = "") -> str:
        """Why the member does not serve `key`, or does not make `scheme` with it; empty where it does."""
        if self.state not in SERVING:
            return f"member is {self.state}: {self.reason}"
        if not self.serving:
            return "its process is gone"
        if key not in self.found:
            return "it has not looked for this key yet; 'hsmitm hsm reset' has it look"
        if not self.serves(key):
            return self.found[key].problem
        return "" if self.serves(key, scheme) else self.lacks(key).get(scheme, f"no {scheme} with this key")

    # requests

    async def sign(self, request: Sign, deadline: float, purpose: str, patience_s: float | None = None) -> bytes:
        """A verified signature. Raises what `Life.sign` raises, having drawn the conclusions that one answer allows.

        `patience_s` is the time that the member was to have, where that is less than the attempt timeout.
        """
        return await self._served(lambda life: life.sign(request, deadline, purpose), request.key, purpose, patience_s)

    async def decrypt(self, request: Decrypt, deadline: float, patience_s: float | None = None) -> bytes:
        """The plaintext, empty where the padding is wrong. As `sign`."""
        return await self._served(lambda life: life.decrypt(request, deadline), request.key, "decrypt", patience_s)

    async def _served[T](
        self, perform: Callable[[Life], Awaitable[T]], key: str, purpose: str, patience_s: float | None
    ) -> T:
        life = self._standing.running()
        started = time.monotonic()
        try:
            answer = await perform(life)
        except HsmitmError as error:
            self._peers.metrics.failed(self.name, purpose, error)
            if life is self._life:
                longest_s = patience_s or self._peers.failover.attempt_timeout_s
                # A request that came with little time left says nothing about the member.
                late = time.monotonic() - started >= 0.9 * longest_s
                self._standing.conclude(life, key, error, time.monotonic() - started, late=late)
            raise
        life.health.answered(time.monotonic() - started)
        self._standing.answered()
        return answer

    def blame(self, error: HsmitmError) -> None:
        """The member failed a request for certain."""
        self._standing.blame(error)

    def ask_for_test(self) -> None:
        """Have a test signature made soon: something is odd, and the member's own signature tells."""
        self._standing.ask_for_test()

    def reconsider(self) -> None:
        """The group changed: how long to stay away may have, too."""
        self._standing.attention.set()

    # what an operator does

    async def inspect(self, deadline: float) -> Inspected:
        """What the module tells of its slots. Raises MemberLostError where there is no process to ask."""
        life = self._life
        if life is None or not self.serving:
            raise MemberLostError(f"member is {self.state}: {self.reason}")
        reply = await life.process.channel.call(Inspect(), deadline)
        assert isinstance(reply, Inspected)
        return reply

    async def reset(
        self, settings: MemberSettings | None = None, *, drain_s: float | None = None, asked: bool = False
    ) -> str:
        """New sessions beside the old ones; then requests move, and the old ones are drained. In words, what was done.

        `settings` replace the old ones. A member that is down or quarantined is started at once instead. Raises
        HsmitmError where the new sessions cannot be had within the start timeout: the old ones stay in service then.
        `asked`: an operator wants this member back, so a PIN whose try had no plain answer is tried once more.
        The caller holds the group's turn.
        """
        self._starter.asked = self._starter.asked or asked
        return await self._succession.rebuild(settings, succession.DRAIN_S if drain_s is None else drain_s)

    @property
    def ignorant(self) -> bool:
        """Whether it runs, and has not looked for all keys that it may hold."""
        return self.state in SERVING and self._life is not None and not self._life.held.knows(self._starter.keys)

    def assign(self, keys: Mapping[str, Key]) -> None:
        """It may hold these keys from now on: others are forgotten, new ones looked for by the next life."""
        self._starter.keys = keys
        if self._life is not None and (gone := self._life.found.keys() - keys.keys()):
            self._life.held.forget(gone)

    async def learn(self) -> None:
        """Have all keys that were assigned looked for, by a new life beside the old one; out of service it does so when
        it starts. Keys that were missing are looked for again. Raises what `reset` and `Life.look_again` raise; the
        caller holds the group's turn."""
        life = self._life
        if self.ignorant:
            await self.reset()
        elif life is not None and self.serving and len(life.proved) < len(life.found):
            await life.look_again(time.monotonic() + self._peers.failover.hang_s)

    async def stop(self, *, drain: bool = False) -> None:
        """End for good; `drain` lets requests in flight end first. The task of `run` is the caller's to cancel next."""
        standing = self._standing
        if drain and self._life is not None and self.serving:
            standing.move(Event.DRAIN, "its requests in flight end")
            with suppress(TimeoutError):
                async with asyncio.timeout(succession.DRAIN_S):
                    await self._life.idle.wait()
        if self.state is not State.STOPPED:
            standing.move(Event.STOP, "stopped")
        await self._succession.discard()
