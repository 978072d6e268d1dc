"""A member over all lives of its process: the driver of the states in `hsm.member.states`.

`run` is its life, one task; `sign` is what the group wants of it. Only `run` starts and ends processes, but for
`reset`, which builds a new life beside the old one and moves over. What `sign` sees changes the state at once, so that
the next request goes elsewhere, and wakes `run` to act on it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from contextlib import suppress
from typing import Protocol

from hsm import codes
from hsm.codes import Kind
from hsm.errors import (
    BadSignatureError,
    DeadlineError,
    HsmitmError,
    KeyLostError,
    MemberLostError,
    MisconfiguredError,
    RefusedError,
    TryLaterError,
)
from hsm.member import states
from hsm.member.key import Key
from hsm.member.life import Life
from hsm.member.metrics import MemberMetrics
from hsm.member.settings import Failover, MemberSettings
from hsm.member.slots import RAMP_S, slots
from hsm.member.starter import Starter
from hsm.member.states import SERVING, Event, State
from hsm.secrets.refusals import Refusals
from hsm.wire.member import Decrypt, Inspect, Inspected, KeyFound, Opened, Sign

logger = logging.getLogger("hsmitm.member")

_PROOFS = 3
_PROOFS_AFTER_BAD = 20
"""Verified signatures before a member serves: twenty after one that did not verify."""
_EXAMINATIONS = 5
_EXAMINE_EVERY_S = 0.02
"""Test signatures of a doubted member: it is cleared by the first that succeeds, lost when all fail. One that is merely
throttled, or that answered a handful of requests badly, is not restarted."""
_ASKED_TEST_EVERY_S = 0.2
"""Test signatures that failed requests ask for, at most one in this time: bad input must not drive them."""
_LOOK_FOR_KEYS_EVERY_S = 30.0
_DRAIN_S = 5.0


class Peers(Protocol):
    """What a member knows of its group."""

    failover: Failover
    metrics: MemberMetrics

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
    """A partition with its processes, one after another."""

    def __init__(
        self,
        settings: MemberSettings,
        keys: Mapping[str, Key],
        refusals: Refusals,
        peers: Peers,
        prompted: str | None = None,
    ) -> None:
        """`keys` are those that it may hold; `prompted` is the PIN that a prompt got."""
        self.settings = settings
        self.state = State.STOPPED
        self.since = time.time()
        self.reason = "not started"
        self.last_error = ""
        self.last_error_at = 0.0
        self.opened: Opened | None = None
        self.attempts = 0
        self.next_attempt = 0.0
        self.settled = asyncio.Event()
        self._peers = peers
        self._attention = asyncio.Event()
        self._starter = Starter(settings.name, keys, refusals, peers.metrics, prompted, self._attention.set)
        self._life: Life | None = None
        self._was_up = False
        self._bad_signatures: list[float] = []
        self._again = asyncio.Event()
        self._test_asked = False
        self._tested_at = 0.0
        self._looked_at = 0.0
        self._sessions_told = 0
        self._resetting = asyncio.Lock()

    # what the group and the status look at

    @property
    def name(self) -> str:
        """The member's name in the configuration."""
        return self.settings.name

    @property
    def serving(self) -> bool:
        """Whether a request may be sent: in service, and its process not known to be gone."""
        return self.state in SERVING and self._life is not None and not self._life.lost

    def serves(self, key: str) -> bool:
        """Whether a request for `key` may be sent."""
        return self.serving and self._life is not None and key in self._life.proved

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
        up_for_s = time.monotonic() - self._life.ramp_from
        return slots(self.sessions, self.latency_s, up_for_s, alone=self._peers.alone(self))

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

    def problem(self, key: str) -> str:
        """Why the member does not serve `key`; empty where it does."""
        if self.state not in SERVING:
            return f"member is {self.state}: {self.reason}"
        if not self.serving:
            return "its process is gone"
        if key not in self.found:
            return "it has not looked for this key yet; 'hsmitm hsm reset' has it look"
        return "" if self.serves(key) else self.found[key].problem

    # requests

    async def sign(self, request: Sign, deadline: float, purpose: str, patience_s: float | None = None) -> bytes:
        """A verified signature. Raises what `Life.sign` raises, having drawn the conclusions that one answer allows.

        `patience_s` is the time that the member was to have, where that is less than the attempt timeout.
        """
        return await self._served(lambda life: life.sign(request, deadline, purpose), request.key, purpose, patience_s)

    async def decrypt(self, request: Decrypt, deadline: float, patience_s: float | None = None) -> bytes:
        """The plaintext, empty where the padding is wrong. As `sign`."""
        plaintext = await self._served(lambda life: life.decrypt(request, deadline), request.key, "decrypt", patience_s)
        if plaintext is None:
            self.ask_for_test()  # a client's bad padding, or the member: its own signature tells
        return plaintext or b""

    async def _served[T](
        self, perform: Callable[[Life], Awaitable[T]], key: str, purpose: str, patience_s: float | None
    ) -> T:
        life = self._life
        if life is None or not self.serving:
            raise MemberLostError(f"member {self.name} is {self.state}")
        started = time.monotonic()
        try:
            answer = await perform(life)
        except HsmitmError as error:
            self._peers.metrics.failed(self.name, purpose, error)
            if life is self._life:
                longest_s = patience_s or self._peers.failover.attempt_timeout_s
                # A request that came with little time left says nothing about the member.
                late = time.monotonic() - started >= 0.9 * longest_s
                self._conclude(life, key, error, time.monotonic() - started, late=late)
            raise
        finally:
            self._peers.freed()
        life.health.answered(time.monotonic() - started)
        return answer

    def _conclude(self, life: Life, key: str, error: HsmitmError, elapsed_s: float, *, late: bool) -> None:
        """Whom one failure blames is the group's to say; these say all about the member by themselves."""
        self._note_error(str(error))
        if isinstance(error, DeadlineError):
            if late:
                life.health.timed_out(elapsed_s)
                self.doubt(f"it did not answer within {1000 * elapsed_s:.0f} ms")
        elif isinstance(error, BadSignatureError):
            self._condemn(str(error))
        elif isinstance(error, KeyLostError):
            life.note_problem(key, str(error))
            if life.proved:
                self.ask_for_test()
            else:
                self._lose(f"none of its keys is there any more: {error}")
        elif isinstance(error, RefusedError):
            if error.code:  # the token's word, not ours: another member, or this one's test signature, may differ
                self.ask_for_test()
        elif isinstance(error, MisconfiguredError) or (error.code and codes.kind(error.code) is Kind.PROCESS):
            self._lose(str(error))

    def blame(self, error: HsmitmError) -> None:
        """The member failed a request for certain."""
        if not self.serving:
            return
        assert self._life is not None
        if self._life.health.blamed():
            self.doubt(f"too many requests failed, the last with {error}")
        else:
            self.ask_for_test()

    def doubt(self, reason: str) -> None:
        """Take the member out of the first choice until it is examined."""
        if self.state is State.UP:
            self._move(Event.DOUBTED, reason)
            self._attention.set()

    def ask_for_test(self) -> None:
        """Have a test signature made soon: something is odd, and the member's own signature tells."""
        self._test_asked = True
        self._attention.set()

    def reconsider(self) -> None:
        """The group changed: how long to stay away may have, too."""
        self._attention.set()

    def _lose(self, reason: str) -> None:
        if self.state in SERVING:
            self._note_error(reason)
            self._move(Event.LOST, reason)
            self._attention.set()

    def _condemn(self, reason: str) -> None:
        """A bad signature never leaves; its member starts afresh, and proves itself at length before it serves."""
        if self.state not in SERVING:
            return
        now = time.monotonic()
        self._bad_signatures = [at for at in self._bad_signatures if now - at < states.BAD_SIGNATURES_S] + [now]
        if len(self._bad_signatures) > 1:
            reason += f", number {len(self._bad_signatures)} within an hour; have the HSM examined"
            self._note_error(reason)
            self._move(Event.REFUSED, reason)
            self._attention.set()
        else:
            self._lose(reason)

    def _note_error(self, text: str) -> None:
        self.last_error, self.last_error_at = text, time.time()

    # the life

    async def run(self) -> None:
        """Start, watch, back off, start again; until cancelled."""
        failures = 0
        self.state = State.DOWN
        try:
            while True:
                self._again.clear()
                self.attempts += 1
                self.next_attempt = 0.0
                self._move(Event.AGAIN, f"start {self.starts + 1}")
                up_at = 0.0
                try:
                    life = await self._start()
                except (HsmitmError, OSError) as error:
                    self._note_error(str(error))
                    self._move(states.event_for(error, was_up=self._was_up), str(error))
                except Exception as error:  # a bug of ours must not leave the signer waiting for this member for ever
                    logger.exception("starting member %s failed", self.name)
                    self._move(Event.LOST, f"internal error: {error}")
                else:
                    up_at = time.monotonic()
                    self._adopt(life, gently=self._was_up and self._peers.others_bear(self, life.proved))
                    self.attempts = 0
                    opened = life.opened
                    self._warn_of_few_sessions(life)
                    text = f"process {life.process.pid}, partition {opened.partition}, {opened.sessions} sessions"
                    self._move(Event.OPENED, text)
                    await self._watch()
                if self.state in (State.DRAINING, State.STOPPED):
                    await asyncio.Event().wait()  # `stop` does the rest, and ends this task
                await self._discard()
                if self.state is State.QUARANTINED:
                    await self._again.wait()
                    failures = 0
                    continue
                failures = states.failures_after(failures, time.monotonic() - up_at if up_at else 0.0)
                await self._back_off(failures)
        finally:
            await self._discard()

    def _warn_of_few_sessions(self, life: Life) -> None:
        """Once, and again when it is another number."""
        if life.sessions < self.settings.sessions and life.sessions != self._sessions_told:
            logger.warning(
                "member %s has %d of %d sessions; its token has no room for more",
                self.name, life.sessions, self.settings.sessions,
            )  # fmt: skip
        self._sessions_told = life.sessions

    async def _back_off(self, failures: int) -> None:
        jitter, since = random.random(), time.monotonic()  # noqa: S311  # no secret
        while not self._again.is_set():
            pause = states.backoff_s(failures, jitter, outage=self._peers.outage())
            left = since + pause - time.monotonic()
            if left <= 0:
                return
            self.next_attempt = time.time() + left
            await self._wait_for_attention(left)

    async def _wait_for_attention(self, at_most_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._attention.wait()
        self._attention.clear()

    async def _start(self) -> Life:
        """A new life. Nothing of the member changes: an old one may serve meanwhile."""
        proofs = _PROOFS_AFTER_BAD if self._bad_signatures else _PROOFS
        while True:
            life = await self._starter.start(
                self.settings,
                self._peers.failover,
                proofs=proofs,
                at_once=not self._was_up,
                last_error=self.last_error,
            )
            if life.knows(self._starter.keys):
                return life
            await life.process.end()  # it was given other keys meanwhile

    def _adopt(self, life: Life, *, gently: bool = False) -> None:
        """`gently`: its HSM was away, and others serve: it gets its share little by little."""
        now = life.up_at = time.monotonic()
        life.ramp_from = now if gently else now - RAMP_S
        life.freed = self._peers.freed
        life.keys_changed = lambda: self._peers.changed(self)
        if gone := life.found.keys() - self._starter.keys.keys():
            life.forget(gone)
        self._life = life
        self.opened = life.opened
        self._was_up = True
        self._looked_at = self._tested_at = now

    async def _watch(self) -> None:
        """Until the member is not in service any more; then the state says so already."""
        while self.state in SERVING and self._life is not None:
            life, until_test_s = self._life, self._until_test_s()
            if life.lost:
                how = await life.process.how_it_ended()
                if life is self._life:
                    self._lose(f"member process {life.process.pid}: {how}")
            elif self._resetting.locked():
                await self._wait_for_attention(_EXAMINE_EVERY_S)  # the new life decides
            elif self.state is State.SUSPECT:
                await self._examine(life)
            elif until_test_s <= 0:
                await self._keep_alive(life)
            else:
                await self._wait_for_attention(until_test_s)

    def _until_test_s(self) -> float:
        every = _ASKED_TEST_EVERY_S if self._test_asked else self._peers.failover.keep_alive_s
        return self._tested_at + every - time.monotonic()

    async def _keep_alive(self, life: Life) -> None:
        """Find out that a member is lost before a client does."""
        self._test_asked = False
        self._tested_at = time.monotonic()
        failover = self._peers.failover
        try:
            vital = await life.vital(self._tested_at + failover.attempt_timeout_s)
            self._warn_of_few_sessions(life)
            if vital.oldest_s > failover.hang_s:
                await self._replace(life, f"a session has not answered for {vital.oldest_s:.1f} s")
                return
            await life.test(time.monotonic() + failover.attempt_timeout_s)
            looked_s = time.monotonic() - self._looked_at
            if not life.proved or (len(life.proved) < len(life.found) and looked_s > _LOOK_FOR_KEYS_EVERY_S):
                self._looked_at = time.monotonic()
                await life.look_again(self._looked_at + failover.hang_s)
        except HsmitmError as error:
            self._fault_of_test(life, error)

    def _fault_of_test(self, life: Life, error: HsmitmError) -> None:
        if life is not self._life:
            return
        self._note_error(str(error))
        if isinstance(error, BadSignatureError):
            self._condemn(str(error))
        elif isinstance(error, KeyLostError):
            self._lose(str(error))
        elif not life.lost:
            self.doubt(f"its test signature failed: {error}")

    async def _examine(self, life: Life) -> None:
        """A SUSPECT member signs a test, or is lost."""
        failover = self._peers.failover
        until = time.monotonic() + failover.hang_s
        failed = 0
        while life is self._life and self.state is State.SUSPECT and not life.lost and not self._resetting.locked():
            try:
                await life.vital(time.monotonic() + failover.attempt_timeout_s)
                await life.test(time.monotonic() + failover.attempt_timeout_s)
            except DeadlineError as error:
                if self._resetting.locked() or life is not self._life:
                    return  # the new life decides
                # Other answers say that it is slow, not dead; but not for ever.
                if life.process.channel.silent_s >= 0.9 * failover.attempt_timeout_s or time.monotonic() > until:
                    self._lose(f"it hangs: {error} to its test signature")
            except HsmitmError as error:
                if life is not self._life:
                    return
                failed += 1
                if failed >= _EXAMINATIONS or isinstance(error, (BadSignatureError, KeyLostError)):
                    self._fault_of_test(life, error)
                    self._lose(f"its test signatures fail: {error}")
                await asyncio.sleep(_EXAMINE_EVERY_S)
            else:
                life.health.clear()
                self._test_asked = False
                self._tested_at = time.monotonic()
                if self.state is State.SUSPECT and life is self._life:
                    self._move(Event.CLEARED, "its test signature is good")

    async def _replace(self, life: Life, reason: str) -> None:
        """Sessions of a life hang while others serve: build a new life beside it, or lose it where that fails."""
        if life is not self._life or self._resetting.locked():
            return  # it is being replaced already
        logger.warning("member %s: %s; replacing its process", self.name, reason)
        self._note_error(reason)
        try:
            await self.reset(drain_s=self._peers.failover.attempt_timeout_s)
        except HsmitmError as error:
            if life is self._life:
                self._lose(f"{reason}, and a new process does not start: {error}")

    # what an operator does

    async def inspect(self, deadline: float) -> Inspected:
        """What the module tells of its slots. Raises MemberLostError where there is no process to ask."""
        life = self._life
        if life is None or not self.serving:
            raise MemberLostError(f"member is {self.state}: {self.reason}")
        reply = await life.process.channel.call(Inspect(), deadline)
        assert isinstance(reply, Inspected)
        return reply

    async def reset(self, settings: MemberSettings | None = None, *, drain_s: float = _DRAIN_S) -> str:
        """New sessions beside the old ones; then requests move, and the old ones are drained. In words, what was done.

        `settings` replace the old ones. A member that is down or quarantined is started at once instead. Raises
        HsmitmError where the new sessions cannot be had: the old ones stay in service then.
        """
        async with self._resetting:
            before = self.settings
            self.settings = settings or before
            if not self.serving:
                done = await self._start_now()
                if self._life is not None and self._life.settings == self.settings:
                    return done
            old = self._life
            try:
                life = await self._start()
            except BaseException as error:
                self.settings = before
                self._attention.set()
                if isinstance(error, OSError):
                    raise TryLaterError(f"cannot start a process: {error.strerror}") from error
                raise
            if old is None or old is not self._life or self.state not in SERVING:
                await life.process.end()
                return "it was lost meanwhile and is started afresh"
            self._adopt(life)
            if self.state is State.SUSPECT:
                self._move(Event.CLEARED, "new sessions")
            logger.info("member %s: new sessions in process %d; the old ones drain", self.name, life.process.pid)
            self._peers.changed(self)
            await _drain(old, drain_s)
            self._attention.set()
            return f"new sessions in process {life.process.pid}, {life.opened.sessions} of them; the old ones are gone"

    @property
    def ignorant(self) -> bool:
        """Whether it runs, and has not looked for all keys that it may hold."""
        return self.state in SERVING and self._life is not None and not self._life.knows(self._starter.keys)

    def assign(self, keys: Mapping[str, Key]) -> None:
        """It may hold these keys from now on: others are forgotten, new ones looked for by the next life."""
        self._starter.keys = keys
        if self._life is not None and (gone := self._life.found.keys() - keys.keys()):
            self._life.forget(gone)

    async def learn(self) -> None:
        """Have all keys that were assigned looked for, by a new life beside the old one; out of service it does so when
        it starts. Raises what `reset` raises."""
        if self.ignorant:
            await self.reset()

    async def _start_now(self) -> str:
        was, errors = self.state, self.last_error_at
        self.settled.clear()
        self._again.set()
        self._attention.set()
        try:
            async with asyncio.timeout(self.settings.start_timeout_s):
                await self.settled.wait()
        except TimeoutError:
            raise TryLaterError(f"member {self.name} is {self.state}: {self.reason}") from None
        if self.serving:
            return f"it was {was} and is {self.state} again"
        if self.state is State.QUARANTINED:
            raise MisconfiguredError(f"member {self.name} is quarantined: {self.reason}")
        why = self.last_error if self.last_error_at > errors else self.reason
        raise TryLaterError(f"member {self.name} is down: {why}")

    async def stop(self, *, drain: bool = False) -> None:
        """End for good; `drain` lets requests in flight end first. The task of `run` is the caller's to cancel next."""
        if drain and self._life is not None and self.serving:
            self._move(Event.DRAIN, "its requests in flight end")
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await self._life.idle.wait()
        if self.state is not State.STOPPED:
            self._move(Event.STOP, "stopped")
        await self._discard()

    async def _discard(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            await life.process.end()

    def _move(self, event: Event, reason: str) -> None:
        before = self.state
        self.state = states.following(before, event)
        self.since = time.time()
        self.reason = reason
        self._peers.metrics.moved(self.name, before, self.state)
        quiet = self.state in (State.STARTING, State.UP, State.DRAINING, State.STOPPED)
        level = logging.INFO if quiet else logging.WARNING
        logger.log(level, "member %s: %s -> %s: %s", self.name, before, self.state, reason)
        if self.state is not State.STARTING:
            self.settled.set()
        self._peers.changed(self)


async def _drain(life: Life, seconds: float) -> None:
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await life.idle.wait()
    finally:
        await life.process.end()
