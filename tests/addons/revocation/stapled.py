"""A site whose responses are kept fresh, on a clock of the test's."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from pathlib import Path

from addons.revocation.keeper import Keeper
from addons.revocation.staples import Source, Staples
from tests.addons.revocation.ocsp_responder import NOW, Authority, der

CA = Authority()
MINUTE = dt.timedelta(minutes=1)


class Time:
    """A clock that stands still until the test moves it, and the sleepers on it."""

    def __init__(self) -> None:
        self.now = NOW
        self._sleepers: list[tuple[dt.datetime, asyncio.Future[None]]] = []
        self._slept = asyncio.Event()

    def clock(self) -> dt.datetime:
        return self.now

    def seconds(self) -> float:
        """The same, as the signer's."""
        return self.now.timestamp()

    async def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 60
        waking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + dt.timedelta(seconds=seconds), waking))
        self._slept.set()
        try:
            await waking
        except asyncio.CancelledError:
            self._sleepers = [one for one in self._sleepers if one[1] is not waking]
            raise

    async def asleep(self, number: int = 1) -> None:
        """Return once that many tasks have nothing to do."""
        async with asyncio.timeout(10):
            while len(self._sleepers) < number:
                self._slept.clear()
                await self._slept.wait()

    async def jump(self, span: dt.timedelta) -> None:
        """Move the clock at one stroke; who sleeps wakes after his time or, at the latest, now."""
        self.now += span
        sleepers, self._sleepers = self._sleepers, []
        for _, waking in sleepers:
            waking.set_result(None)
        await self.asleep(len(sleepers))

    async def pass_by(self, span: dt.timedelta) -> None:
        """Let time go by, from one sleeper's end to the next."""
        end, number = self.now + span, len(self._sleepers)
        while self._sleepers and (first := min(at for at, _ in self._sleepers)) <= end:
            self.now = first
            due = [waking for at, waking in self._sleepers if at <= first]
            self._sleepers = [(at, waking) for at, waking in self._sleepers if at > first]
            for waking in due:
                waking.set_result(None)
            await self.asleep(number)
        self.now = end


class Site:
    """A certificate and what is stapled to it."""

    def __init__(self, where: Path | str, *, name: str = "shop") -> None:
        """`where`: the file, or a responder's URL."""
        self.leaf = CA.leaf(*([where] if isinstance(where, str) else []))
        self.put: list[bytes | None] = []
        self.source = Source(
            name, der(self.leaf), der(CA.certificate), where if isinstance(where, Path) else "fetch", self.put.append
        )

    @property
    def stapled(self) -> bytes | None:
        return self.put[-1] if self.put else None


def keeping(time: Time, *sites: Site, keeper: Keeper | None = None) -> Staples:
    """What a worker does for `sites`."""
    return Staples([one.source for one in sites], keeper, clock=time.clock, sleep=time.sleep)


Lines = Callable[[], list[tuple[str, str]]]
"""What was logged since it was last asked: level and text."""
