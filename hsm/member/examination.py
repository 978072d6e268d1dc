"""The examination of a member: that it lives, that it signs, and whether a doubted one is cleared or lost.

`hsm.member.succession` calls it from the member's task, so that one thing is examined at a time. It changes nothing
but by `hsm.member.standing`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from hsm import codes
from hsm.backoff import Backoff
from hsm.codes import Kind
from hsm.errors import BadSignatureError, DeadlineError, HsmitmError, KeyLostError
from hsm.member.health import hangs
from hsm.member.life import Life
from hsm.member.proofs import PROOF_TIMEOUT_S
from hsm.member.settings import Failover
from hsm.member.standing import Standing
from hsm.member.states import State
from hsm.wire.member import Vital

ASKED_TEST_EVERY_S = 0.2
"""Test signatures that failed requests ask for, at most one in this time: bad input must not drive them."""
LOOK_FOR_KEYS_EVERY_S = 30.0
EXAMINE_EVERY_S = 0.02
_SEARCHES = 3
"""Times what it took to open the partition and find the keys, for looking for them again."""
_EXAMINATIONS = 5
"""Test signatures of a doubted member: it is cleared by the first that succeeds, lost when all fail. One that is merely
throttled, or that answered a handful of requests badly, is not restarted."""
_BUSY = Backoff(EXAMINE_EVERY_S, 0.5)
"""Between test signatures of a doubted member whose token has no room: that clears nobody, and is no failure."""


class Rules(Protocol):
    """What it asks of the group: how long an answer may take now."""

    failover: Failover


class Examination:
    """The tests of one member, life after life."""

    def __init__(self, standing: Standing, rules: Rules) -> None:
        self._standing = standing
        self._rules = rules
        self._tested_at = 0.0
        self._looked_at = 0.0

    def begin(self) -> None:
        """A new life has just proved itself."""
        self._looked_at = self._tested_at = time.monotonic()

    def due_in_s(self) -> float:
        """Seconds until the next test signature; 0 or less: now."""
        every = ASKED_TEST_EVERY_S if self._standing.test_asked else self._rules.failover.keep_alive_s
        return self._tested_at + every - time.monotonic()

    async def keep_alive(self, life: Life) -> Vital | None:
        """Find out that a member is lost before a client does. How its sessions are, where it told; whether one of
        them hangs is the caller's to see, and then no test is made: it would only queue."""
        self._standing.test_asked = False
        self._tested_at = time.monotonic()
        failover = self._rules.failover
        vital = None
        try:
            vital = await life.vital(self._tested_at + failover.attempt_timeout_s)
            if hangs(vital, failover.hang_s, life.pace):
                return vital
            await life.test(time.monotonic() + life.pace.due_s(None, least_s=failover.attempt_timeout_s))
            looked_s = time.monotonic() - self._looked_at
            every_s = 0.0 if life.held.look_soon else LOOK_FOR_KEYS_EVERY_S
            if not life.proved or (life.held.may_be_more and looked_s > every_s):
                self._looked_at = time.monotonic()
                await life.look_again(self._looked_at + max(failover.hang_s, _SEARCHES * life.opened_in_s))
        except HsmitmError as error:
            self._standing.conclude_test(life, error)
        return vital

    async def examine(self, life: Life, decided: asyncio.Lock) -> None:
        """A SUSPECT member signs a test, or is lost. While `decided` is held a new life beside it decides instead."""
        standing = self._standing
        until = time.monotonic() + self._rules.failover.hang_s
        failed = busy = 0
        while life is standing.life and standing.state is State.SUSPECT and not life.lost and not decided.locked():
            try:
                await self._examined(life, until)
            except DeadlineError as error:
                if decided.locked() or life is not standing.life:
                    return
                standing.lose(f"it hangs: {error} to its test signature")
            except HsmitmError as error:
                if life is not standing.life:
                    return
                if codes.called_for(error) is Kind.BUSY:
                    busy += 1
                    standing.conclude_test(life, error)
                    await asyncio.sleep(_BUSY.after(busy))
                    continue
                failed += 1
                if failed >= _EXAMINATIONS or isinstance(error, (BadSignatureError, KeyLostError)):
                    standing.conclude_test(life, error)
                    standing.lose(f"its test signatures fail: {error}")
                await asyncio.sleep(EXAMINE_EVERY_S)
            else:
                life.health.clear()
                standing.test_asked = False
                self._tested_at = time.monotonic()
                if life is standing.life:
                    standing.clear("its test signature is good")

    async def _examined(self, life: Life, until: float) -> None:
        """A test signature, for as long as other calls come back from the module: then it is slow, and does not hang.
        Raises DeadlineError where none does, or where the process itself does not answer; and what `Life.test` does."""
        failover = self._rules.failover
        test: asyncio.Task[None] | None = None
        try:
            while True:
                try:
                    vital = await life.vital(time.monotonic() + failover.attempt_timeout_s)
                except DeadlineError:
                    # Other answers say that it is slow, not dead; but not for ever.
                    if life.process.channel.silent_s < 0.9 * failover.attempt_timeout_s and time.monotonic() < until:
                        continue
                    raise
                test = test or asyncio.create_task(life.test(time.monotonic() + PROOF_TIMEOUT_S))
                left_s = life.pace.silence_s(least_s=failover.hang_s) - vital.silent_s
                if left_s <= 0:
                    raise DeadlineError(f"nothing has come back from the module for {vital.silent_s:.1f} s, no answer")
                await asyncio.wait({test}, timeout=min(failover.attempt_timeout_s, left_s + EXAMINE_EVERY_S))
                if test.done():
                    return test.result()
        finally:
            if test is not None:
                test.cancel()
                await asyncio.gather(test, return_exceptions=True)
