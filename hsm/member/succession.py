"""The lives of a member, one after another: start, watch, back off, start again; and a new life beside the old one.

`run` is one task; only it starts and ends processes, but for `rebuild`, which makes a new life while the old one serves
and moves over.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Set
from contextlib import suppress
from typing import Protocol

from hsm.errors import DeadlineError, HsmitmError, MisconfiguredError, TryLaterError
from hsm.member import states
from hsm.member.examination import EXAMINE_EVERY_S, Examination
from hsm.member.health import hangs
from hsm.member.life import Life
from hsm.member.settings import Failover, MemberSettings
from hsm.member.slots import QUICK_S, RAMP_S
from hsm.member.standing import Standing
from hsm.member.starter import Starter
from hsm.member.states import SERVING, Event, State
from hsm.member.turn import Turn

logger = logging.getLogger("hsmitm.member")

_PROOFS = 3
_PROOFS_AFTER_BAD = 20
"""Verified signatures before a member serves: twenty after one that did not verify."""
DRAIN_S = 5.0
_SLOWER = 2
"""Times its best latency: what a signature may take while the old life serves, too."""


class Surroundings(Protocol):
    """What it asks of the group."""

    failover: Failover
    turn: Turn

    def freed(self) -> None:
        """A slot is free."""

    def outage(self) -> bool:
        """Whether no member is in service."""


class Succession:
    """The processes of one member."""

    def __init__(
        self,
        settings: MemberSettings,
        standing: Standing,
        starter: Starter,
        group: Surroundings,
        proofs_changed: Callable[[], None],
        others_bear: Callable[[Set[str]], bool],
    ) -> None:
        """`proofs_changed` is called when other keys are proved than before; `others_bear` says whether other members
        have served each of some keys long enough to bear the load a moment longer."""
        self.settings = settings
        """Those of the next start; `rebuild` alone changes them."""
        self.attempts = 0
        self.next_attempt = 0.0
        self._standing = standing
        self._starter = starter
        self._group = group
        self._proofs_changed = proofs_changed
        self._others_bear = others_bear
        self._examination = Examination(standing, group)
        self._was_up = False
        self._again = asyncio.Event()
        self._sessions_told = self._use_told = 0
        self._rebuilding = asyncio.Lock()

    async def run(self) -> None:
        """Start, watch, back off, start again; until cancelled."""
        standing, failures = self._standing, 0
        standing.begin()
        try:
            while True:
                self._again.clear()
                self.attempts += 1
                self.next_attempt = 0.0
                standing.move(Event.AGAIN, f"start {self._starter.starts + 1}")
                up_at = 0.0
                try:
                    life = await self._start()
                except (HsmitmError, OSError) as error:
                    standing.note_error(str(error))
                    standing.move(states.event_for(error, was_up=self._was_up), str(error))
                except Exception as error:  # a bug of ours must not leave the signer waiting for this member for ever
                    logger.exception("starting member %s failed", standing.name)
                    standing.note_error(f"internal error: {error}")
                    standing.move(Event.LOST, f"internal error: {error}")
                else:
                    up_at = time.monotonic()
                    self._adopt(life, gently=self._was_up and self._others_bear(life.proved))
                    self.attempts = 0
                    opened = life.opened
                    self._warn_of_few_sessions(life)
                    text = f"process {life.process.pid}, partition {opened.partition}, {opened.sessions} sessions"
                    standing.move(Event.OPENED, text)
                    await self._watch()
                if standing.state in (State.DRAINING, State.STOPPED):
                    await asyncio.Event().wait()  # `stop` does the rest, and ends this task
                await self.discard()
                if standing.state is State.QUARANTINED:
                    await self._again.wait()
                    failures = 0
                    continue
                failures = states.failures_after(failures, time.monotonic() - up_at if up_at else 0.0)
                await self._back_off(failures)
        finally:
            await self.discard()

    async def _start(self) -> Life:
        """A new life. Nothing of the member changes: an old one may serve meanwhile."""
        proofs = _PROOFS_AFTER_BAD if self._standing.gave_bad_signature else _PROOFS
        while True:
            life = await self._starter.start(
                self.settings,
                self._group.failover,
                proofs=proofs,
                at_once=not self._was_up,
                last_error=self._standing.last_error,
            )
            if life.held.knows(self._starter.keys):
                return life
            await life.process.end()  # it was given other keys meanwhile

    def _adopt(self, life: Life, *, gently: bool = False) -> None:
        """`gently`: its HSM was away, and others serve: it gets its share little by little."""
        now = life.up_at = time.monotonic()
        life.ramp_from = now if gently else now - RAMP_S
        life.freed = self._group.freed
        life.held.changed = self._proofs_changed
        if gone := life.found.keys() - self._starter.keys.keys():
            life.held.forget(gone)
        self._standing.life, self._standing.opened = life, life.opened
        self._was_up = True
        self._examination.begin()

    async def _watch(self) -> None:
        """Until the member is not in service any more; then the state says so already."""
        standing = self._standing
        while standing.state in SERVING and standing.life is not None:
            life, until_test_s = standing.life, self._examination.due_in_s()
            if life.lost:
                how = await life.process.how_it_ended()
                if life is standing.life:
                    standing.lose(f"member process {life.process.pid}: {how}")
            elif self._rebuilding.locked():
                await self._wait_for_attention(EXAMINE_EVERY_S)  # the new life decides
            elif standing.state is State.SUSPECT:
                await self._examination.examine(life, self._rebuilding)
            elif until_test_s <= 0:
                await self._keep_alive(life)
            else:
                await self._wait_for_attention(until_test_s)

    async def _keep_alive(self, life: Life) -> None:
        vital = await self._examination.keep_alive(life)
        if vital is None:
            return
        self._warn_of_few_sessions(life)
        self._use_told = _tell_of_use(self._standing.name, life, self._use_told)
        if hangs(vital, self._group.failover.hang_s, life.pace):
            await self._replace(life, f"a session has not answered for {vital.oldest_s:.1f} s")

    def _warn_of_few_sessions(self, life: Life) -> None:
        """Once, and again when it is another number."""
        if life.sessions < self.settings.sessions and life.sessions != self._sessions_told:
            logger.warning(
                "member %s has %d of %d sessions; its token has no room for more",
                self._standing.name, life.sessions, self.settings.sessions,
            )  # fmt: skip
        self._sessions_told = life.sessions

    async def _back_off(self, failures: int) -> None:
        jitter, since = random.random(), time.monotonic()  # noqa: S311  # no secret
        while not self._again.is_set():
            # An HSM that nobody has seen yet may never come: it is not asked so often for ever.
            outage = self._group.outage() and (self._was_up or failures <= states.EAGER_STARTS)
            pause = states.backoff_s(failures, jitter, outage=outage)
            left = since + pause - time.monotonic()
            if left <= 0:
                return
            self.next_attempt = time.time() + left
            await self._wait_for_attention(left)

    async def _wait_for_attention(self, at_most_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._standing.attention.wait()
        self._standing.attention.clear()

    async def discard(self) -> None:
        """End the running process, if there is one."""
        life, self._standing.life = self._standing.life, None
        if life is not None:
            await life.process.end()

    # a new life beside the old one

    async def _replace(self, life: Life, reason: str) -> None:
        """Sessions of a life hang while others serve: build a new life beside it, or lose it where that fails."""
        if life is not self._standing.life or self._rebuilding.locked() or not self._standing.serving:
            return  # it is being replaced already, or was lost meanwhile: to start it anew is this task's own business
        if not self._group.turn.free:  # not waited for: who has the turn may be waiting for this very task
            self._standing.ask_for_test()  # which looks at the sessions again, and comes here
            return
        logger.warning("member %s: %s; replacing its process", self._standing.name, reason)
        self._standing.note_error(reason)
        try:
            async with self._group.turn.taken():
                await self.rebuild(None, life.pace.due_s(None, least_s=self._group.failover.attempt_timeout_s))
        except HsmitmError as error:
            if life is self._standing.life:
                self._standing.lose(f"{reason}, and a new process does not start: {error}")

    async def rebuild(self, settings: MemberSettings | None, drain_s: float) -> str:
        """As `Member.reset`, which calls it."""
        async with self._rebuilding:
            standing, before = self._standing, self.settings
            self.settings = settings or before
            # Others wait for their turn, so there is an end to it.
            until = asyncio.get_running_loop().time() + self.settings.start_timeout_s + self._proofs_s()
            if not standing.serving:
                done = await self._start_now(until)
                if standing.life is not None and standing.life.settings == self.settings:
                    return done
            old = standing.life
            try:
                life = await self._start_until(until)
            except BaseException as error:
                self.settings = before
                standing.attention.set()
                if isinstance(error, OSError):
                    raise TryLaterError(f"cannot start a process: {error.strerror}") from error
                raise
            if old is None or old is not standing.life or standing.state not in SERVING:
                await life.process.end()
                return "it was lost meanwhile and is started afresh"
            self._adopt(life)
            standing.clear("new sessions")
            logger.info("member %s: new sessions in process %d; the old ones drain", standing.name, life.process.pid)
            self._proofs_changed()
            await _drain(old, drain_s)
            standing.attention.set()
            return f"new sessions in process {life.process.pid}, {life.opened.sessions} of them; the old ones are gone"

    def _proofs_s(self) -> float:
        """How long the signatures that prove a new life may take, at the pace of the one that runs."""
        life = self._standing.life
        challenges = sum(len(key.schemes) if key.inbound else 1 for key in self._starter.keys.values())
        return _SLOWER * challenges * life.health.quickest_s if life is not None else 0.0

    async def _start_until(self, until: float) -> Life:
        """A new life with its keys proved by `until`, on the loop's clock."""
        try:
            async with asyncio.timeout_at(until):
                return await self._start()
        except TimeoutError as error:
            seconds = self.settings.start_timeout_s + self._proofs_s()
            raise DeadlineError(f"it did not start within {seconds:.1f} s") from error

    async def _start_now(self, until: float) -> str:
        standing = self._standing
        was, errors = standing.state, standing.last_error_at
        standing.settled.clear()
        self._again.set()
        standing.attention.set()
        try:
            async with asyncio.timeout_at(until):
                await standing.settled.wait()
        except TimeoutError:
            raise TryLaterError(f"member {standing.name} is {standing.state}: {standing.reason}") from None
        if standing.serving:
            return f"it was {was} and is {standing.state} again"
        if standing.state is State.QUARANTINED:
            raise MisconfiguredError(f"member {standing.name} is quarantined: {standing.reason}")
        why = standing.last_error if standing.last_error_at > errors else standing.reason
        raise TryLaterError(f"member {standing.name} is down: {why}")


def _tell_of_use(member: str, life: Life, told: int) -> int:
    """Say once for a member whose sessions are not all of use, and again when it is another number. What was told."""
    pace = life.pace
    use = round(pace.engines) if pace.usual_s >= QUICK_S and pace.useful < life.sessions else 0
    if not use or abs(use - told) <= 0.5 * told:
        return told
    logger.info(
        "member %s works on about %d at a time, %.0f ms each; other requests wait in the signer, whatever its "
        "%d sessions",
        member, use, 1000 * pace.usual_s, life.sessions,
    )  # fmt: skip
    return use


async def _drain(life: Life, seconds: float) -> None:
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await life.idle.wait()
    finally:
        await life.process.end()
