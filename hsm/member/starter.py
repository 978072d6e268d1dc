"""Starts the process of a member: PIN, exec, login, keys proved. Called by `hsm.member.member`, which decides when.

There is one login for each start at most; which PIN is tried is decided in `hsm.member.login`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping

from hsm.errors import DeadlineError
from hsm.member import states
from hsm.member.health import Health
from hsm.member.key import Key
from hsm.member.life import Life
from hsm.member.login import Login
from hsm.member.metrics import MemberMetrics
from hsm.member.pace import Pace
from hsm.member.process import MemberProcess
from hsm.member.proofs import PROOF_TIMEOUT_S
from hsm.member.settings import Failover, MemberSettings
from hsm.member.slots import QUICK_S
from hsm.secrets import pin
from hsm.secrets.refusals import Refusals
from hsm.wire.member import Open

logger = logging.getLogger("hsmitm.member")

START_FLOOR_S = 2.0
_OVERDUE = 5
"""Starts in a row that did not end in time, until the next ones have twice as much."""
_TOGETHER = 4
"""Test signatures of a slow HSM at a time."""
_PACE_S = 0.06
"""Between the sessions of a member that comes back: at most twenty a second."""


class Starter:
    """Starts one member, again and again."""

    def __init__(
        self,
        name: str,
        keys: Mapping[str, Key],
        refusals: Refusals,
        metrics: MemberMetrics,
        prompted: str | None,
        on_lost: Callable[[], None],
    ) -> None:
        """`prompted` is the PIN that a prompt got; `on_lost` is called when a process that was started ends."""
        self.starts = 0
        self.keys = keys
        """The keys that the next life looks for. `Member.assign` changes them."""
        self.asked = False
        """An operator asked for a start: the next login may be one that is not tried otherwise. `Member.reset` sets
        it, and it stands until that login is made."""
        self._name = name
        self._refusals = refusals
        self._metrics = metrics
        self._prompted = prompted
        self._on_lost = on_lost
        self._process: MemberProcess | None = None
        self._latest: Life | None = None
        self._slowest_s = 0.0
        self._overdue = 0
        self._times: deque[float] = deque(maxlen=states.CRASH_LOOP + 1)

    @property
    def pid(self) -> int:
        """The process that is being started, 0 where none is."""
        return self._process.pid if self._process else 0

    async def start(
        self, settings: MemberSettings, failover: Failover, *, proofs: int, at_once: bool, last_error: str
    ) -> Life:
        """A new life with its keys proved, by at least `proofs` signatures where it holds a key. `at_once` opens its
        sessions together; `last_error` is why it is started. Raises HsmitmError, OSError."""
        self._count(last_error)
        secret = await pin.read(settings.pin, settings.base, self._prompted)
        login = Login(
            member=self._name,
            source=settings.pin,
            secret=secret,
            place=settings.place,
            refusals=self._refusals,
            asked=self.asked,
        )
        await login.check()
        started = time.monotonic()
        keys = self.keys
        process = self._process = await MemberProcess.spawn(settings.environment, self._on_lost)
        opening = Open(
            settings.module,
            settings.selector,
            None,
            settings.sessions,
            {name: key.uri for name, key in keys.items()},
            spkis={name: key.spki for name, key in keys.items()},
            anywhere=[name for name, key in keys.items() if key.members is None],
            writable=settings.read_write,
            keep_alive_s=failover.keep_alive_s,
            session_every_s=0.0 if at_once else _PACE_S,
            codes=settings.codes,
            user_type=settings.user_type,
        )
        longest_s = settings.start_timeout_s
        try:
            begun = time.monotonic()
            opened = await login.opened(process, opening, quick_s=self._timeout_s(longest_s), longest_s=longest_s)
            life = Life(self._name, process, opened, keys, self._metrics, self._pace_before(settings))
            life.settings, life.opened_in_s = settings, time.monotonic() - begun
            await life.prove()
            await self._test(life, proofs - sum(map(len, life.held.made.schemes.values())))
        except BaseException as error:
            self._overdue += isinstance(error, DeadlineError)
            await process.end()
            raise
        finally:
            self.asked = login.asked
            self._process = None
        self._slowest_s = max(self._slowest_s, time.monotonic() - started)
        self._latest, self._overdue = life, 0
        return life

    async def _test(self, life: Life, number: int) -> None:
        """So many test signatures. An HSM that is slow is asked for some at a time when it is started first: whether
        that helps is known then before clients ask."""
        first = self._latest is None and life.pace.usual_s >= QUICK_S
        together = min(_TOGETHER, life.sessions) if first else 1
        for _ in range(max(math.ceil(number / together), int(first))):
            deadline = time.monotonic() + PROOF_TIMEOUT_S
            await asyncio.gather(*(life.test(deadline) for _ in range(together)))
        if together > 1:
            life.health = Health(life.pace.usual_s)  # what they took together is not what one takes

    def _pace_before(self, settings: MemberSettings) -> Pace | None:
        """Of the latest life, where it was on the same partition."""
        before = self._latest
        if before is None or before.settings is None:
            return None
        same = (before.settings.module, before.settings.selector) == (settings.module, settings.selector)
        return before.pace if same else None

    def _count(self, last_error: str) -> None:
        self.starts += 1
        self._times.append(time.monotonic())
        if len(self._times) > states.CRASH_LOOP and self._times[-1] - self._times[0] < states.CRASH_LOOP_S:
            logger.error(
                "member %s was started %d times within a minute; last error: %s",
                self._name, len(self._times), last_error or "none",
            )  # fmt: skip
            self._times.clear()

    def _timeout_s(self, longest_s: float) -> float:
        """Once it is known how long a start takes, one that hangs is not waited for in full: the next may succeed.
        Where several in a row did not, it may be that a start takes longer now."""
        usual_s = max(START_FLOOR_S, 10 * self._slowest_s) * 2 ** (self._overdue // _OVERDUE)
        return min(longest_s, usual_s) if self._slowest_s else longest_s
